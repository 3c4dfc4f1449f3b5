"""From the FP32 graph and the scale table to an integer-only graph: no float tensor between codes and logits.

    features -> QuantizeLinear -> uint8 -> ConvInteger -> int32 + bias -> Relu -> mask -> Rescale -> uint8 -> ...

Every weighted layer reads 8-bit codes at the magnitude of the one scale table (`codes`). What lies between them has
more bits: int32 sums, residual branches and layer norms in `wide` codes, attention in int64 products. See
docs/integer-only.md for the formats.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from trtasr.errors import BuildError
from trtasr.graph.codes import code_formats
from trtasr.graph.edit import consumers, outline, rebuilt
from trtasr.graph.integer_build import UNSUPPORTED, Builder, Value, float_constants
from trtasr.graph.integer_functions import DOMAIN, FUNCTIONS
from trtasr.graph.integer_ops import OPERATORS, add, centered, pooled, product, refused, weighted
from trtasr.graph.positions import Positions, position_tables
from trtasr.quant.fixed_point import LONGEST
from trtasr.values import Array, ScaleTable

LOGITS = "logits"
LOGITS_SCALE = "logits_scale"  # keys of the metadata
LONGEST_FRAMES = "longest_frames"
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
BEFORE_WEIGHTS = ("Mul", "Transpose", "Unsqueeze", "Reshape", "Identity", "Pad", "Cast")


def integerize(model: onnx.ModelProto, table: ScaleTable) -> onnx.ModelProto:
    """Rewrite a CTC graph in integer arithmetic.

    Args:
        model: FP32 graph, centered, with its corrected weights; not changed.
        table: scales of every weighted layer's input and weight.

    Returns:
        graph with inputs ``features`` float32 [B, mel, T] and ``lengths`` int64 [B], outputs ``logits`` int32
        [B, T', V + 1] and ``output_lengths``; metadata ``logits_scale`` (the real value of one) and, with
        self-attention, ``longest_frames`` (T' at most).

    Raises:
        BuildError: an operator without integer form; names the node. UsageError: a scale is missing.
    """
    types, shapes = described(model)
    build = Builder(table, code_formats(model, table), types, float_constants(model))
    tables = position_tables(model)
    quantize_input(build, model)
    exponents = read_by_softmax(model)
    biases = biases_of(model, build.constants)
    skipped: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "LogSoftmax":
            finish(build, node)
        elif node.op_type in ("Conv", "MatMul", "Gemm"):
            multiply_add(build, node, biases, shapes)
        elif node.op_type == "Add" and is_float(node, types):
            add(build, node, node.output[0] in exponents)
        else:
            elementary(build, node, model, tables, skipped)
    return assembled(model, build, tables)


def multiply_add(build: Builder, node: NodeProto, biases: Mapping[str, Array], shapes: Mapping[str, list[int]]) -> None:
    """Conv and MatMul: with a constant weight on 8-bit codes, of two activations on wider ones."""
    if node.op_type == "Gemm":
        raise refused(node)
    if node.input[1] in build.constants:
        weighted(build, node, biases.get(node.name))
    else:
        terms = shapes.get(node.input[0], [0])[-1] or (shapes.get(node.input[1]) or [0, 0])[-2]
        product(build, node, terms or None)


def elementary(
    build: Builder, node: NodeProto, model: onnx.ModelProto, tables: Mapping[str, Positions], skipped: set[str]
) -> None:
    """All other operators: integers as they are, masks cast to integers, tables of positions looked up."""
    if node.op_type == "Constant":
        return  # an initializer where something reads it
    if not is_float(node, build.types):
        build.nodes.append(build.renamed(node))
    elif node.output[0] in tables:
        tables[node.output[0]].look_up(build)
        skipped.update(node.output)
    elif node.op_type == "Cast" and build.types[node.input[0]] not in FLOATS:
        mask(build, node, skipped)
    elif skipped.intersection(node.input):
        skipped.update(node.output)
    elif node.op_type == "MaxPool":
        pooled(build, node, build.formats[first_read(model, node.output[0])])
    elif node.op_type in OPERATORS:
        OPERATORS[node.op_type](build, node)
    else:
        raise refused(node)


def mask(build: Builder, node: NodeProto, skipped: set[str]) -> None:
    """A length mask becomes int32; any other integer that turns float can only lead to a table of positions."""
    source = next((made for made in build.nodes if node.input[0] in made.output), None)
    if source is None or source.op_type != "Clip":
        skipped.update(node.output)
        return
    build.cast(node.input[0], node.output[0], TensorProto.INT32)
    build.values[node.output[0]] = Value(node.output[0], np.ones(()), 1.0, 1)


def quantize_input(build: Builder, model: onnx.ModelProto) -> None:
    """The boundary: float features to 8-bit codes, at the scale at which the first weighted node reads them."""
    features = next(item.name for item in model.graph.input if item.type.tensor_type.elem_type in FLOATS)
    read = build.formats[first_read(model, features)]
    how = [build.constant(f"{features}_scale", read.scale), build.number(read.zero, "uint8")]
    codes = build.emit("QuantizeLinear", [features, *how], f"{features}_quantized")
    build.values[features] = centered(build, codes, f"{features}_codes", read)
    if features in build.formats:  # read without a mask
        build.codes_of[features] = codes


def first_read(model: onnx.ModelProto, name: str) -> str:
    """The tensor, the input itself or a masked or moved form of it, that the first weighted node reads.

    Raises:
        BuildError: something else reads it first.
    """
    readers = consumers(model)
    while True:
        nodes = [node for node in readers[name] if node.op_type != "Shape"]
        if any(node.op_type in ("Conv", "MatMul") for node in nodes):
            return name
        if not nodes or nodes[0].op_type not in BEFORE_WEIGHTS:
            raise BuildError(f"{name}: read by no convolution or matrix product", UNSUPPORTED)
        name = nodes[0].output[0]


def read_by_softmax(model: onnx.ModelProto) -> set[str]:
    """Sums that a Softmax reads, and sums that these are made of."""
    found: set[str] = set()
    for node in reversed(model.graph.node):
        if node.op_type == "Softmax" or (node.op_type == "Add" and node.output[0] in found):
            found.update(node.input)
    return found


def biases_of(model: onnx.ModelProto, constants: Mapping[str, Array]) -> dict[str, Array]:
    """Name of a weighted node -> its bias [O]: third input of a Conv, constant of the Add behind a MatMul."""
    readers, found = consumers(model), {}
    for node in model.graph.node:
        if node.op_type == "Conv" and len(node.input) > 2:
            found[node.name] = constants[node.input[2]]
        elif node.op_type == "MatMul" and [item.op_type for item in readers[node.output[0]]] == ["Add"]:
            fixed = [name for name in readers[node.output[0]][0].input if name in constants]
            if fixed and constants[fixed[0]].ndim == 1:
                found[node.name] = constants[fixed[0]]
    return found


def finish(build: Builder, node: NodeProto) -> None:
    """Logits: what the log-softmax reads, as int32; their order, which greedy decoding reads, is that of its output."""
    value = build.wide(build.value(node.input[0]))
    build.emit("Identity", [value.name], LOGITS)
    build.values[LOGITS] = value


def assembled(model: onnx.ModelProto, build: Builder, tables: Mapping[str, Positions]) -> onnx.ModelProto:
    """The collected nodes as a model with integer outputs, its functions and its metadata."""
    if LOGITS not in build.values:
        raise BuildError("no LogSoftmax ends this graph", UNSUPPORTED)
    result = rebuilt(with_logits(model), build.nodes, build.initializers.values())
    used = {node.op_type for node in result.graph.node if node.domain == DOMAIN}
    needs = {"Sigmoid": {"Exp2"}, "Softmax": {"Exp2"}, "Normalize": {"Isqrt"}}
    wanted = used.union(*(needs.get(name, set()) for name in used))
    result.functions.extend(made for name, made in FUNCTIONS.items() if name in wanted)
    result.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    facts = {LOGITS_SCALE: repr(float(build.values[LOGITS].scale))}
    helper.set_model_props(result, facts | ({LONGEST_FRAMES: str(LONGEST)} if tables else {}))
    return result


def with_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph's inputs and outputs, with integer logits in place of log-probabilities."""
    shell = outline(model)
    for output in shell.graph.output:
        if output.type.tensor_type.elem_type in FLOATS:
            output.name = LOGITS
            output.type.tensor_type.elem_type = TensorProto.INT32
    del shell.graph.input[len(model.graph.input) :]
    return shell


def is_float(node: NodeProto, types: Mapping[str, int]) -> bool:
    """Whether a node makes a float tensor."""
    return types.get(node.output[0]) in FLOATS


def described(model: onnx.ModelProto) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Element type and shape (0: not static) of every tensor."""
    graph = onnx.shape_inference.infer_shapes(outline(model), data_prop=True).graph
    known = {item.name: item.type.tensor_type for item in (*graph.input, *graph.value_info, *graph.output)}
    types = {name: kind.elem_type for name, kind in known.items()}
    types |= {item.name: item.data_type for item in model.graph.initializer}
    return types, {name: [dim.dim_value for dim in kind.shape.dim] for name, kind in known.items()}
