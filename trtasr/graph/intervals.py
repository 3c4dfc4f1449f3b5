"""Interval rules: between which integers the results of an operator lie.

Each rule maps intervals of the inputs to one of the output that holds every value it can have. Bounds are Python
integers, so that a value which the tensor's own type cannot hold is seen instead of wrapped around.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from onnx import NodeProto, numpy_helper

from trtasr.errors import QualityError
from trtasr.graph.interval import Interval, divide, hull, maximum, minimum, of_array, of_type, weighted_sums
from trtasr.graph.tensors import attribute
from trtasr.values import Array

SUMS = ("ConvInteger", "MatMulInteger", "MatMul")


@dataclass(frozen=True)
class Operand:
    """One input of a node.

    Attributes:
        name: of the tensor.
        interval: where its values lie.
        array: the values themselves when the tensor is a constant.
        shape: its dimensions, None where dynamic; None when not even their number is known.
    """

    name: str
    interval: Interval
    array: Array | None = None
    shape: tuple[int | None, ...] | None = None


@dataclass(frozen=True)
class Step:
    """A node with all that a rule may know.

    Attributes:
        node: any.
        operands: its inputs; None where an optional one is left out or is no integer tensor.
        dtype: integer type of its output.
        longest: what no dynamic dimension exceeds; none is below 1.
    """

    node: NodeProto
    operands: tuple[Operand | None, ...]
    dtype: np.dtype[Any]
    longest: int

    def operand(self, position: int) -> Operand | None:
        """The input at a position, None when it is left out."""
        return self.operands[position] if position < len(self.operands) else None

    def required(self, position: int) -> Operand:
        """The input at a position that the operator cannot leave out."""
        found = self.operand(position)
        assert found is not None, f"{title(self.node)}: input {position}"
        return found

    def interval(self, position: int, missing: int = 0) -> Interval:
        """Interval of the input at a position, or of the number that stands for it when it is left out."""
        found = self.operand(position)
        return Interval(missing, missing) if found is None else found.interval


Rule = Callable[[Step], Interval]


def bounds(step: Step) -> Interval:
    """Interval of a node's output.

    Raises:
        QualityError: naming the node: its operator has no rule, its divisor may be zero, or its values do not fit the
            type of its output.
    """
    rule = RULES.get(step.node.op_type)
    if rule is None or not (has_one_output(step.node) or step.node.op_type == "Split"):
        raise without_rule(step.node)
    try:
        found = rule(step)
    except ZeroDivisionError:
        raise QualityError(
            f"{title(step.node)}: division by zero is possible, the divisor lies in "
            f"{told(step.interval(1).low)} .. {told(step.interval(1).high)}",
            "keep the divisor away from zero, as with Max(divisor, 1)",
        ) from None
    check_fits(step, found)
    return found


def products(step: Step) -> int:
    """Products per sum of a node among `SUMS`; a dynamic dimension counts as the longest."""
    x, weight = step.required(0), step.required(1)
    if step.node.op_type == "ConvInteger":
        return prod(dim or step.longest for dim in dims_of(weight)[1:])
    inner = (*dims_of(x)[-1:], *dims_of(weight)[-2:][:1])
    return next((dim for dim in inner if dim is not None), step.longest)


def title(node: NodeProto) -> str:
    """How messages name a node."""
    return f"node {node.name or node.output[0]!r} ({node.op_type})"


def each(function: Callable[..., Interval]) -> Rule:
    """A rule of the intervals of all inputs."""
    return lambda step: function(*(step.interval(position) for position in range(len(step.operands))))


def multiplied(step: Step) -> Interval:
    """A product of a tensor with itself is a square."""
    a, b = step.required(0), step.required(1)
    return abs(a.interval) * abs(a.interval) if a.name == b.name else a.interval * b.interval


def clipped(step: Step) -> Interval:
    """min(max(x, low), high), in this order, as ONNX has it where low > high."""
    found, limits = step.interval(0), of_type(step.dtype)
    return minimum(maximum(found, step.interval(1, limits.low)), step.interval(2, limits.high))


def remainder(step: Step) -> Interval:
    """The remainder with the sign of the divisor.

    Raises:
        QualityError: it has the sign of the dividend, as in C.
    """
    if attribute(step.node, "fmod", 0):  # has the sign of the dividend
        raise without_rule(step.node)
    return step.interval(0) % step.interval(1)


def shifted(step: Step) -> Interval:
    """Of unsigned numbers; a shift by all bits is undefined in the runtime."""
    number, count = step.interval(0), step.interval(1)
    if count.high >= 8 * step.dtype.itemsize:
        raise QualityError(
            f"{title(step.node)}: shifts {step.dtype} by up to {told(count.high)} bits",
            "clip the shift below the width of the type",
        )
    if attribute(step.node, "direction", b"LEFT") == b"LEFT":
        return Interval(number.low << count.low, number.high << count.high)
    return Interval(number.low >> count.high, number.high >> count.low)


def padded(step: Step) -> Interval:
    """What is padded, and the constant that pads it."""
    if attribute(step.node, "mode", b"constant") != b"constant":
        return step.interval(0)
    return hull(step.interval(0), step.interval(2))


def filled(step: Step) -> Interval:
    """The constant of a ConstantOfShape."""
    return of_array(numpy_helper.to_array(attribute(step.node, "value", None)))


def reduced_sum(step: Step) -> Interval:
    """Sums of as many elements as a ReduceSum may have."""
    low, high = step.interval(0).low, step.interval(0).high
    counts = summed(step)
    return Interval(min(count * low for count in counts), max(count * high for count in counts))


def summed(step: Step) -> tuple[int, int]:
    """Fewest and most elements per sum of a ReduceSum."""
    data, axes = step.required(0), step.operand(1)
    if axes is None or (axes.array is not None and not axes.array.size):
        if attribute(step.node, "noop_with_empty_axes", 0):
            return 1, 1
        dims = dims_of(data)
    elif axes.array is None:
        return 1, prod(dim or step.longest for dim in dims_of(data))
    else:
        dims = tuple(None if data.shape is None else data.shape[int(axis)] for axis in np.ravel(axes.array))
    return prod(dim or 1 for dim in dims), prod(dim or step.longest for dim in dims)


def convolved(step: Step) -> Interval:
    """Exact where the weight is constant."""
    (_, x), (weight, interval) = centered(step, 0), centered(step, 1)
    if weight is None:
        return of_products(products(step), x, interval)
    return weighted_sums(x, weight, tuple(range(1, weight.ndim)))


def matrix_product(step: Step) -> Interval:
    """Exact where one side is constant."""
    (left, a), (right, b) = centered(step, 0), centered(step, 1)
    if right is not None:
        return weighted_sums(a, right, (max(right.ndim - 2, 0),))
    if left is not None:
        return weighted_sums(b, left, (left.ndim - 1,))
    return of_products(products(step), a, b)


def of_products(count: int, a: Interval, b: Interval) -> Interval:
    """Up to so many products; padding makes some of them 0."""
    found = hull(a * b, Interval(0, 0))
    return Interval(count * found.low, count * found.high)


def centered(step: Step, position: int) -> tuple[Array | None, Interval]:
    """An operand minus its zero point: the numbers where both are constant, and the interval."""
    codes, zero = step.required(position), step.operand(position + 2)
    if codes.array is None or (zero is not None and zero.array is None):
        return None, codes.interval - step.interval(position + 2)
    numbers = wide(codes.array)
    if zero is not None and zero.array is not None:
        numbers = numbers - zeros_along(wide(zero.array), step, position, numbers.ndim)
    return numbers, of_array(numbers)


def zeros_along(zeros: Array, step: Step, position: int, rank: int) -> Array:
    """Zero points shaped as their operand: one per output channel of a convolution, row of a left matrix, column."""
    if zeros.ndim != 1 or (position == 1 and step.node.op_type != "ConvInteger"):
        return zeros
    return zeros.reshape(-1, *[1] * (rank - 1 if position == 1 else 1))


def wide(array: Array) -> Array:
    """In a type whose sums do not wrap around: Python's integers for 64 bits, whose sums no type of numpy holds."""
    return array.astype(object if array.dtype.itemsize == 8 else np.int64)


