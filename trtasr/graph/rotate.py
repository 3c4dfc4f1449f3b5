"""Nodes that rotate the channels of a tensor (`trtasr.quant.rotation`) in front of what rounds it."""

from collections.abc import Collection, Mapping
from functools import partial

import numpy as np
import onnx
from onnx import NodeProto, TensorProto
from onnx.helper import make_node

from trtasr.graph.edit import constants, producers, tensor
from trtasr.graph.pointwise import channels_read, per_position
from trtasr.quant.rotation import ORDERS, butterflies, order
from trtasr.values import ScaleTable

ACTIVATIONS = ("Gelu", "Relu", "Mul")  # functions of one tensor, or a gate times a tensor: Swish, SwiGLU


def rotated_layers(model: onnx.ModelProto, table: ScaleTable, int8: Collection[str]) -> set[str]:
    """Layers with a scale per position whose channels are rotated: pointwise convolutions, second feed-forward layers.

    Behind an activation function few channels are large, others in every position: four at a time, what such a linear
    layer computes of speech has 4 dB less noise (of Whisper tiny.en, Moonshine tiny, Conformer small alike). Behind
    layer norms smoothing does as much and costs no kernel. Where a table has corrected weights, no layer is rotated:
    they lie on the grid of its scales, which a rotation would leave.

    Args:
        model: FP32 graph.
        table: of this graph.
        int8: names of the quantized nodes.
    """
    if any(values.ndim > 1 for values in table.corrected.values()):
        return set()
    return turned(model) & set(int8)


def turned(model: onnx.ModelProto) -> set[str]:
    """Names of all such layers of a graph."""
    alone, made_by, stored = per_position(model), producers(model), constants(model)
    return {node.name for node in model.graph.node if node.name in alone and turns(node, made_by, stored)}


def turns(node: NodeProto, made_by: Mapping[str, NodeProto], stored: Mapping[str, TensorProto]) -> bool:
    """Whether one is a convolution, or a linear layer behind an activation function, whose channels can be mixed."""
    before = made_by.get(node.input[0])
    chosen = node.op_type == "Conv" or (before is not None and before.op_type in ACTIVATIONS)
    return chosen and order(channels_read(node, stored[node.input[1]])) > 1


def rotation_nodes(rows: str, channels: int) -> tuple[list[NodeProto], str]:
    """From ``rows`` [..., C] to ``rows``_rotated, with the factor first: FP16 could not hold the sum of four.

        r -> Mul(1/2) -> Split(4) -> sums and differences of quarters -> Concat -> R r

    Args:
        rows: tensor, channels last.
        channels: C; no node where it is odd.

    Returns:
        the nodes, which read `rotation_constants`, and the name of their result.
    """
    size = order(channels)
    if size == 1:
        return [], rows
    half, whole, parts = f"{rows}_half", f"{rows}_rotated", [f"{rows}_part{index}" for index in range(size)]
    nodes = [
        make_node("Mul", [rows, factor(size)], [half], name=f"{rows}/Half"),
        make_node("Split", [half], parts, name=f"{rows}/Split", axis=-1, num_outputs=size),
    ]

    def emit(kind: str, one: str, other: str) -> str:
        made = f"{rows}_mixed{len(nodes)}"
        nodes.append(make_node(kind, [one, other], [made], name=made))
        return made

    mixed = butterflies(parts, partial(emit, "Add"), partial(emit, "Sub"))
    return [*nodes, make_node("Concat", mixed, [whole], name=f"{rows}/Concat", axis=-1)], whole


def factor(size: int) -> str:
    """Name of the constant 1 / sqrt(size)."""
    return f"rotation_{size}"


def rotation_constants() -> list[TensorProto]:
    """What `rotation_nodes` reads."""
    return [tensor(factor(size), np.float32(1 / np.sqrt(size))) for size in ORDERS]
