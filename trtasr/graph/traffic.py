"""Work and memory traffic of every weighted layer at one input shape."""

from collections.abc import Mapping
from dataclasses import replace
from math import ceil, prod

import onnx

from trtasr.graph.edit import consumers, outline
from trtasr.graph.macs import steps_per_frame
from trtasr.graph.tensors import rows_per_frame, sites
from trtasr.results import Traffic
from trtasr.values import Site

FUSED = ("Relu", "Mul")  # computed with the layer before them; a product is a mask's


def layer_traffic(model: onnx.ModelProto, batch: int, frames: int) -> tuple[Traffic, ...]:
    """Multiply-accumulates and elements moved by each node with a constant weight, in graph order.

    Frames shrink by the strides of the convolutions passed, rounded up (the convolutions pad); every other operator
    keeps the frames of its first data input. Operators without weights (ReLU, masks, residual adds) are taken to be
    fused into their neighbours and move nothing.

    Args:
        model: FP32 graph.
        batch: utterances.
        frames: feature frames per utterance.
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
            traffic = _traffic(described[node.name], *positions)
            found.append(replace(traffic, readers=_readers(node.output[0], model, described)))
    return tuple(found)


def _readers(name: str, model: onnx.ModelProto, described: Mapping[str, Site]) -> tuple[str, ...]:
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


def _traffic(site: Site, positions_in: int, positions_out: int) -> Traffic:
    weights = prod(site.weight_shape)
    return Traffic(
        node=site.node,
        macs=weights * positions_out,
        inputs=site.in_channels * positions_in,
        outputs=site.out_channels * positions_out,
        weights=weights,
        depthwise=site.groups > 1,
    )
