"""How each float operator of a CTC graph is computed on integers: one function per operator."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import sqrt

import numpy as np
from onnx import NodeProto, TensorProto, helper

from trtasr.errors import BuildError
from trtasr.graph.codes import Codes
from trtasr.graph.edit import weight_scales_of
from trtasr.graph.integer_build import UNSUPPORTED, Builder, Value
from trtasr.graph.integer_functions import DOMAIN
from trtasr.graph.tensors import attribute, output_axis
from trtasr.quant import fixed_point as fixed
from trtasr.quant.scales import quantize_weight
from trtasr.values import Array, WeightScale

EXPONENT_SUM_LIMIT = 4 * fixed.EXPONENT_LIMIT  # of scores that are sums of up to four
SIGMOID_LIMIT = 2**21  # exponents of two in 2^-16: 2^-32 is no more than rounding


def weighted(build: Builder, node: NodeProto, bias: Array | None) -> None:
    """Conv and MatMul with a constant weight: int32 sums of 8-bit products at scale s_a s_w.

    The channels must have room for the bias: a Conv adds it here, behind a MatMul an Add does.
    """
    name, output = node.input[1], node.output[0]
    codes = build.codes(node.input[0])
    weight, entry = build.constants[name], weight_scales_of(build.table, name)
    axis = output_axis(node, weight.ndim)
    read = build.formats[node.input[0]]
    integers, scales = channel_codes(weight, entry, np.float64(read.scale), bias)
    stored = build.constant(f"{name}_uint8", (integers.astype(np.int16) + fixed.ZERO_POINT).astype(np.uint8))
    zero = build.number(fixed.ZERO_POINT, "uint8")
    conv = node.op_type == "Conv"
    op = "ConvInteger" if conv else "MatMulInteger"
    made = f"{output}_sum" if conv and bias is not None else output
    others = tuple(index for index in range(weight.ndim) if index != axis)
    bound = read.reach * int(np.abs(integers.astype(np.int64)).sum(axis=others).max())
    build.emit(op, [codes, stored, build.number(read.zero, "uint8"), zero], made)
    build.nodes[-1].name = node.name
    build.nodes[-1].attribute.extend(node.attribute)
    shape = (-1, *[1] * (weight.ndim - 2)) if conv else (-1,)
    value = Value(made, scales.reshape(shape), 0.0, bound)
    reach = float((bound * scales).max())
    value = replace(value, amax=build.amax(output, reach))
    build.values[output] = value if not conv or bias is None else added(build, value, bias.reshape(shape), output)


def channel_codes(weight: Array, entry: WeightScale, read: np.float64, bias: Array | None) -> tuple[Array, Array]:
    """Weight codes, int8, and scales of their sums, float64 [O]: s_a s_w.

    A channel whose bias would not fit an int32 at that scale - its weights are all but zero beside it - has its scale
    doubled until it does, and its codes rounded to that.
    """
    scales, factor = entry.scales.astype(np.float64) * read, np.ones(len(entry.scales))
    if bias is not None:
        with np.errstate(divide="ignore"):
            doublings = np.ceil(np.log2(np.abs(bias.astype(np.float64)) / (scales * (fixed.SUM_LIMIT // 2))))
        factor = 2.0 ** np.maximum(doublings, 0)
    coarser = (entry.scales * factor).astype(np.float32)
    return quantize_weight(weight, coarser, entry.axis), scales * factor


def added(build: Builder, value: Value, constant: Array, output: str) -> Value:
    """A value plus a constant, rounded to the value's own scale: a bias at scale s_a s_w."""
    integers = np.rint(constant.astype(np.float64) / value.scale)
    bound = value.bound + int(np.abs(integers).max())
    kind = np.int64 if bound > fixed.SUM_LIMIT or value.elem_type == TensorProto.INT64 else np.int32
    elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    held = Value(build.constant(f"{output}_addend", integers.astype(kind)), value.scale, 0.0, bound, elem_type)
    made = build.binary("Add", (value, held), output, bound)
    return replace(made, amax=build.amax(output, value.amax + float(np.abs(constant).max())))


def add(build: Builder, node: NodeProto, exponents: bool) -> None:
    """Residual sums: both branches at one scale. A bias: `added`; what a Softmax reads: `Builder.exponent`."""
    stored = [name for name in node.input if name in build.constants]
    if stored:
        value = build.value(next(name for name in node.input if name not in build.constants))
        build.values[node.output[0]] = added(build, value, build.constants[stored[0]], node.output[0])
        return
    first, second = aligned(build, node, exponents)
    made = build.binary("Add", (first, second), node.output[0], first.bound + second.bound)
    build.values[node.output[0]] = replace(made, amax=build.amax(node.output[0], first.amax + second.amax))


