"""The composite functions of the integer graph, spelled out in ONNX's integer operators.

A runtime inlines them; `quant.integer_math` says what each computes. What shapes their form:

- ONNX divides toward zero and shifts no signed numbers, so numbers are made non-negative before they are divided.
- ONNX Runtime 1.31 compares int64 numbers wrongly once they leave 32 bits (Clip, Max, Min, ReduceMax), and sums them
  (ReduceSum) in float64. So clips work on uint64, maxima on int32, and long sums are products with ones: all exact.
- Clips that seem idle tell the proof what its intervals cannot know, such as that a part is no more than its whole.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper

from trtasr.quant.fixed_point import EXP2, EXPONENT_BITS, ISQRT_STEPS, LARGEST_SHIFT, ONE, SHARE_BITS

DOMAIN = "trtasr"
OPSET = 20
ROOT_LIMIT = 2**31  # of Isqrt


class Body:
    """Collects the nodes of a function; each call returns the name of the tensor it makes."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[tuple[str, bytes], str] = {}

    def node(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """One node with one output."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], domain=domain, **attributes))
        return name

    def constant(self, value: Any, kind: str = "int64") -> str:
        """A constant, made once: sessions open in the square of the number of nodes."""
        array = np.asarray(value, kind)
        key = (f"{kind}{array.shape}", array.tobytes())
        if key not in self.constants:
            self.constants[key] = self.node("Constant", value=numpy_helper.from_array(array))
        return self.constants[key]

    def wide(self, name: str) -> str:
        """The tensor as int64."""
        return self.node("Cast", name, to=TensorProto.INT64)

    def quotient(self, number: str, divisor: int) -> str:
        """A non-negative number divided by a constant, rounded down."""
        return self.node("Div", number, self.constant(divisor))

    def clip(self, number: str, low: int, high: int) -> str:
        """A non-negative number between two limits."""
        limits = (self.constant(limit, "uint64") for limit in (low, high))
        return self.wide(self.node("Clip", self.unsigned(number), *limits))

    def unsigned(self, number: str) -> str:
        """A non-negative number as uint64."""
        return self.node("Cast", number, to=TensorProto.UINT64)


def function(name: str, inputs: Sequence[str], body: Body, output: str) -> FunctionProto:
    """The collected nodes as a function whose last tensor is its output."""
    for index, node in enumerate(body.nodes):
        node.name = f"{name}/{node.op_type}_{index}"
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_function(DOMAIN, name, inputs, [output], body.nodes, imports)


def rescale() -> FunctionProto:
    """Rescale(x, m, a, d, low, high, zero) = clip((x m + a) / d, low, high) - zero: int64.

    `a` raises every possible sum above 0, `zero` takes that back; `low` and `high` are uint64.
    """
    body = Body()
    total = body.node("Add", body.node("Mul", body.wide("x"), "multiplier"), "addend")
    clipped = body.node("Clip", body.unsigned(body.node("Div", total, "divisor")), "low", "high")
    output = body.node("Sub", body.wide(clipped), "zero")
    return function("Rescale", ("x", "multiplier", "addend", "divisor", "low", "high", "zero"), body, output)


def exp2() -> FunctionProto:
    """Exp2(t) = 2^-t: t int64 >= 0 in 2^-16, result int64 in 2^-30."""
    body = Body()
    fraction = body.node("Mod", "t", body.constant(2**EXPONENT_BITS))
    whole = body.clip(body.quotient("t", 2**EXPONENT_BITS), 0, LARGEST_SHIFT)
    found = body.constant(EXP2[-1])
    for coefficient in EXP2[-2::-1]:
        part = body.quotient(body.node("Mul", fraction, found), 2**EXPONENT_BITS)
        found = body.node("Sub", body.constant(coefficient), part)
    powers = body.constant([2**shift for shift in range(LARGEST_SHIFT + 1)])
    return function("Exp2", ["t"], body, body.node("Div", found, body.node("Gather", powers, whole)))


def sigmoid() -> FunctionProto:
    """Sigmoid(t): t int32 in 2^-16 (exponents of two), result int64 in 2^-20."""
    body = Body()
    t = body.wide("t")
    small = body.node("Exp2", body.node("Abs", t), domain=DOMAIN)
    one = body.constant(2**ONE)
    positive = body.node("Add", body.node("Clip", t, body.constant(-1), body.constant(0)), body.constant(1))
    upper = body.node("Add", small, body.node("Mul", positive, body.node("Sub", one, small)))
    return function("Sigmoid", ["t"], body, rounded_share(body, upper, body.node("Add", one, small)))


def softmax() -> FunctionProto:
    """Softmax(t) over the last axis: t int32 in 2^-16 (exponents of two), result int64 in 2^-20."""
    body = Body()
    last = body.constant([-1])
    below = body.node("Sub", body.wide(body.node("ReduceMax", "t", last, keepdims=1)), body.wide("t"))
    small = body.node("Exp2", body.node("Abs", below), domain=DOMAIN)
    total = body.node("ReduceSum", small, last, keepdims=1)
    return function("Softmax", ["t"], body, rounded_share(body, small, body.node("Add", total, body.constant(1))))


def rounded_share(body: Body, part: str, whole: str) -> str:
    """The share of a part in a whole, in 2^-20, rounded to the nearest, halves up; at most 1."""
    numerator = body.node("Add", body.node("Mul", part, body.constant(2**SHARE_BITS)), body.quotient(whole, 2))
    return body.clip(body.node("Div", numerator, whole), 0, 2**SHARE_BITS)


def isqrt() -> FunctionProto:
    """Isqrt(n) = floor(sqrt(n)), int64, 1 <= n < 2^62: Newton's method from the next power of two above the root.

    Newton's steps end at the root, or, where n + 1 is a square, at that square's root: one too many.
    """
    body = Body()
    reached = body.clip(body.node("Div", "n", body.constant([4**power for power in range(31)])), 0, 1)
    digits = body.node("ReduceSum", reached, body.constant([-1]), keepdims=1)
    root = body.node("Gather", body.constant([2**power for power in range(32)]), digits)
    for _ in range(ISQRT_STEPS):
        root = body.clip(body.quotient(body.node("Add", root, body.node("Div", "n", root)), 2), 1, ROOT_LIMIT)
    square = body.node("Mul", root, root)
    above = body.clip(body.node("Div", body.node("Sub", square, body.constant(1)), "n"), 0, 1)
    return function("Isqrt", ["n"], body, body.clip(body.node("Sub", root, above), 1, ROOT_LIMIT))


def normalize() -> FunctionProto:
    """Normalize(x, ones, count, shift, eps) over the last axis: x int32, result int64 in 2^-30.

    Args of the function: `ones` int64 [d, 1] for sums, `count` d, `shift` larger than any |x|: it makes sums
    non-negative, so that the mean is rounded down.
    """
    body = Body()
    x = body.wide("x")
    total = body.node("Add", body.node("MatMul", x, "ones"), body.quotient("count", 2))
    raised = body.node("Add", total, body.node("Mul", "count", "shift"))
    centered = body.node("Sub", x, body.node("Sub", body.node("Div", raised, "count"), "shift"))
    energy = body.node("MatMul", body.node("Mul", centered, centered), "ones")
    root = body.node("Isqrt", body.node("Add", energy, "eps"), domain=DOMAIN)
    size = body.node("Div", body.node("Mul", body.node("Abs", centered), body.constant(2**ONE)), root)
    sign = body.node("Clip", centered, body.constant(-1), body.constant(1))
    output = body.node("Mul", body.clip(size, 0, 2**ONE), sign)
    return function("Normalize", ("x", "ones", "count", "shift", "eps"), body, output)


FUNCTIONS = {made.name: made for made in (rescale(), exp2(), sigmoid(), softmax(), isqrt(), normalize())}
