"""Work of every weighted layer per second of audio, and its work and memory traffic at one input shape."""

from collections.abc import Container, Mapping
from dataclasses import replace
from math import ceil, prod

import onnx
from onnx import NodeProto

from trtasr.graph.edit import consumers, outline
from trtasr.graph.tensors import attribute, rows_per_frame, sites
from trtasr.results import Traffic
from trtasr.values import Site

FUSED = ("Relu", "Mul")  # computed with the layer before them; a product is a mask's
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

    Conformer's position table is a Range from T down to -(T - 1): two distances per frame. Masks start at a constant,
    which is none of the tensors that have a length (``rates``).
    """
    if node.op_type in STRIDED:
        return 1 / float(attribute(node, "strides", [1])[0])
    return 2.0 if node.op_type == "Range" and node.input[0] in rates else 1.0


def layer_traffic(model: onnx.ModelProto, batch: int, frames: int, runs: int = 1) -> tuple[Traffic, ...]:
    """Multiply-accumulates and elements moved by each node with a constant weight, in graph order.

    Frames shrink by the strides of the convolutions passed, rounded up (the convolutions pad); every other operator
    keeps the frames of its first data input. Operators without weights (ReLU, masks, residual adds) are taken to be
    fused into their neighbours and move nothing.

    Args:
        model: FP32 graph.
        batch: utterances.
        frames: feature frames per utterance, or other positions, of one run.
        runs: one after the other, all counted; each reads the weights again.
    """
    described, rows = {site.node: site for site in sites(model)}, rows_per_frame(outline(model))
    lengths = {value.name: frames for value in model.graph.input}
    found = []
    for node in model.graph.node:
        before = next((lengths[name] for name in node.input if name in lengths), None)
        if before is None:
            continue
        after = ceil(before * steps_per_frame(node, lengths))
        lengths.update(dict.fromkeys(node.output, after))
        if node.name in described:
            positions = (batch * before * rows.get(node.input[0], 1), batch * after * rows.get(node.output[0], 1))
            traffic = traffic_of(described[node.name], *positions, runs)
            found.append(replace(traffic, readers=weighted_readers(node.output[0], model, described)))
    return tuple(found)


def weighted_readers(name: str, model: onnx.ModelProto, described: Mapping[str, Site]) -> tuple[str, ...]:
    """Weighted nodes behind a tensor; empty when an operator that needs floating point reads it too."""
    found: list[str] = []
    waiting, readers = [name], consumers(model)
    while waiting:
        current = waiting.pop()
        for node in readers.get(current, []):
            if node.name in described and node.input[0] == current:
                found.append(node.name)
            elif node.op_type in FUSED:
                waiting += node.output
            elif node.op_type != "Shape":
                return ()
    return tuple(found)


def traffic_of(site: Site, positions_in: int, positions_out: int, runs: int) -> Traffic:
    """What a site moves and multiplies."""
    weights = prod(site.weight_shape)
    return Traffic(
        node=site.node,
        macs=runs * weights * positions_out,
        inputs=runs * site.in_channels * positions_in,
        outputs=runs * site.out_channels * positions_out,
        weights=runs * weights,
        depthwise=site.groups > 1,
    )