def aligned(build: Builder, node: NodeProto, exponents: bool = False) -> tuple[Value, Value]:
    """Both operands at one scale: that of exponents, or a wide one for the magnitude of their sum."""
    values = [build.value(name) for name in node.input]
    if exponents:
        first, second = (build.exponent(value) for value in values)
    else:
        scale = build.amax(node.output[0], sum(value.amax for value in values)) / 2**fixed.WIDE_BITS
        first, second = (build.converted(value, scale, fixed.WIDE_LIMIT, f"for_{node.output[0]}") for value in values)
    return first, second


def maximum(build: Builder, node: NodeProto) -> None:
    """Residual maximum: both branches at one scale."""
    if len(node.input) != 2:
        raise refused(node)
    first, second = aligned(build, node)
    made = build.binary("Max", (first, second), node.output[0], max(first.bound, second.bound))
    build.values[node.output[0]] = replace(made, amax=max(first.amax, second.amax))


def subtract(build: Builder, node: NodeProto) -> None:
    """A constant that is a multiple of the value's scale minus the value: one minus the mask."""
    value = build.value(node.input[1])
    constant = build.constants.get(node.input[0])
    whole = None if constant is None or not value.per_tensor else constant / value.scale
    if whole is None or whole.size != 1 or whole != np.rint(whole):
        raise refused(node)
    number, bound = int(whole), value.bound + abs(int(whole))
    kind = "int32" if value.elem_type == TensorProto.INT32 else "int64"
    build.emit("Sub", [build.number(number, kind), value.name], node.output[0])
    amax = value.amax + abs(number) * float(value.scale)
    build.values[node.output[0]] = replace(value, name=node.output[0], bound=bound, amax=amax)


def multiply(build: Builder, node: NodeProto) -> None:
    """By a constant: another scale. By a mask or another activation: the product of the integers and of the scales."""
    output = node.output[0]
    stored = [name for name in node.input if name in build.constants]
    if stored:
        build.values[output] = scaled(build, node, build.constants[stored[0]])
        return
    first, second = (build.value(name) for name in node.input)
    if first.bound * second.bound > fixed.SUM_LIMIT:
        first, second = build.wide(first), build.wide(second)
    made = build.binary("Mul", (first, second), output, first.bound * second.bound)
    amax = build.amax(output, first.amax * second.amax)
    build.values[output] = replace(made, scale=first.scale * second.scale, amax=amax)


def scaled(build: Builder, node: NodeProto, constant: Array) -> Value:
    """The same integers at another scale, negated where the constant is negative."""
    if constant.size != 1 or not np.isfinite(constant).all() or float(constant.ravel()[0]) == 0:
        raise refused(node)
    factor = float(constant.ravel()[0])
    value = build.value(next(name for name in node.input if name not in build.constants))
    name = value.name if factor > 0 else build.emit("Neg", [value.name], node.output[0])
    return replace(value, name=name, scale=value.scale * abs(factor), amax=value.amax * abs(factor))


def product(build: Builder, node: NodeProto, terms: int | None) -> None:
    """MatMul of two activations, on operands of 17 bits and shares of 21, summed in an int64.

    Each sum is of so many terms; None: as many as there are frames.
    """
    values = [build.value(name) for name in node.input]
    first, second = (item if is_share(item) else build.operand(item) for item in values)
    bound = (terms or fixed.LONGEST) * first.bound * second.bound
    made = build.binary("MatMul", (first, second), node.output[0], bound)
    amax = values[1].amax if is_share(first) else values[0].amax * values[1].amax * sqrt(terms or 1)
    scale = first.scale * second.scale
    build.values[node.output[0]] = replace(made, scale=scale, amax=build.amax(node.output[0], amax))


def is_share(value: Value) -> bool:
    """What Softmax and Sigmoid give."""
    return value.bound <= 1 << fixed.SHARE_BITS and float(value.scale.ravel()[0]) == 2.0**-fixed.SHARE_BITS


def relu(build: Builder, node: NodeProto) -> None:
    """The larger of 0 and the integer."""
    value = build.value(node.input[0])
    if value.elem_type != TensorProto.INT32:
        value = build.wide(value)
    build.emit("Relu", [value.name], node.output[0])
    build.values[node.output[0]] = replace(value, name=node.output[0], amax=build.amax(node.output[0], value.amax))


def clip(build: Builder, node: NodeProto) -> None:
    """Hardtanh: between two integers."""
    value = build.wide(build.value(node.input[0]))
    exact = [float(build.constants[name]) / float(value.scale) for name in node.input[1:] if name in build.constants]
    if len(exact) != 2 or exact[0] > value.bound or exact[1] < -value.bound:
        raise refused(node)
    limits = [int(np.rint(np.clip(limit, -value.bound, value.bound))) for limit in exact]
    build.emit("Clip", [value.name, *(build.number(limit, "int32") for limit in limits)], node.output[0])
    bound, amax = max(map(abs, limits)), build.amax(node.output[0], value.amax)
    build.values[node.output[0]] = replace(value, name=node.output[0], bound=bound, amax=amax)