def dims_of(operand: Operand) -> tuple[int | None, ...]:
    """The dimensions of an operand.

    Raises:
        QualityError: their number is unknown.
    """
    if operand.shape is None:
        raise QualityError(
            f"tensor {operand.name!r}: the number of its dimensions is unknown, so a sum has no bound",
            "give the Reshape that makes it a constant shape",
        )
    return operand.shape


def without_rule(node: NodeProto) -> QualityError:
    """The refusal of an operator that has no rule."""
    return QualityError(
        f"{title(node)}: no interval rule for this operator",
        "add one to trtasr/graph/intervals.py, or write the graph without it",
    )


def has_one_output(node: NodeProto) -> bool:
    """Whether the first output is the only one."""
    return bool(node.output and node.output[0]) and not any(node.output[1:])


def check_fits(step: Step, found: Interval) -> None:
    """Refuse values that the type of the result does not hold.

    Raises:
        QualityError: naming the node and the value.
    """
    limits = of_type(step.dtype)
    if found.low < limits.low or limits.high < found.high:
        how, value = ("up", found.high) if found.high > limits.high else ("down", found.low)
        problem = f"{title(step.node)}: values {how} to {told(value)} do not fit {step.dtype}"
        raise QualityError(problem, "clip its operands, or compute it in a wider type")


def told(value: int) -> str:
    """A number for a message; a large one as the next power of two."""
    if abs(value) < EXACT_BELOW:
        return str(value)
    return f"{'-' if value < 0 else ''}2^{(abs(value) - 1).bit_length()}"


CONVERTING = ("Cast", "CastLike", "Expand", "Tile")
PICKING = ("Gather", "GatherElements", "MaxPool", "ReduceMax", "ReduceMin", "Slice", "Split")
MOVING = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
RULES: Mapping[str, Rule] = {
    **dict.fromkeys((*CONVERTING, *PICKING, *MOVING), lambda step: step.interval(0)),
    "Abs": each(abs),
    "Add": each(operator.add),
    "BitShift": shifted,
    "Clip": clipped,
    "Concat": each(hull),
    "ConstantOfShape": filled,
    "ConvInteger": convolved,
    "Div": each(divide),
    "MatMul": matrix_product,
    "MatMulInteger": matrix_product,
    "Max": each(maximum),
    "Min": each(minimum),
    "Mod": remainder,
    "Mul": multiplied,
    "Neg": each(operator.neg),
    "Pad": padded,
    "QuantizeLinear": lambda step: of_type(step.dtype),
    "Range": lambda step: hull(step.interval(0), step.interval(1)),
    "ReduceSum": reduced_sum,
    "Relu": lambda step: maximum(step.interval(0), Interval(0, 0)),
    "Shape": lambda _step: Interval(0, 2**31 - 1),
    "Sub": each(operator.sub),
}


EXACT_BELOW = 2**40  # larger numbers are told as powers of two
