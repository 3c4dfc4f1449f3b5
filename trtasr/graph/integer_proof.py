"""Prove that a graph computes in integers only, and that no value leaves the type it is held in.

Local functions are inlined, element types inferred from the graph's inputs and weights alone, and an interval carried
through every operator (`intervals`). What is proved so holds for every input, not only for those that were tried.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, inliner, numpy_helper, shape_inference

from trtasr.errors import QualityError
from trtasr.graph.edit import constant_arrays, consumers, outline, producers
from trtasr.graph.interval import Interval, of_array, of_type
from trtasr.graph.intervals import SUMS, Operand, Step, bounds, products, title
from trtasr.results import Accumulator, Proof
from trtasr.values import Array

LENGTHS = Interval(0, 2**31 - 1)  # of int64 graph inputs
COMPARISONS = ("Clip", "Max", "Min", "ReduceMax", "ReduceMin")
BLIND = ("Shape", "QuantizeLinear")  # their intervals do not depend on what they read


@dataclass(frozen=True)
class Inlined:
    """A graph without local functions, and what is known of its tensors before any interval.

    Attributes:
        model: large weights are inputs of their type and shape.
        inputs: names of what a caller feeds.
        arrays: constant -> its values.
        types: tensor -> TensorProto data type.
        shapes: tensor -> its dimensions, None where dynamic; None when their number is unknown.
    """

    model: onnx.ModelProto
    inputs: tuple[str, ...]
    arrays: Mapping[str, Array]
    types: Mapping[str, int]
    shapes: Mapping[str, tuple[int | None, ...] | None]

    def dtype(self, name: str) -> np.dtype[Any]:
        """Type of a tensor."""
        return helper.tensor_dtype_to_np_dtype(self.types[name])

    def integer(self, name: str) -> bool:
        """Whether a tensor is of an integer type of at least 8 bits; bool is none."""
        return self.dtype(name).kind in "iu"

    def boundary(self, node: NodeProto) -> bool:
        """Whether a node quantizes a graph input with a constant scale and zero point."""
        return (
            node.op_type == "QuantizeLinear"
            and node.input[0] in self.inputs
            and all(name in self.arrays for name in node.input[1:] if name)
        )


def prove(model: onnx.ModelProto, longest: int) -> Proof:
    """Prove that every tensor behind the quantized inputs is integer and holds its values.

    Only a QuantizeLinear that reads a graph input, with a constant scale and zero point, may see a floating-point
    tensor. int64 graph inputs are lengths, 0 .. 2^31 - 1; other integer inputs and quantized ones have any value of
    their type.

    Args:
        model: an integer graph; its local functions may be nested.
        longest: no dynamic dimension exceeds it, and none is below 1; a positive number.

    Returns:
        the proof, with the largest possible value of every accumulator.

    Raises:
        QualityError: a tensor on the path is not integer (the first one and its node are named), or as
            `inspect_integer`.
    """
    inlined = inlined_graph(model)
    floats = tensors_left_float(inlined)
    if floats:
        kind = TensorProto.DataType.Name(inlined.types[floats[0]]).lower()
        raise QualityError(
            f"tensor {floats[0]!r}, {origin(inlined, floats[0])}, is {kind}: no integer",
            "compute it in integers; only a QuantizeLinear with a constant scale that reads a graph "
            "input may see floating point",
        )
    return proof_of(inlined, longest)


def inspect_integer(model: onnx.ModelProto, longest: int) -> Proof:
    """What `prove` proves, without requiring that all tensors are integer.

    What is computed from tensors that are not has no interval: its sums are left out.

    Args:
        model: any graph of standard operators and local functions.
        longest: no dynamic dimension exceeds it, and none is below 1; a positive number.

    Raises:
        QualityError: naming the node: values that do not fit their type, a divisor that may be zero, an integer
            operator without an interval rule, a tensor whose type cannot be inferred, a call that is no local function.
    """
    return proof_of(inlined_graph(model), longest)


def proof_of(inlined: Inlined, longest: int) -> Proof:
    """The proof of a graph without local functions.

    Raises:
        QualityError: an interval that does not fit its type, or an operator without a rule.
    """
    if longest < 1:
        raise QualityError(f"longest dimension {longest}: proves nothing", "give at least 1")
    known = intervals_of(inlined, longest)
    nodes = inlined.model.graph.node
    scales = boundary_scales(inlined)
    sums = accumulators_of(inlined, known, longest)
    return Proof(
        tensors=sum(bool(name) for node in nodes for name in node.output if name not in scales),
        floats=tensors_left_float(inlined),
        boundary=tuple(node.name or node.output[0] for node in nodes if inlined.boundary(node)),
        operators=dict(sorted(Counter(node.op_type for node in nodes).items())),
        accumulators=tuple(sums.values()),
        widest=widest_of(inlined, known, set(sums)),
        longest=longest,
    )


def inlined_graph(model: onnx.ModelProto) -> Inlined:
    """Inline local functions and infer types and shapes, which are never taken from what the file declares of them."""
    small = outline(model)
    small.functions.extend(model.functions)
    small = inliner.inline_local_functions(small)
    made = Counter(name for node in small.graph.node for name in node.output if name)
    if made and max(made.values()) > 1:
        raise QualityError(
            f"tensor {made.most_common(1)[0][0]!r} is made by more than one node",
            "compile the bundle again; if it stays, report the checkpoint",
        )
    del small.graph.value_info[:]
    for node in small.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise QualityError(
                f"{title(node)}: the body of {node.domain}.{node.op_type} cannot be looked into",
                "make it a function of the model, of the model's own opset",
            )
    try:
        small = shape_inference.infer_shapes(small, check_type=True, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as error:
        raise QualityError(
            f"the types of the integer graph cannot be inferred: {error}",
            "make it pass `onnx.shape_inference.infer_shapes(strict_mode=True)`",
        ) from error
    inputs = tuple(value.name for value in model.graph.input)
    for item in model.graph.initializer:
        if item.name in inputs:
            raise QualityError(
                f"constant {item.name!r} is a graph input too: a caller may change it",
                "take it out of the graph's inputs",
            )
    arrays = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    return Inlined(small, inputs, arrays | constant_arrays(small), element_types(small), dimensions(small))


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor.

    Raises:
        QualityError: naming the node that makes a tensor whose type is not known, or that is a sequence of tensors.
    """
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    types |= {item.name: item.data_type for item in graph.initializer}
    for node in graph.node:
        for name in (*node.input, *node.output):
            if name and not types.get(name, TensorProto.UNDEFINED):
                raise QualityError(
                    f"{title(node)}: the type of tensor {name!r} cannot be inferred",
                    "use operators of ONNX whose types can be inferred",
                )
    return types


