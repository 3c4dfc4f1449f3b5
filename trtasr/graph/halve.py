"""FP16 everywhere outside INT8, for strongly typed TensorRT, and in what waits on the device between steps."""

import copy

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from trtasr.errors import QualityError
from trtasr.graph.edit import constants, consumers, outline, producers, rebuilt, renamed_inputs, tensor
from trtasr.graph.tensors import WEIGHTED, lookups

FULL_PRECISION = ("LogSoftmax",)
INTEGER_RESULTS = ("QuantizeLinear", "ArgMax")
SMALLEST_NORMAL = float(np.finfo(np.float16).tiny)
SMALLEST = np.float16(2.0**-24)
CACHES = ("cross_key.", "cross_value.", "past_key.", "past_value.", "present_key.", "present_value.")


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """Strongly typed FP16 graph from an FP32 graph, with or without Q/DQ.

        features (FP32) -> Cast -> [ Q, DQ, Conv, MatMul, Relu, Mul, Add ... in FP16 ] -> Cast -> LogSoftmax (FP32)
        lengths (INT64) -> mask arithmetic (INT64, FP32) -> Cast, once -^

    Everything on the data path (computed from a float input, or looked up in a table of embeddings), every Q/DQ node
    and every Conv, MatMul and Gemm becomes FP16, initializers and scales included; LogSoftmax, shape, position and mask
    arithmetic stay. Graph inputs and outputs keep their types. (TensorRT computes the exponentials and sums of a FP16
    Softmax in FP32.)
    A scale that FP16 would round to zero becomes 2^-24, the smallest FP16 number.

    Args:
        model: graph of opset >= 19 (FP16 scales); not changed.

    Raises:
        QualityError: an initializer that is not finite in FP16, named with its largest value.
    """
    half_nodes = nodes_in_half(model)
    computed = [node for node in model.graph.node if node.name in half_nodes]
    half_tensors = {name for node in computed if node.op_type not in INTEGER_RESULTS for name in node.output}
    weights = constants(model)
    floats = float_tensors(model).difference(weights)
    scales = {node.input[1] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    nodes: list[NodeProto] = []
    added: dict[str, TensorProto] = {}
    casts: set[str] = set()
    for original in model.graph.node:
        node = copy.deepcopy(original)
        is_half = node.name in half_nodes
        for index, name in enumerate(node.input):
            if is_half and name in weights and weights[name].data_type == TensorProto.FLOAT:
                node.input[index] = f"{name}_fp16"
                if f"{name}_fp16" not in added:
                    added[f"{name}_fp16"] = half_tensor(weights[name], name in scales)
            elif name in floats and node.op_type != "Shape" and is_half != (name in half_tensors):
                target = TensorProto.FLOAT16 if is_half else TensorProto.FLOAT
                node.input[index] = f"{name}_fp16" if is_half else f"{name}_fp32"
                if node.input[index] not in casts:
                    nodes.append(cast(name, node.input[index], target))
                    casts.add(node.input[index])
        nodes.append(node)
    nodes = full_precision_outputs(model, nodes, half_tensors)
    return rebuilt(model, nodes, [*weights.values(), *added.values()])


def half_caches(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give keys and values the type in which attention computes with them: half the memory, no conversion per step.

        past_key.0 (FP32) -> Cast -> Concat -> ... -> Cast -> present_key.0 (FP32)
    becomes
        past_key.0 (FP16) -> Concat -> ... -> present_key.0 (FP16)

    Args:
        model: graph in FP16 whose inputs and outputs are FP32 (`halve`); not changed. Without such inputs or outputs it
            stays as it is.
    """
    made_by, read_by = producers(model), consumers(model)
    kept = [value.name for value in model.graph.input if value.name.startswith(CACHES)]
    inputs = {name for name in kept if all(node.op_type in ("Cast", "Shape") for node in read_by[name])}
    made = [value.name for value in model.graph.output if value.name.startswith(CACHES)]
    outputs = {name: made_by[name] for name in made if made_by[name].op_type == "Cast"}
    casts = [node for name in inputs for node in read_by[name] if node.op_type == "Cast"]
    dropped = {node.name for node in (*casts, *outputs.values())}
    names = {node.output[0]: node.input[0] for node in casts}
    names |= {node.input[0]: name for name, node in outputs.items()}
    nodes = [renamed_inputs(node, names) for node in model.graph.node if node.name not in dropped]
    for node in nodes:
        node.output[:] = [names.get(name, name) for name in node.output]
    result = rebuilt(model, nodes, model.graph.initializer)
    for value in (*result.graph.input, *result.graph.output):
        if value.name in inputs or value.name in outputs:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return result


def fp16_scale_lint(model: onnx.ModelProto) -> list[str]:
    """Names of INT8 nodes whose activation scale x weight scale is below the smallest normal FP16 number (6.1e-5).

    TensorRT folds that product to FP16 in FP16 networks; a subnormal product loses bits in every output of the channel.
    """
    made_by, values = producers(model), constants(model)
    found = []
    for node in (node for node in model.graph.node if node.op_type in WEIGHTED):
        data, weight = (dequantized_scale(made_by, values, name) for name in node.input[:2])
        if data is not None and weight is not None and (data.astype(np.float64) * weight).min() < SMALLEST_NORMAL:
            found.append(node.name)
    return found


def nodes_in_half(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes that compute in FP16: those on the data path, Q/DQ nodes and weighted nodes."""
    reached = {value.name for value in model.graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    names, embeddings = set(), set(lookups(model))
    for node in model.graph.node:
        if node.name in embeddings:
            reached.update(node.output)
            names.add(node.name)
        quantizer = node.op_type in ("QuantizeLinear", "DequantizeLinear")
        always = quantizer or node.op_type in WEIGHTED  # FP32 products of positions: sm_75 has no kernel for them
        if always or (node.op_type != "Shape" and reached.intersection(node.input)):
            if node.op_type != "ArgMax":  # gives integers
                reached.update(node.output)
            if node.op_type not in FULL_PRECISION:
                names.add(node.name)
    return names


def float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of the FP32 tensors."""
    inferred = onnx.shape_inference.infer_shapes(outline(model)).graph
    return {
        value.name
        for value in [*inferred.input, *inferred.value_info, *inferred.output]
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }


def half_tensor(full: TensorProto, is_scale: bool) -> TensorProto:
    """An initializer in FP16; a scale is at least the smallest FP16 number.

    Raises:
        QualityError: a value beyond FP16's range.
    """
    value = numpy_helper.to_array(full)
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
    if not np.isfinite(half).all():
        raise QualityError(
            f"initializer {full.name!r}: largest value {np.abs(value).max():.4g} does not fit FP16 (65504)",
            "exclude nothing here: this checkpoint needs a target that computes in FP32, for instance cpu",
        )
    return tensor(f"{full.name}_fp16", np.maximum(half, SMALLEST) if is_scale else half)


def cast(source: str, output: str, to: int) -> NodeProto:
    """A Cast named for its output."""
    return helper.make_node("Cast", [source], [output], name=f"{output}/Cast", to=to)


def full_precision_outputs(model: onnx.ModelProto, nodes: list[NodeProto], half: set[str]) -> list[NodeProto]:
    """Graph outputs made in FP16 keep their name and become FP32 through a Cast."""
    renamed = {value.name: f"{value.name}_fp16" for value in model.graph.output if value.name in half}
    for node in nodes:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = renamed.get(name, name)
    return nodes + [cast(half_name, name, TensorProto.FLOAT) for name, half_name in renamed.items()]


def dequantized_scale(made_by: dict[str, NodeProto], values: dict[str, TensorProto], name: str) -> np.ndarray | None:
    """The scale of a dequantized tensor, Transpose seen through; None for any other."""
    node = made_by.get(name)
    while node is not None and node.op_type == "Transpose":
        node = made_by.get(node.input[0])
    if node is None or node.op_type != "DequantizeLinear":
        return None
    return numpy_helper.to_array(values[node.input[1]])
