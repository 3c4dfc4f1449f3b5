"""Work and memory traffic of every weighted layer at one input shape."""

from math import prod

import onnx

from trtasr.graph.tensors import attribute, sites
from trtasr.values import Site, Traffic


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
    described = {site.node: site for site in sites(model)}
    lengths = {value.name: frames for value in model.graph.input}
    found = []
    for node in model.graph.node:
        before = next((lengths[name] for name in node.input if name in lengths), frames)
        after = -(-before // attribute(node, "strides", [1])[-1]) if node.op_type == "Conv" else before
        lengths.update(dict.fromkeys(node.output, after))
        if node.name in described:
            found.append(_traffic(described[node.name], batch * before, batch * after))
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
