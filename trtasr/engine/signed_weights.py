"""uint8 weights around 128 -> int8 weights around 0."""

from collections import Counter

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

MIDDLE = np.uint8(128)  # code of 0
PLACES = {"QLinearConv": (3, 5), "MatMulIntegerToFloat": (1, 5)}  # of a weight and its zero point among the inputs


def unsigned_to_signed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store the weights of integer convolutions and matrix products around 0.

        q -> QLinearConv(W, zero point 128) -> ...                  W: uint8 [O, I, k]
        q -> MatMulIntegerToFloat(W, zero point 128) -> ...         W: uint8 [I, O]
    becomes
        q -> QLinearConv(W', zero point 0) -> ...                   W' = W ^ 128: int8, of the same shape and name
        q -> MatMulIntegerToFloat(W', zero point 0) -> ...

    W' is W - 128: the same numbers, and the same result bit for bit where sums of products of uint8 and int8 are exact.
    ONNX Runtime has kernels for uint8 activations and int8 weights that are faster than those for uint8 weights.

    A weight stays as it is where it lies in a file of its own, where anything else reads it too, and where its zero
    point is not constant or not 128.

    Args:
        model: integer graph of ONNX Runtime; not changed.

    Returns:
        the graph; the given one itself where no weight is stored so.
    """
    signed = unsigned_weights(model)
    if not signed:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    stored = {item.name: item for item in changed.graph.initializer}
    for name in signed:
        stored[name].CopyFrom(numpy_helper.from_array(around_zero(stored[name]), name))
    zeros: dict[str, TensorProto] = {}
    for node in changed.graph.node:
        weight, zero = weight_and_zero(node)
        if weight in signed:
            zeros[zero] = numpy_helper.from_array(np.zeros(stored[zero].dims, np.int8), f"{zero}_signed")
            node.input[PLACES[node.op_type][1]] = zeros[zero].name
    changed.graph.initializer.extend(zeros.values())
    return changed


def unsigned_weights(model: onnx.ModelProto) -> set[str]:
    """Names of the weights around 128 that nothing but integer convolutions and matrix products reads."""
    stored = {item.name: item for item in model.graph.initializer if item.data_type == TensorProto.UINT8}
    if not stored or any(item.HasField("g") for node in model.graph.node for item in node.attribute):
        return set()  # a graph inside of a node may read them too
    pairs = [weight_and_zero(node) for node in model.graph.node]
    found = Counter(weight for weight, zero in pairs if is_inside(stored.get(weight)) and is_middle(stored.get(zero)))
    read = Counter(name for node in model.graph.node for name in node.input if name in found)
    return {name for name, count in found.items() if count == read[name]}


def weight_and_zero(node: NodeProto) -> tuple[str, str]:
    """Names of a node's weight and of its zero point; empty ones where it has none."""
    weight, zero = PLACES.get(node.op_type, (0, 0))
    return (node.input[weight], node.input[zero]) if 0 < zero < len(node.input) else ("", "")


def is_inside(item: TensorProto | None) -> bool:
    """Whether there is such an initializer, its values in the graph."""
    return item is not None and item.data_location != TensorProto.EXTERNAL


def is_middle(item: TensorProto | None) -> bool:
    """Whether there is such an initializer, and it is 128 everywhere."""
    return item is not None and is_inside(item) and bool((numpy_helper.to_array(item) == MIDDLE).all())


def around_zero(item: TensorProto) -> np.ndarray:
    """uint8 codes around 128 as int8 codes around 0."""
    return (numpy_helper.to_array(item) ^ MIDDLE).view(np.int8)
