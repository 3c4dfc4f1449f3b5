"""Pointwise convolution -> matrix product."""

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper
from onnx.helper import make_node

from trtasr.graph.edit import constants, producers, rebuilt, tensor
from trtasr.graph.tensors import attribute

PRODUCTS = ("Conv", "MatMul")
ABSMAX = "/absmax"  # ends the name of the node that multiplies a product by the magnitudes of its rows


def pointwise_to_matmul(model: onnx.ModelProto) -> onnx.ModelProto:
    """Lower every convolution of kernel 1, stride 1, group 1, no padding, over one or two axes, to a matrix product.

        x [B,I,T] -> Conv(W [O,I,1], b) -> y [B,O,T]
    becomes
        x -> Transpose -> MatMul(W' [I,O]) -> Add(b) -> Transpose -> y

    The weight may be constant or int8 behind a DequantizeLinear: channel axis 0 of W is axis 1 of W' = W[:, :, 0].T,
    with the same per-channel scales, so the pass may run before or after Q/DQ insertion. A Q/DQ pair on x stays in
    front of the Transpose (one scale per tensor commutes with it). The MatMul takes the convolution's name.

    TensorRT for RTX has INT8 matrix products on sm_75 but no INT8 convolutions. MatMul(x, W) keeps the weight
    constant; MatMul(W, x) would replicate it per batch item.
    """
    weights, made_by = constants(model), producers(model)
    nodes: list[NodeProto] = []
    added: dict[str, TensorProto] = {}
    for node in model.graph.node:
        dequantize = made_by.get(node.input[1]) if node.op_type == "Conv" else None
        source = node.input[1] if node.op_type == "Conv" and dequantize is None else None
        if dequantize is not None and dequantize.op_type == "DequantizeLinear":
            source = dequantize.input[0]
        if source not in weights or not is_pointwise(node, weights[source]):
            nodes.append(node)
            continue
        columns = f"{source}_columns"
        if columns not in added:
            weight = numpy_helper.to_array(weights[source])
            added[columns] = tensor(columns, np.ascontiguousarray(weight.reshape(weight.shape[:2]).T))
            if dequantize is not None:
                nodes.append(dequantize_columns(dequantize, columns))
        rank, rows = len(weights[source].dims), f"{node.name}_rows"
        to_rows = [0, *range(2, rank), 1]
        nodes.append(make_node("Transpose", [node.input[0]], [rows], name=f"{node.name}/rows", perm=to_rows))
        nodes += product_nodes(node, rows, columns if dequantize is None else f"{columns}_dequantized", rank)
    return rebuilt(model, nodes, [*model.graph.initializer, *added.values()])


def per_position(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes of an FP32 graph that are a product with a stored weight in every position for itself."""
    stored = constants(model)
    weighted = [node for node in model.graph.node if node.op_type in PRODUCTS and node.input[1] in stored]
    return {node.name for node in weighted if node.op_type == "MatMul" or is_pointwise(node, stored[node.input[1]])}


def channels_read(node: NodeProto, weight: TensorProto) -> int:
    """Input channels of such a node: of a weight [I, O] of a MatMul, [O, I, ...] of a convolution."""
    return int(weight.dims[0 if node.op_type == "MatMul" else 1])


def is_pointwise(node: NodeProto, weight: TensorProto) -> bool:
    """True for a convolution that is a product with its weight [O, I, 1] (or [O, I, 1, 1]) in every frame."""
    return (
        all(size == 1 for size in weight.dims[2:])
        and attribute(node, "group", 1) == 1
        and all(stride == 1 for stride in attribute(node, "strides", [1]))
        and not any(attribute(node, "pads", [0, 0]))
    )


def dequantize_columns(original: NodeProto, columns: str) -> NodeProto:
    """The DequantizeLinear of a weight [O, I, k], for its matrix [kI, O] ``columns`` -> ``columns``_dequantized."""
    axis = None if attribute(original, "axis", None) is None else 1
    inputs, output = [columns, *original.input[1:]], f"{columns}_dequantized"
    return make_node("DequantizeLinear", inputs, [output], name=original.name, axis=axis)


def product_nodes(node: NodeProto, rows: str, weight: str, rank: int, factor: str = "") -> list[NodeProto]:
    """A convolution's product with a matrix, its bias, and the way back to its output's layout.

    Args:
        node: convolution; the MatMul takes its name, the last node its output.
        rows: its input, channels last.
        weight: matrix [in, out].
        rank: of the convolution's output.
        factor: one number per row [B, ..., 1] that the product is multiplied by before its bias; empty: none.
    """
    base, product = node.name, f"{node.output[0]}_product"
    nodes = [make_node("MatMul", [rows, weight], [product], name=base)]
    if factor:
        nodes.append(make_node("Mul", [product, factor], [f"{product}_scaled"], name=f"{base}{ABSMAX}"))
    if len(node.input) > 2 and node.input[2]:
        nodes.append(make_node("Add", [nodes[-1].output[0], node.input[2]], [f"{product}_biased"], name=f"{base}/bias"))
    to_columns = [0, rank - 1, *range(1, rank - 1)]
    return [*nodes, make_node("Transpose", nodes[-1].output, node.output, name=f"{base}/columns", perm=to_columns)]
