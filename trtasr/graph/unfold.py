"""Convolution over time -> matrix product of shifted copies of its input."""

from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from trtasr.graph.edit import constants, producers, rebuilt, tensor
from trtasr.graph.pointwise import dequantize_columns, is_pointwise, product_nodes
from trtasr.graph.tensors import attribute

TIME = 1  # axis of rows [B, T, C]


def unfold_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Lower every quantized convolution over one axis, group 1, that is not pointwise, to one INT8 matrix product.

        x [B,I,T] -> Q(s) -> DQ(s) -> Conv(W [O,I,k], b) -> y [B,O,U]
    becomes
        x -> Transpose -> Pad -> Gather [B,U,k,I] -> Reshape [B,U,kI] -> Q(s) -> DQ(s)
          -> MatMul(W' [kI,O]) -> Add(b) -> Transpose -> y

        W'[i I + c, o] = W[o, c, i],    row (u, i) of Gather = padded row u stride + i dilation

    The codes of W, its scales per output channel and the scale of x stay the same. A padded zero has code 0, every
    other element the code it had, so the sums are those of the Q/DQ convolution. Where something else reads the Q/DQ
    pair of x, it stays for that reader. The MatMul takes the convolution's name.

    TensorRT for RTX has INT8 matrix products on sm_75 but no INT8 convolutions. It makes one kernel of everything
    between two products (bias, ReLU, mask, Q, Gather) and quantizes before it copies. k Slices and a Concat give the
    same kernels with k branches each, 0.2 MB of code more for every layer; slices of [B,I,T], transposed behind the
    Concat, two kernels more for every layer and 1.7 times the memory.

    Args:
        model: Q/DQ graph, weights int8 behind a DequantizeLinear; not changed. Other convolutions stay.
    """
    stored, made_by = constants(model), producers(model)
    nodes: list[NodeProto] = []
    added: dict[str, TensorProto] = {}
    for node in model.graph.node:
        operands = [made_by.get(name) for name in node.input[:2]] if node.op_type == "Conv" else []
        data, weight = operands if len(operands) == 2 else (None, None)
        if data is None or weight is None or not is_unfoldable(node, data, weight, stored):
            nodes.append(node)
            continue
        codes = numpy_helper.to_array(stored[weight.input[0]])
        columns = f"{weight.input[0]}_columns"
        if columns not in added:
            added[columns] = tensor(columns, codes.transpose(2, 1, 0).reshape(-1, len(codes)))
            nodes.append(dequantize_columns(weight, columns))
        rows, constant = unfolded_rows(node, made_by[data.input[0]], codes.shape[2], codes.shape[1])
        added.update({item.name: item for item in constant})
        nodes += [*rows, *product_nodes(node, rows[-1].output[0], f"{columns}_dequantized", codes.ndim)]
    return rebuilt(model, nodes, [*stored.values(), *added.values()])


def is_unfoldable(node: NodeProto, data: NodeProto, weight: NodeProto, stored: dict[str, TensorProto]) -> bool:
    """Whether a convolution over time, not grouped, has quantized input and weight."""
    if data.op_type != "DequantizeLinear" or weight.op_type != "DequantizeLinear" or weight.input[0] not in stored:
        return False
    codes = stored[weight.input[0]]
    return len(codes.dims) == 3 and attribute(node, "group", 1) == 1 and not is_pointwise(node, codes)


def unfolded_rows(
    node: NodeProto, quantize: NodeProto, size: int, channels: int
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes from the float input to dequantized rows [B, U, size channels], in order, and the constants they read."""
    stride, dilation = attribute(node, "strides", [1])[0], attribute(node, "dilations", [1])[0]
    before, after = attribute(node, "pads", [0, 0])
    base, rows, scale = node.name, f"{node.name}_rows", list(quantize.input[1:])
    constant = {
        f"{base}_pads": np.array([0, before, 0, 0, after, 0]),
        f"{base}_taps": np.arange(size) * dilation,
        f"{base}_span": np.array((size - 1) * dilation),
        f"{base}_shape": np.array([0, 0, size * channels]),
        f"stride_{stride}": np.array(stride),
        "first_row": np.array(0),
        "last_axis": np.array([1]),
    }
    nodes = [helper.make_node("Transpose", quantize.input[:1], [rows], name=f"{base}/rows", perm=[0, 2, 1])]
    if before or after:
        nodes.append(helper.make_node("Pad", [rows, f"{base}_pads"], [f"{base}_padded"], name=f"{base}/pad"))
        rows = f"{base}_padded"

    def add(op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        nodes.append(helper.make_node(op, inputs, [f"{base}_{output}"], name=f"{base}/{output}", **attributes))

    add("Shape", [rows], "length_vector", start=TIME, end=TIME + 1)
    add("Squeeze", [f"{base}_length_vector"], "length")
    add("Sub", [f"{base}_length", f"{base}_span"], "steps")
    add("Range", ["first_row", f"{base}_steps", f"stride_{stride}"], "starts")
    add("Unsqueeze", [f"{base}_starts", "last_axis"], "starts_column")
    add("Add", [f"{base}_starts_column", f"{base}_taps"], "read")
    add("Gather", [rows, f"{base}_read"], "copies", axis=TIME)
    add("Reshape", [f"{base}_copies", f"{base}_shape"], "unfolded")
    add("QuantizeLinear", [f"{base}_unfolded", *scale], "quantized")
    add("DequantizeLinear", [f"{base}_quantized", *scale], "dequantized")
    return nodes, [tensor(name, value.astype(np.int64)) for name, value in constant.items()]
