"""What the integer graph is built with: values with scales, and the conversions between their formats."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from trtasr.errors import BuildError
from trtasr.graph.codes import LARGEST_CODE, Codes
from trtasr.graph.edit import constant_arrays, tensor
from trtasr.graph.integer_functions import DOMAIN
from trtasr.quant import fixed_point as fixed
from trtasr.values import Array, ScaleTable


@dataclass(frozen=True)
class Value:
    """An integer tensor that stands for a float tensor of the FP32 graph: real = scale * integer.

    Attributes:
        name: in the integer graph.
        scale: float64, a scalar, or one per channel in a shape that broadcasts against the tensor.
        amax: magnitude expected of the real values; decides formats, never clips by itself.
        bound: largest possible |integer|.
        elem_type: ONNX type of the tensor, int32 or int64.
    """

    name: str
    scale: Array
    amax: float
    bound: int
    elem_type: int = TensorProto.INT32

    def __post_init__(self) -> None:
        if self.scale.size == 1:  # one channel is per tensor too
            object.__setattr__(self, "scale", self.scale.reshape(()))

    @property
    def per_tensor(self) -> bool:
        """One scale for all channels."""
        return self.scale.size == 1


class Builder:
    """Collects the nodes and constants of an integer graph.

    Args:
        table: scales.
        formats: tensor -> the 8-bit codes that weighted nodes read of it.
        types: ONNX element type of every tensor of the FP32 graph.
        constants: its constants.
    """

    def __init__(
        self, table: ScaleTable, formats: Mapping[str, Codes], types: Mapping[str, int], constants: Mapping[str, Array]
    ) -> None:
        self.table, self.formats, self.types, self.constants = table, formats, types, constants
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.values: dict[str, Value] = {}
        self.codes_of: dict[str, str] = {}
        self.made: dict[tuple[str, bytes, float, int], Value] = {}
        self.taken: set[str] = set()
        self.as_int64: dict[str, str] = {}

    def value(self, name: str) -> Value:
        """The integers that stand for a float tensor.

        Raises:
            BuildError: it has none.
        """
        if name not in self.values:
            raise BuildError(f"{name}: a float tensor that integer-only inference cannot follow", UNSUPPORTED)
        return self.values[name]

    def constant(self, name: str, value: Any) -> str:
        """An initializer; equal names must mean equal values."""
        self.initializers[name] = tensor(name, value)
        return name

    def number(self, value: int, kind: str = "int64") -> str:
        """A scalar initializer, shared by all that use it."""
        return self.constant(f"{kind}_{value}", np.asarray(value, kind))

    def renamed(self, node: NodeProto) -> NodeProto:
        """A copy of a node that reads the integer tensors in place of the float ones."""
        copied = copy.deepcopy(node)
        for index, name in enumerate(node.input):
            if name in self.values:
                copied.input[index] = self.values[name].name
            elif name in self.constants:
                copied.input[index] = self.constant(name, self.constants[name])
        return copied

    def emit(self, op: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        """A node with one output, named for it."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{output}/{op}", domain=domain, **attributes))
        return output

    def cast(self, name: str, output: str, to: int) -> str:
        """The tensor in another integer type."""
        return self.emit("Cast", [name], output, to=to)

    def amax(self, name: str, otherwise: float) -> float:
        """Magnitude of a float tensor: the table's, else what was derived from the table."""
        entry = self.table.activations.get(name)
        return entry.amax if entry else otherwise

    def codes(self, name: str) -> str:
        """The uint8 codes that a weighted node reads of a float tensor."""
        if name not in self.codes_of:
            self.codes_of[name] = self.eight_bits(self.value(name), self.formats[name], f"{name}_quantized")
        return self.codes_of[name]

    def eight_bits(self, value: Value, codes: Codes, output: str) -> str:
        """A value as uint8 codes."""
        scale, zero = np.float64(codes.scale), codes.zero
        if value.per_tensor and float(value.scale) == scale and value.bound <= min(zero, LARGEST_CODE + 1 - zero):
            raised = self.emit("Add", [value.name, self.number(zero, "int32")], f"{output}_raised")
        else:
            raised = self.rescale(value, scale, (-zero, LARGEST_CODE - zero, zero), f"{output}_raised")
        return self.cast(raised, output, TensorProto.UINT8)

    def rescale(
        self, value: Value, scale: np.float64, limits: tuple[int, int, int], output: str, offset: Array | None = None
    ) -> str:
        """clip(round(value / scale + offset), limits) + zero point: int64."""
        shift_by = np.zeros(()) if offset is None else offset
        found = fixed.dyadic(value.scale / scale, value.bound, shift_by, -limits[0])
        unit = 1 << found.shift
        addend = np.rint(np.ldexp(shift_by, found.shift)).astype(np.int64) + unit // 2 + found.raise_by * unit
        low, high = (found.raise_by + limit for limit in limits[:2])
        inputs = [
            value.name,
            self.constant(f"{output}_multiplier", found.multiplier),
            self.constant(f"{output}_addend", addend),
            self.number(unit),
            self.number(low, "uint64"),
            self.number(high, "uint64"),
            self.number(found.raise_by - limits[2]),
        ]
        return self.emit("Rescale", inputs, output, DOMAIN)

    def symmetric(self, value: Value, scale: np.float64, limit: int, output: str, offset: Array | None = None) -> Value:
        """A value at another scale, clipped to -limit .. limit, as int32; tighter where less is reached."""
        limit = min(limit, fixed.reach(value.scale / scale, value.bound, 0.0 if offset is None else offset))
        centered = self.rescale(value, scale, (-limit, limit, 0), f"{output}_rescaled", offset)
        self.as_int64[output] = centered
        return Value(self.cast(centered, output, TensorProto.INT32), np.asarray(scale), value.amax, limit)

    def converted(self, value: Value, scale: float, limit: int, kind: str) -> Value:
        """A value in a per-tensor format, made once for all readers; itself where it has that scale and fits."""
        if value.per_tensor and float(value.scale) == scale and value.bound <= limit:
            return value
        key = (value.name, value.scale.tobytes(), scale, limit)
        if key not in self.made:
            self.made[key] = self.symmetric(value, np.float64(scale), limit, self.unused(f"{value.name}_{kind}"))
        return self.made[key]

    def unused(self, name: str) -> str:
        """A name for a tensor, numbered where it is taken: one tensor may stand for several values."""
        found = name if name not in self.taken else f"{name}_{len(self.taken)}"
        self.taken.add(found)
        return found

    def wide(self, value: Value) -> Value:
        """A value with one scale and about 21 bits: magnitude 2^20, saturating at sixteen times that."""
        if value.per_tensor and value.bound <= 2 * fixed.WIDE_LIMIT:
            return value
        return self.converted(value, value.amax / 2**fixed.WIDE_BITS, fixed.WIDE_LIMIT, "wide")

    def operand(self, value: Value) -> Value:
        """An operand of a product of two activations: magnitude 2^14, saturating at four times that."""
        scale = value.amax * fixed.OPERAND_HEADROOM / fixed.OPERAND_LIMIT
        return self.converted(value, scale, fixed.OPERAND_LIMIT, "operand")

    def exponent(self, value: Value, limit: int = fixed.EXPONENT_LIMIT) -> Value:
        """A value in the unit that Softmax and Sigmoid read: 2^-16 of a power of two."""
        return self.converted(value, fixed.EXPONENT_SCALE, limit, "exponent")

    def binary(self, op: str, operands: tuple[Value, Value], output: str, bound: int) -> Value:
        """Add, Mul, Max or MatMul in the smallest type that holds operands and result; scale of the first operand."""
        large = bound > fixed.SUM_LIMIT or any(item.elem_type == TensorProto.INT64 for item in operands)
        kind = int(TensorProto.INT64 if large else TensorProto.INT32)
        self.emit(op, [self.sized(item, kind) for item in operands], output)
        return Value(output, operands[0].scale, operands[0].amax, bound, kind)

    def sized(self, value: Value, elem_type: int) -> str:
        """Name of the value's tensor in a type at least as large as its own."""
        if value.elem_type == elem_type:
            return value.name
        if value.name not in self.as_int64:
            self.as_int64[value.name] = self.cast(value.name, f"{value.name}_int64", elem_type)
        return self.as_int64[value.name]


UNSUPPORTED = (
    "integer-only inference knows QuartzNet, Jasper and Conformer graphs with ReLU, Hardtanh or Swish; "
    "every other target works without it"
)


def float_constants(model: onnx.ModelProto) -> dict[str, Array]:
    """Initializers and Constant nodes by name, of 32 bits where the exporter has 64."""
    found = constant_arrays(model)
    return {name: held.astype(np.float32) if held.dtype == np.float64 else held for name, held in found.items()}
