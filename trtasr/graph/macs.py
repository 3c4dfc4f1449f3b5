"""Multiply-accumulates per second of audio."""

from collections.abc import Container
from math import prod

import onnx
from onnx import NodeProto

from trtasr.graph.edit import outline
from trtasr.graph.tensors import attribute, rows_per_frame, sites

STRIDED = ("Conv", "MaxPool")


def macs_per_second(model: onnx.ModelProto, frames_per_second: float) -> dict[str, int]:
    """Multiply-accumulates per second of audio (batch 1) of each node with a constant weight in an FP32 graph.

    A weight is applied once per output position, so a node costs (number of weights) x (positions per second);
    positions per second are the frame rate divided by the strides of the convolutions up to and including the node,
    times the rows of a two-dimensional output. Other operators are taken to keep the rate of their first input.
    Products of two activations are not counted: their work grows with the square of the length.

    Args:
        model: FP32 graph.
        frames_per_second: frame rate of the float inputs in Hz.

    Returns:
        node name -> multiply-accumulates per second.
    """
    weights, rows = {site.node: prod(site.weight_shape) for site in sites(model)}, rows_per_frame(outline(model))
    rates = {value.name: frames_per_second for value in model.graph.input}
    costs: dict[str, int] = {}
    for node in model.graph.node:
        rate = next((rates[name] for name in node.input if name in rates), None)
        if rate is None:
            continue
        rate *= steps_per_frame(node, rates)
        rates.update(dict.fromkeys(node.output, rate))
        if node.name in weights:
            costs[node.name] = round(weights[node.name] * rate * rows.get(node.output[0], 1))
    return costs


def steps_per_frame(node: NodeProto, rates: Container[str]) -> float:
    """Steps in time that a node makes per step of its input.

    Conformer's position table is a Range from T down to -(T - 1): two distances per frame. Masks start at a constant.

    Args:
        node: any.
        rates: names of the tensors that have a length.
    """
    if node.op_type in STRIDED:
        return 1 / float(attribute(node, "strides", [1])[0])
    return 2.0 if node.op_type == "Range" and node.input[0] in rates else 1.0