def dimensions(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...] | None]:
    """Dimensions of every tensor, None where dynamic; None when their number is unknown."""
    graph = model.graph
    found: dict[str, tuple[int | None, ...] | None] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        dims = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim)
        found[value.name] = dims if kind.HasField("shape") else None
    return found | {item.name: tuple(item.dims) for item in graph.initializer}


def tensors_left_float(inlined: Inlined) -> tuple[str, ...]:
    """Names of the tensors on the path that are not integer, in the order in which nodes read and make them."""
    names: list[str] = []
    scales = boundary_scales(inlined)
    for node in inlined.model.graph.node:
        read = () if inlined.boundary(node) else node.input
        names += [*read, *(name for name in node.output if name not in scales)]
    names += [value.name for value in inlined.model.graph.output]
    return tuple(dict.fromkeys(name for name in names if name and not inlined.integer(name)))


def boundary_scales(inlined: Inlined) -> set[str]:
    """Scales of the boundary: the only constants that may be floating point."""
    return {node.input[1] for node in inlined.model.graph.node if inlined.boundary(node)}


def origin(inlined: Inlined, name: str) -> str:
    """Where a tensor comes from, for a message."""
    if name in (made := producers(inlined.model)):
        return f"made by {title(made[name])}"
    kind = "graph input" if name in inlined.inputs else "weight"
    readers = [node for node in consumers(inlined.model).get(name, []) if not inlined.boundary(node)]
    return f"a {kind} read by {title(readers[0])}" if readers else f"a {kind} and an output"


