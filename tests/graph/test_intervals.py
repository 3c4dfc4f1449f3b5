from functools import lru_cache
from itertools import product

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from trtasr.errors import QualityError
from trtasr.graph import intervals
from trtasr.graph.check import run_graph
from trtasr.graph.interval import Interval
from trtasr.graph.intervals import Operand, Step, bounds, products

SMALL = [Interval(low, high) for low in range(-4, 5) for high in range(low, 5)]
UNARY = {"Abs": abs, "Neg": lambda a: -a, "Relu": lambda a: max(a, 0)}
BINARY = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Max": max,
    "Min": min,
    "Div": lambda a, b: int(a / b),
    "Mod": lambda a, b: a % b,
}
DIVISIONS = ("Div", "Mod")
SHIFTS = ("LEFT", "RIGHT")


def operand(name, interval, array=None, shape=None):
    return Operand(name, interval, array, array.shape if array is not None else shape)


def constant(name, values, dtype=np.int64):
    array = np.asarray(values, dtype)
    return operand(name, intervals.of_array(array), array)


def step(op, *operands, dtype=np.int64, longest=100, **attributes):
    node = helper.make_node(op, [item.name if item else "" for item in operands], ["y"], name="n", **attributes)
    return Step(node, operands, np.dtype(dtype), longest)


def bound(op, *found, **options):
    """Interval of an operator on intervals."""
    return bounds(step(op, *(operand(f"x{index}", interval) for index, interval in enumerate(found)), **options))


def members(interval):
    return range(interval.low, interval.high + 1)


