"""Multiply-accumulates per second of audio."""

from math import prod

import onnx

from trtasr.graph.tensors import attribute, sites


def macs_per_second(model: onnx.ModelProto, frames_per_second: float) -> dict[str, int]:
    """Multiply-accumulates per second of audio (batch 1) of each node with a constant weight in an FP32 graph.

    A weight is applied once per output position, so a node costs (number of weights) x (positions per second);
    positions per second are the frame rate divided by the strides of the convolutions up to and including the node.
    Other operators are taken to keep the rate of their first data input.

    Args:
        model: FP32 graph.
        frames_per_second: frame rate of the float inputs in Hz.

    Returns:
        node name -> multiply-accumulates per second.
    """
    weights = {site.node: prod(site.weight_shape) for site in sites(model)}
    rates = {value.name: frames_per_second for value in model.graph.input}
    costs: dict[str, int] = {}
    for node in model.graph.node:
        rate = next((rates[name] for name in node.input if name in rates), frames_per_second)
        if node.op_type == "Conv":
            rate /= attribute(node, "strides", [1])[-1]
        rates.update(dict.fromkeys(node.output, rate))
        if node.name in weights:
            costs[node.name] = round(weights[node.name] * rate)
    return costs