def sigmoid(build: Builder, node: NodeProto) -> None:
    """`quant.integer_math.sigmoid`."""
    share(build, node, "Sigmoid", build.exponent(build.value(node.input[0]), SIGMOID_LIMIT))


def softmax(build: Builder, node: NodeProto) -> None:
    """`quant.integer_math.softmax` over the last axis."""
    if attribute(node, "axis", -1) != -1:
        raise refused(node)
    share(build, node, "Softmax", build.exponent(build.value(node.input[0]), EXPONENT_SUM_LIMIT))


def share(build: Builder, node: NodeProto, op: str, value: Value) -> None:
    """Emit Softmax or Sigmoid, whose results are shares of one."""
    build.emit(op, [value.name], node.output[0], DOMAIN)
    scale, bound = np.asarray(2.0**-fixed.SHARE_BITS), 1 << fixed.SHARE_BITS
    build.values[node.output[0]] = Value(node.output[0], scale, 1.0, bound, int(TensorProto.INT64))


def layer_norm(build: Builder, node: NodeProto) -> None:
    """`quant.integer_math.normalize`, then gamma sqrt(d) as multipliers and beta as addends."""
    gamma = build.constants[node.input[1]].astype(np.float64)
    beta = build.constants[node.input[2]].astype(np.float64) if len(node.input) > 2 else np.zeros_like(gamma)
    if attribute(node, "axis", -1) != -1 or gamma.ndim != 1:
        raise refused(node)
    value, count, output = build.wide(build.value(node.input[0])), len(gamma), node.output[0]
    eps = max(1, round(count * float(attribute(node, "epsilon", 1e-5)) / float(value.scale) ** 2))
    if eps >= 1 << fixed.PRODUCT_BITS - 2:
        raise refused(node)  # numbers so small that only the epsilon decides
    inputs = [
        value.name,
        build.constant(f"ones_{count}", np.ones((count, 1), np.int64)),
        build.number(count),
        build.number(1 << value.bound.bit_length()),
        build.number(eps),
    ]
    made = build.emit("Normalize", inputs, f"{output}_normalized", DOMAIN)
    amax = build.amax(output, float((np.abs(gamma) * sqrt(count) + np.abs(beta)).max()))
    scale = np.float64(amax / 2**fixed.WIDE_BITS)
    normal = Value(made, gamma * sqrt(count) / 2**fixed.ONE, amax, 1 << fixed.ONE, int(TensorProto.INT64))
    build.values[output] = build.symmetric(normal, scale, fixed.WIDE_LIMIT, output, beta / scale)


def pooled(build: Builder, node: NodeProto, read: Codes) -> None:
    """Maximum over windows, of the 8-bit codes that the next weighted node reads: codes keep the order of values."""
    output = node.output[0]
    codes = build.eight_bits(build.value(node.input[0]), read, f"{output}_read")
    build.emit("MaxPool", [codes], f"{output}_codes")
    build.nodes[-1].attribute.extend(node.attribute)
    build.values[output] = centered(build, f"{output}_codes", output, read)


def centered(build: Builder, codes: str, output: str, read: Codes) -> Value:
    """uint8 codes as int32 around 0."""
    made = build.cast(codes, f"{codes}_int32", TensorProto.INT32)
    build.emit("Sub", [made, build.number(read.zero, "int32")], output)
    return Value(output, np.asarray(read.scale, np.float64), float(read.scale) * read.reach, read.reach)


def moved(build: Builder, node: NodeProto) -> None:
    """Operators that only move numbers, which then need one scale for all of them."""
    value = build.value(node.input[0])
    value = value if value.per_tensor else build.wide(value)
    copied = build.renamed(node)
    copied.input[0] = value.name
    build.nodes.append(copied)
    for name in node.output:
        build.values[name] = replace(value, name=name)


def refused(node: NodeProto) -> BuildError:
    """An operator, or a form of it, that has no integer arithmetic here."""
    return BuildError(f"{node.name or node.output[0]}: no integer form of this {node.op_type}", UNSUPPORTED)


MOVES = ("Transpose", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Pad")
OPERATORS: Mapping[str, Callable[[Builder, NodeProto], None]] = {
    "Mul": multiply,
    "Sub": subtract,
    "Max": maximum,
    "Relu": relu,
    "Clip": clip,
    "Sigmoid": sigmoid,
    "Softmax": softmax,
    "LayerNormalization": layer_norm,
    **dict.fromkeys(MOVES, moved),
}
