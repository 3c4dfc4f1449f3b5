"""What can be quantized in a graph: activation tensors, weights, sites."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from trtasr.graph.edit import consumers, outline
from trtasr.values import FloatArray, Site

WEIGHTED = ("Conv", "MatMul", "Gemm")
FUNCTIONS = ("Relu", "Clip", "Selu", "Sigmoid", "HardSigmoid", "Gelu", "Erf", "Tanh", "LayerNormalization", "Softmax")
ARITHMETIC = ("Mul", "Add", "Sub", "Div", "Max", "MaxPool")
LAYOUT = ("Pad", "Transpose", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze", "Concat")
ELEMENTWISE = frozenset(
    (*FUNCTIONS, *ARITHMETIC, "Abs", "Neg", "Cast", "Identity", "QuantizeLinear", "DequantizeLinear")
) - {"LayerNormalization", "Softmax", "MaxPool"}
DATA_OPS = frozenset((*WEIGHTED, *FUNCTIONS, *ARITHMETIC, *LAYOUT))


@dataclass(frozen=True)
class WeightInfo:
    """A constant weight of a Conv, MatMul or Gemm node.

    Attributes:
        name: initializer name.
        node: name of the first node that reads it.
        shape: as stored.
        axis: output-channel axis: 0 for Conv and Gemm with transB, else the last.
    """

    name: str
    node: str
    shape: tuple[int, ...]
    axis: int


def activation_tensors(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the float32 activations whose ranges are observed, in graph order.

    Without attention: the whole `data_path`, because TensorRT's calibration cache must name each tensor of it. With
    attention (a product of two activations): what weighted nodes read and make. The rest stays in floating point by
    rule, and TensorRT leaves a tensor there when the cache does not name it.
    """
    path = data_path(model)
    weighted = [node for node in model.graph.node if node.op_type in WEIGHTED]
    stored = {tensor.name for tensor in model.graph.initializer}
    if all(node.input[1] in stored for node in weighted):
        return path
    chosen = {name for node in weighted if node.input[1] in stored for name in (node.input[0], node.output[0])}
    made = [name for node in model.graph.node for name in node.output]
    return tuple(name for name in (*(value.name for value in model.graph.input), *made) if name in chosen)


def data_path(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the float32 activations that are computed from the float graph inputs, in graph order.

    The inputs themselves and all that Conv, MatMul, Relu, Mul (by the mask), Add ... compute from them, up to
    LogSoftmax; likewise what a decoder computes from the embeddings of its tokens. Shape and mask arithmetic is not
    part of it.
    """
    names = [value.name for value in model.graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT]
    on_path, embeddings = set(names), set(lookups(model))
    for node in model.graph.node:
        carries = node.op_type in DATA_OPS and on_path.intersection(node.input)
        if carries or node.name in embeddings:
            on_path.update(node.output)
            names += node.output
    return tuple(names)


def lookups(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the nodes that look rows of a float table up: embeddings of tokens and positions."""
    tables = {
        item.name for item in model.graph.initializer if item.data_type == TensorProto.FLOAT and len(item.dims) > 1
    }
    return tuple(node.name for node in model.graph.node if node.op_type == "Gather" and node.input[0] in tables)


def weight_tensors(model: onnx.ModelProto) -> tuple[WeightInfo, ...]:
    """Constant weights in graph order, a weight shared by several nodes once."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    found: dict[str, WeightInfo] = {}
    for node in model.graph.node:
        if node.op_type in WEIGHTED and node.input[1] in shapes:
            name = node.input[1]
            found.setdefault(name, WeightInfo(name, node.name, shapes[name], output_axis(node, len(shapes[name]))))
    return tuple(found.values())


def layer_outputs(model: onnx.ModelProto) -> tuple[str, ...]:
    """What weighted nodes make, in graph order; behind a linear layer also the sum with its bias."""
    stored = {tensor.name for tensor in model.graph.initializer}
    made = {node.output[0] for node in model.graph.node if node.op_type in WEIGHTED}
    return tuple(
        node.output[0]
        for node in model.graph.node
        if node.op_type in WEIGHTED or (node.op_type == "Add" and made & set(node.input) and stored & set(node.input))
    )


def rows_per_frame(model: onnx.ModelProto) -> dict[str, int]:
    """Positions per frame of tensors [B, C, T, F], which two-dimensional convolutions read and make: F."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*inferred.input, *inferred.value_info)}
    return {name: dims[3].dim_value for name, dims in shapes.items() if len(dims) == 4 and dims[3].dim_value > 0}


def tensor_ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Number of dimensions of every tensor, constants too, as far as shape inference knows it."""
    graph = onnx.shape_inference.infer_shapes(outline(model)).graph
    types = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}
    stored = {item.name: len(item.dims) for item in model.graph.initializer}
    return stored | {name: len(kind.shape.dim) for name, kind in types.items() if kind.HasField("shape")}


def sites(model: onnx.ModelProto) -> tuple[Site, ...]:
    """Every Conv, MatMul and Gemm node with a constant weight, in graph order."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return tuple(
        site(node, shapes[node.input[1]])
        for node in model.graph.node
        if node.op_type in WEIGHTED and node.input[1] in shapes
    )