def intervals_of(inlined: Inlined, longest: int) -> dict[str, Interval]:
    """Interval of every integer tensor that is computed from integer tensors only."""
    known = {name: of_array(array) for name, array in inlined.arrays.items() if inlined.integer(name)}
    for name in inlined.inputs:
        if inlined.integer(name):
            known[name] = LENGTHS if inlined.types[name] == TensorProto.INT64 else of_type(inlined.dtype(name))
    for node in inlined.model.graph.node:
        outputs = [name for name in node.output if name]
        computable = node.op_type in BLIND or all(name in known for name in node.input if name)
        if computable and not known.keys() & set(outputs) and all(inlined.integer(name) for name in outputs):
            exact_on_every_machine(inlined, node)
            step = step_of(inlined, node, known, longest)
            found = bounds(step)
            computed_exactly(step, found)
            known.update(dict.fromkeys(outputs, found))
    return known


def exact_on_every_machine(inlined: Inlined, node: NodeProto) -> None:
    """Refuse products of signed codes: with AVX2 but without VNNI, ONNX Runtime adds two of them in 16 bits.

    Raises:
        QualityError: naming the node.
    """
    if node.op_type in ("ConvInteger", "MatMulInteger"):
        for name in node.input[:2]:
            if inlined.types[name] == TensorProto.INT8:
                raise QualityError(
                    f"{title(node)}: {name!r} is int8, whose products saturate on some machines",
                    "hold codes as uint8 with a zero point",
                )


def computed_exactly(step: Step, found: Interval) -> None:
    """Refuse what is right by the standard of ONNX but not in ONNX Runtime 1.31, which compares and adds int64 wrongly.

    Raises:
        QualityError: naming the node.
    """
    op, wide = step.node.op_type, step.dtype.name == "int64"
    read = max((item.interval.magnitude for item in step.operands if item), default=0)
    if wide and op in COMPARISONS and read >= 2**31:
        raise QualityError(
            f"{title(step.node)}: compares int64 values up to 2^{read.bit_length()}, and ONNX Runtime "
            "compares only their lower halves",
            "compare them as int32 or uint64",
        )
    if wide and op == "ReduceSum" and found.magnitude > 2**53:
        raise QualityError(
            f"{title(step.node)}: sums up to 2^{found.magnitude.bit_length()}, and ONNX Runtime adds in float64",
            "multiply with ones (MatMul) instead",
        )


def step_of(inlined: Inlined, node: NodeProto, known: Mapping[str, Interval], longest: int) -> Step:
    """A node with what is known of its operands."""
    operands = tuple(
        Operand(name, known[name], inlined.arrays.get(name), inlined.shapes[name]) if name in known else None
        for name in node.input
    )
    return Step(node, operands, inlined.dtype(node.output[0]), longest)


def accumulators_of(inlined: Inlined, known: Mapping[str, Interval], longest: int) -> dict[str, Accumulator]:
    """Sums by the name of the tensor that holds them; a bias that is added behind them counts with them."""
    readers = consumers(inlined.model)
    found = {}
    for node in inlined.model.graph.node:
        name = node.output[0] if node.output else ""
        if node.op_type in SUMS and name in known:
            biased = [
                reader.output[0]
                for reader in readers.get(name, [])
                if reader.op_type == "Add" and any(other in inlined.arrays for other in reader.input)
            ]
            step = step_of(inlined, node, known, longest)
            bound = max(known[held].magnitude for held in (name, *biased))
            capacity = of_type(step.dtype).high.bit_length()
            found[name] = Accumulator(node.name or name, node.op_type, products(step), bound, capacity)
    return found


def widest_of(inlined: Inlined, known: Mapping[str, Interval], sums: set[str]) -> int:
    """Bits of the largest magnitude of an int32 or int64 tensor that a node computes and no accumulator holds."""
    made = {name for node in inlined.model.graph.node for name in node.output}
    others = (made & known.keys()) - sums - inlined.arrays.keys()
    signed = [name for name in others if inlined.dtype(name) in (np.int32, np.int64)]
    return max((known[name].magnitude.bit_length() for name in signed), default=0)