@lru_cache
def graph(op, inputs, kind="int64", attributes=""):
    names = "abc"[:inputs]
    declared = ", ".join(f"{kind}[N] {name}" for name in names)
    return onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["" : 20]>
        g ({declared}) => ({kind}[N] y) {{ y = {op} {attributes} ({", ".join(names)}) }}""")


@st.composite
def interval_and_values(draw, low=-(2**15), high=2**15, count=8):
    ends = sorted(draw(st.tuples(st.integers(low, high), st.integers(low, high))))
    values = draw(st.lists(st.integers(*ends), min_size=count, max_size=count))
    return Interval(*ends), [*values, *ends]


def inside(values, found):
    return found.low <= int(values.min()) and int(values.max()) <= found.high


@pytest.mark.parametrize("op", UNARY)
def test_unary_rules_are_exact(op):
    for a in SMALL:
        values = [UNARY[op](x) for x in members(a)]
        assert bound(op, a) == Interval(min(values), max(values)), a


@pytest.mark.parametrize("op", BINARY)
def test_binary_rules_are_exact(op):
    """All but Mod, whose interval may be too wide."""
    for a, b in product(SMALL, SMALL):
        if op in DIVISIONS and b.low <= 0 <= b.high:
            continue
        values = [BINARY[op](x, y) for x, y in product(members(a), members(b))]
        found = bound(op, a, b)
        assert found.low <= min(values), (a, b)
        assert max(values) <= found.high, (a, b)
        assert op == "Mod" or found == Interval(min(values), max(values)), (a, b)


def test_mod_is_as_narrow_as_its_divisor_and_its_dividend():
    assert bound("Mod", Interval(-9, 99), Interval(2, 5)) == Interval(0, 4)
    assert bound("Mod", Interval(0, 3), Interval(2, 5)) == Interval(0, 3)
    assert bound("Mod", Interval(1, 3), Interval(5, 7)) == Interval(1, 3)
    assert bound("Mod", Interval(-9, 99), Interval(-5, -2)) == Interval(-4, 0)


@pytest.mark.parametrize("op", [op for op in BINARY if op not in DIVISIONS])
@settings(max_examples=40, deadline=None)
@given(a=interval_and_values(), b=interval_and_values())
def test_the_runtime_stays_inside(op, a, b):
    made = run_graph(graph(op, 2), {"a": np.asarray(a[1]), "b": np.asarray(b[1])})["y"]
    assert inside(made, bound(op, a[0], b[0]))


@pytest.mark.parametrize("op", DIVISIONS)
@settings(max_examples=40, deadline=None)
@given(a=interval_and_values(), b=interval_and_values(low=1), sign=st.sampled_from([-1, 1]))
def test_the_runtime_divides_as_the_rules_do(op, a, b, sign):
    divisor = b[0] if sign == 1 else -b[0]
    made = run_graph(graph(op, 2), {"a": np.asarray(a[1]), "b": sign * np.asarray(b[1])})["y"]
    assert inside(made, bound(op, a[0], divisor))


@settings(max_examples=40, deadline=None)
@given(a=interval_and_values(), low=st.integers(-100, 100), high=st.integers(-100, 100))
def test_the_runtime_clips_inside(a, low, high):
    """Also where the limits cross."""
    limits = [operand(name, Interval(value, value)) for name, value in (("low", low), ("high", high))]
    made = run_graph(graph_of_clip(), {"a": np.asarray(a[1]), "low": np.asarray(low), "high": np.asarray(high)})["y"]
    assert inside(made, bounds(step("Clip", operand("a", a[0]), *limits)))


@lru_cache
def graph_of_clip():
    return onnx.parser.parse_model("""<ir_version: 9, opset_import: ["" : 20]>
        g (int64[N] a, int64 low, int64 high) => (int64[N] y) { y = Clip(a, low, high) }""")


def test_the_rule_of_clip_is_exact():
    x, ends = operand("x", Interval(-3, 9)), [(-5, -4), (-1, 2), (4, 7), (10, 12)]
    for low, high in product(ends, ends):
        limits = operand("low", Interval(*low)), operand("high", Interval(*high))
        values = [
            min(max(a, b), c)
            for a in range(-3, 10)
            for b in range(low[0], low[1] + 1)
            for c in range(high[0], high[1] + 1)
        ]
        assert bounds(step("Clip", x, *limits)) == Interval(min(values), max(values)), (low, high)


def test_clip_without_limits_and_with_one():
    wide = operand("x", Interval(-300, 300))
    assert bounds(step("Clip", wide)) == Interval(-300, 300)
    assert bounds(step("Clip", wide, None, operand("high", Interval(5, 9)))) == Interval(-300, 9)
    assert bounds(step("Clip", wide, operand("low", Interval(-7, 2)))) == Interval(-7, 300)


@pytest.mark.parametrize("direction", SHIFTS)
@settings(max_examples=40, deadline=None)
@given(a=interval_and_values(low=0), b=interval_and_values(low=0, high=40))
def test_the_runtime_shifts_inside(direction, a, b):
    model = graph("BitShift", 2, "uint64", f'<direction="{direction}">')
    made = run_graph(model, {"a": np.asarray(a[1], np.uint64), "b": np.asarray(b[1], np.uint64)})["y"]
    found = bound("BitShift", a[0], b[0], dtype=np.uint64, direction=direction)
    assert inside(made, found)
    assert found.low <= min(a[1]) << min(b[1]) if direction == "LEFT" else found.high == max(a[1]) >> min(b[1])


def test_a_shift_by_all_bits_is_refused():
    with pytest.raises(QualityError, match=r"'n' \(BitShift\): .*uint32 .* 32 bits"):
        bound("BitShift", Interval(0, 1), Interval(0, 32), dtype=np.uint32, direction="RIGHT")


def test_variadic_operators_read_all_operands():
    three = Interval(-9, -3), Interval(0, 4), Interval(-1, 7)
    assert bound("Max", *three) == Interval(0, 7)
    assert bound("Min", *three) == Interval(-9, -3)
    assert bound("Concat", *three, axis=0) == Interval(-9, 7)


def test_a_tensor_times_itself_is_a_square():
    x = operand("x", Interval(-3, 2))
    assert bounds(step("Mul", x, x)) == Interval(0, 9)
    assert bounds(step("Mul", x, operand("y", Interval(-3, 2)))) == Interval(-6, 9)


@pytest.mark.parametrize("divisor", [Interval(0, 3), Interval(-3, 0), Interval(-1, 1)])
@pytest.mark.parametrize("op", DIVISIONS)
def test_division_by_an_interval_with_zero_is_refused(op, divisor):
    with pytest.raises(QualityError, match=rf"'n' \({op}\): .*zero.* {divisor.low} .. {divisor.high}\n"):
        bound(op, Interval(1, 2), divisor)


def test_operators_without_a_rule_are_refused():
    for found in (
        step("Erf", operand("x", Interval(0, 1))),
        step("Mod", operand("x", Interval(0, 1)), operand("y", Interval(1, 1)), fmod=1),
    ):
        with pytest.raises(QualityError, match=f"'n' .{found.node.op_type}.: no .*rule"):
            bounds(found)


def test_a_second_output_has_no_rule():
    node = helper.make_node("MaxPool", ["x"], ["y", "indices"], name="pool", kernel_shape=[2])
    with pytest.raises(QualityError, match=r"'pool' \(MaxPool\): no .*rule"):
        bounds(Step(node, (operand("x", Interval(0, 9)),), np.dtype(np.int8), 1))


@pytest.mark.parametrize(
    ("found", "kind", "words"),
    [
        (Interval(0, 300), "uint8", "up to 300"),
        (Interval(-1, 3), "uint64", "down to -1"),
        (Interval(-(2**31) - 1, 0), "int32", "down to -2147483649"),
        (Interval(0, 2**70), "int64", r"up to 2\^70"),
    ],
)
def test_values_must_fit_their_type(found, kind, words):
    with pytest.raises(QualityError, match=rf"'n' \(Identity\): .*{words} .*{kind}"):
        bound("Identity", found, dtype=kind)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "uint64", "int64"])
def test_all_values_of_a_type_fit_it(kind):
    limits = np.iinfo(kind)
    assert bound("Identity", Interval(limits.min, limits.max), dtype=kind) == Interval(limits.min, limits.max)


@pytest.mark.parametrize(
    ("shape", "axes", "low", "high"),
    [
        ((2, 5, 7), [1], -15, 20),  # exactly five
        ((2, None, 7), [1], -300, 400),  # one to a hundred
        ((2, None, 7), [-1, 1], -2100, 2800),
        ((2, 5, 7), [], -210, 280),  # all
        (None, [-1], -300, 400),
    ],
)
def test_a_sum_has_as_many_terms_as_its_axes(shape, axes, low, high):
    found = bounds(step("ReduceSum", operand("x", Interval(-3, 4), shape=shape), constant("axes", axes)))
    assert found == Interval(low, high)


def test_a_sum_without_constant_axes():
    x, axes = operand("x", Interval(2, 4), shape=(3, None)), operand("axes", Interval(0, 1))
    assert bounds(step("ReduceSum", x, axes)) == Interval(2, 1200)
    assert bounds(step("ReduceSum", x)) == Interval(6, 1200)
    assert bounds(step("ReduceSum", x, noop_with_empty_axes=1)) == Interval(2, 4)
    with pytest.raises(QualityError, match=r"'x': .*unknown"):
        bounds(step("ReduceSum", operand("x", Interval(2, 4))))


def test_padding_and_filling():
    x, pads = operand("x", Interval(5, 9)), constant("pads", [1, 1])
    assert bounds(step("Pad", x, pads)) == Interval(0, 9)
    assert bounds(step("Pad", x, pads, constant("value", 12))) == Interval(5, 12)
    assert bounds(step("Pad", x, pads, mode="edge")) == Interval(5, 9)
    seven = helper.make_tensor("", TensorProto.INT64, [1], [7])
    assert bounds(step("ConstantOfShape", pads, value=seven)) == Interval(7, 7)


def test_range_lies_between_its_ends():
    ends = operand("start", Interval(3, 5)), operand("limit", Interval(-9, 2)), constant("delta", -1)
    assert bounds(step("Range", *ends)) == Interval(-9, 5)


def test_weighted_sums_of_wide_weights_do_not_wrap():
    x, weight = operand("x", Interval(0, 1), shape=(None, 4)), constant("w", np.full((4, 1), 2**62))
    with pytest.raises(QualityError, match=r"'n' \(MatMul\): .* 2\^64 .*int64"):
        bounds(step("MatMul", x, weight))


@pytest.mark.parametrize("per_column", [False, True])
def test_zero_points_of_a_matrix_product(per_column):
    """Columns [3, 1] and [0, 4] minus 2, x of 0 .. 255 minus 128."""
    zeros = [2, 2] if per_column else 2
    inputs = (
        operand("x", Interval(0, 255), shape=(None, 2)),
        constant("w", [[3, 0], [1, 4]], np.uint8),
        constant("xz", 128, np.uint8),
        constant("wz", zeros, np.uint8),
    )
    found = step("MatMulInteger", *inputs, dtype=np.int32)
    assert bounds(found) == Interval(-2 * 128 - 2 * 127, 2 * 127 + 2 * 128)
    assert products(found) == 2


def test_zero_points_of_a_convolution_are_per_channel():
    inputs = (
        operand("x", Interval(0, 10)),
        constant("w", [[[5, 5]], [[9, 1]]], np.uint8),
        None,
        constant("wz", [5, 2], np.uint8),
    )
    assert bounds(step("ConvInteger", *inputs, dtype=np.int32)) == Interval(-10, 70)


def test_zero_points_of_a_constant_left_matrix_are_per_row():
    inputs = (
        constant("a", [[5, 5], [9, 1]], np.uint8),
        operand("b", Interval(0, 10), shape=(2, None)),
        constant("az", [5, 2], np.uint8),
    )
    assert bounds(step("MatMulInteger", *inputs, dtype=np.int32)) == Interval(-10, 70)


@pytest.mark.parametrize(
    ("left", "right", "count"),
    [((None, 6), (6, None), 6), ((None, None), (None, None, 4), 100), ((2, None), (8,), 8), ((2, None), (3, 8, 4), 8)],
)
def test_products_of_two_activations(left, right, count):
    found = step("MatMul", operand("a", Interval(-3, 2), shape=left), operand("b", Interval(1, 5), shape=right))
    assert products(found) == count
    assert bounds(found) == Interval(-15 * count, 10 * count)


def test_fewer_products_than_the_longest():
    a, b = operand("a", Interval(2, 3), shape=(None, None)), operand("b", Interval(1, 5), shape=(None, 1))
    assert bounds(step("MatMul", a, b)) == Interval(0, 1500)


def test_constant_stacks_of_matrices():
    stack = np.asarray([[[1, -2], [3, 4]], [[-5, 0], [6, 7]]])
    x = operand("x", Interval(0, 10), shape=(2, None, 2))
    assert bounds(step("MatMul", x, constant("w", stack))) == Interval(-50, 70)
    assert bounds(step("MatMul", constant("w", stack), x)) == Interval(-50, 130)
    zeros = constant("zeros", np.reshape([1, 3, 0, 7], (2, 2, 1)))
    assert bounds(step("MatMulInteger", constant("w", stack), x, zeros)) == Interval(-50, 10)


def test_a_convolution_with_computed_weights():
    inputs = operand("x", Interval(-3, 2)), operand("w", Interval(1, 5), shape=(None, 4, 3))
    assert bounds(step("ConvInteger", *inputs, dtype=np.int32)) == Interval(-15 * 12, 10 * 12)