def site(node: NodeProto, shape: tuple[int, ...]) -> Site:
    """Describe one weighted node with a weight of that shape."""
    axis = output_axis(node, len(shape))
    groups = int(attribute(node, "group", 1))
    kernel = shape[2:] if node.op_type == "Conv" else ()
    stride = tuple(attribute(node, "strides", [1] * len(kernel)))
    inputs = shape[1 if axis == 0 else 0] * groups
    return Site(node.name, node.op_type, shape, inputs, shape[axis], groups, kernel, stride)


def output_axis(node: NodeProto, rank: int) -> int:
    """Output-channel axis of a node's weight as stored."""
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
        return 0
    return rank - 1


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """Value of a node attribute, or ``default`` where it is absent."""
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def added_biases(graph: onnx.ModelProto) -> dict[str, tuple[str, FloatArray]]:
    """Biases of linear layers, which ONNX adds by a node of its own.

        MatMul(x, W [d, O]) -> Add(b [O])

    Returns:
        node name of the MatMul -> name and values of b. A sum that something else reads too, or a b that several nodes
        share, is none.
    """
    stored, readers = {item.name: item for item in graph.graph.initializer}, consumers(graph)
    outputs, found = {value.name for value in graph.graph.output}, {}
    for node in graph.graph.node:
        behind = readers[node.output[0]] if node.op_type == "MatMul" and node.input[1] in stored else []
        if len(behind) == 1 and behind[0].op_type == "Add" and node.output[0] not in outputs:
            names = [name for name in behind[0].input if name in stored and len(readers[name]) == 1]
            if names and list(stored[names[0]].dims) == list(stored[node.input[1]].dims[-1:]):
                found[node.name] = names[0], np.asarray(numpy_helper.to_array(stored[names[0]]), np.float32)
    return found


def grouped(node: NodeProto, weight: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """A weight as stored -> float64 [groups, O / groups, d]."""
    rows = np.moveaxis(weight, output_axis(node, weight.ndim), 0).astype(np.float64)
    return rows.reshape(attribute(node, "group", 1), -1, int(np.prod(rows.shape[1:])))


def ungrouped(node: NodeProto, blocks: npt.NDArray[Any], shape: Sequence[int]) -> FloatArray:
    """[groups, O / groups, d] -> the weight as stored, float32."""
    axis = output_axis(node, len(shape))
    rows = [shape[axis], *(size for index, size in enumerate(shape) if index != axis)]
    return np.ascontiguousarray(np.moveaxis(blocks.reshape(rows), 0, axis), np.float32)
