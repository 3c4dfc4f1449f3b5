"""A constant factor behind a linear layer -> inside its weight and bias."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from trtasr.graph.edit import constant_arrays, constants, consumers, producers, rebuilt, renamed_inputs, tensor


def fold_scale(model: onnx.ModelProto) -> onnx.ModelProto:
    """Multiply linear layers by the scalar that follows them.

        MatMul(x, W) -> Add(b) -> Mul(c)      becomes      MatMul(x, c W) -> Add(c b)

    Conformer has such factors behind feed-forward modules (1/2), queries (1 / sqrt(d_k)) and the subsampling
    (sqrt(d_model)); a multiplication of every activation becomes one of weights, made once.

    Args:
        model: FP32 graph in which no two layers share a weight or bias; not changed.
    """
    stored, made_by, readers = constants(model), producers(model), consumers(model)
    values = {name: value for name, value in constant_arrays(model).items() if value.size == 1}
    scaled: dict[str, TensorProto] = {}
    dropped: dict[str, str] = {}
    outputs = {value.name for value in model.graph.output}
    for node in model.graph.node:
        source, factor = scaling(node, values)
        layer = linear_layer(source, made_by, stored)
        inner = all(len(readers[item.output[0]]) == 1 and item.output[0] not in outputs for item in layer)
        if layer and inner and node.output[0] not in outputs:
            for name in parameters(layer, stored):
                scaled[name] = tensor(name, numpy_helper.to_array(stored[name]) * np.float32(factor))
            dropped[node.output[0]] = source
    if not dropped:
        return model
    nodes = [renamed_inputs(node, dropped) for node in model.graph.node if node.output[0] not in dropped]
    return rebuilt(model, nodes, [scaled.get(item.name, item) for item in model.graph.initializer])


def scaling(node: NodeProto, values: Mapping[str, np.ndarray]) -> tuple[str, float]:
    """Input and factor of a multiplication by a number; no input for any other node."""
    for data, factor in (tuple(node.input), tuple(node.input)[::-1]) if node.op_type == "Mul" else ():
        if factor in values:
            return data, float(values[factor].reshape(-1)[0])
    return "", 1.0


def linear_layer(
    name: str, made_by: Mapping[str, NodeProto], stored: Mapping[str, TensorProto]
) -> tuple[NodeProto, ...]:
    """The MatMul, and the Add of its bias, that make a tensor; empty where something else does."""
    last = made_by.get(name)
    if last is not None and last.op_type == "Add" and any(item in stored for item in last.input):
        product = made_by.get(next((item for item in last.input if item not in stored), ""))
        return (product, last) if is_matmul(product, stored) and product is not None else ()
    return (last,) if is_matmul(last, stored) and last is not None else ()


def is_matmul(node: NodeProto | None, stored: Mapping[str, TensorProto]) -> bool:
    """Whether a node is a product with a stored weight."""
    return node is not None and node.op_type == "MatMul" and node.input[1] in stored


def parameters(layer: tuple[NodeProto, ...], stored: Mapping[str, TensorProto]) -> list[str]:
    """Names of a layer's weight and bias."""
    return [name for node in layer for name in node.input if name in stored]
