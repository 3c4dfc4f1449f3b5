"""The builder: conversions between formats, run alone in ONNX Runtime."""

from fractions import Fraction

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from trtasr.errors import BuildError
from trtasr.graph.check import check_model, run_graph
from trtasr.graph.codes import Codes
from trtasr.graph.integer_build import Builder, Value, float_constants
from trtasr.graph.integer_functions import DOMAIN, FUNCTIONS, OPSET
from trtasr.quant.fixed_point import EXPONENT_LIMIT, EXPONENT_SCALE, OPERAND_LIMIT, SUM_LIMIT, WIDE_LIMIT
from trtasr.values import ScaleTable, TensorScale

KINDS = {TensorProto.INT32: np.int32, TensorProto.INT64: np.int64}


def builder(value=None, codes=None, **magnitudes):
    """A builder that knows the integers of `x`, the codes that layers read of it, and magnitudes."""
    entries = {name: TensorScale(amax, "max") for name, amax in magnitudes.items()}
    made = Builder(ScaleTable(entries, {}), {"x": codes} if codes else {}, {}, {})
    if value is not None:
        made.values["x"] = value
    return made


def value_of(scale, bound, amax=1.0, elem_type=TensorProto.INT32):
    return Value("x", np.asarray(scale, np.float64), amax, bound, elem_type)


def ran(build, output, x, elem_type=TensorProto.INT32):
    """What the collected nodes make of integers x."""
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    kinds = [helper.make_tensor_value_info("x", elem_type, x.shape)]
    made = [helper.make_tensor_value_info(output, TensorProto.UNDEFINED, None)]
    graph = helper.make_graph(build.nodes, "built", kinds, made, list(build.initializers.values()))
    model = helper.make_model(graph, opset_imports=imports, ir_version=9, functions=list(FUNCTIONS.values()))
    inferred = onnx.shape_inference.infer_shapes(model)
    model.graph.output[0].CopyFrom(inferred.graph.output[0])
    check_model(model)
    return run_graph(model, {"x": x.astype(KINDS[elem_type])})[output]


def expected(x, ratio, low, high):
    """clip(round(x ratio)), halves up, exact."""
    half = Fraction(1, 2)
    made = [
        (Fraction(int(q)) * Fraction(float(factor)) + half).__floor__()
        for q, factor in zip(x.ravel(), np.broadcast_to(ratio, x.shape).ravel(), strict=True)
    ]
    return np.clip(np.array(made), low, high).reshape(x.shape)


def initializers(build):
    return {name: numpy_helper.to_array(item) for name, item in build.initializers.items()}


def operators(build):
    return [node.op_type for node in build.nodes]


# 8-bit codes


@pytest.mark.parametrize("zero", [0, 37, 128, 255])
def test_codes_are_rounded_and_saturate_around_their_zero_point(zero):
    build = builder(value_of(0.001, 2**20), Codes(np.float32(0.25), zero))
    x = np.concatenate([np.arange(-70_000, 70_000, 13), [2**20, -(2**20)]])[None]
    made = ran(build, build.codes("x"), x)
    assert made.dtype == np.uint8
    assert np.array_equal(made, expected(x, 0.001 / 0.25, -zero, 255 - zero) + zero)
    assert made.min() == 0 or zero == 0
    assert made.max() == 255


def test_channels_have_ratios_of_their_own():
    scales = np.array([[0.001], [0.02], [3.0], [1e-9]])
    build = builder(value_of(scales, 2**22), Codes(np.float32(0.3), 128))
    x = np.random.default_rng(0).integers(-(2**22), 2**22, (2, 4, 300))
    made = ran(build, build.codes("x"), x)
    reference = expected(x, scales / np.float64(np.float32(0.3)), -128, 127) + 128
    assert (made != reference).mean() < 1e-3  # ratios have 31 bits in the largest channel, fewer in the others
    assert np.abs(made.astype(int) - reference).max() <= 1


def test_codes_that_have_the_scale_already_are_only_moved():
    scale = np.float32(0.1)
    build = builder(value_of(np.float64(scale), 128), Codes(scale, 128))
    x = np.arange(-128, 128)[None]
    assert np.array_equal(ran(build, build.codes("x"), x), x + 128)
    assert operators(build) == ["Add", "Cast"]


@pytest.mark.parametrize(("bound", "zero"), [(129, 128), (128, 127), (100, 0), (256, 128)])
def test_codes_that_might_not_fit_are_clipped(bound, zero):
    scale = np.float32(0.1)
    build = builder(value_of(np.float64(scale), bound), Codes(scale, zero))
    x = np.arange(-bound, bound + 1)[None]
    assert np.array_equal(ran(build, build.codes("x"), x), np.clip(x + zero, 0, 255))
    assert operators(build) == ["Rescale", "Cast"]


def test_codes_are_made_once_for_all_readers():
    build = builder(value_of(0.001, 1000), Codes(np.float32(0.25), 128))
    assert build.codes("x") == build.codes("x") == "x_quantized"
    assert len(build.nodes) == 2


def test_a_tensor_without_integers_is_named():
    with pytest.raises(BuildError, match="x: a float tensor"):
        builder(codes=Codes(np.float32(1), 0)).codes("x")


# rescale


@settings(max_examples=60)
@given(st.floats(-30, 6), st.integers(1, 31), st.floats(-1000, 1000), st.integers(0, 9))
def test_rescale_rounds_the_value_over_the_scale_plus_an_offset(power, bits, offset, seed):
    bound = 2**bits - 1
    build = builder(value_of(2.0**power, bound))
    name = build.rescale(build.values["x"], np.float64(1), (-5000, 3000, 17), "y", np.asarray([offset]))
    x = np.concatenate([np.random.default_rng(seed).integers(-bound, bound + 1, 30), [bound, -bound]])[None]
    reference = np.floor(x * 2.0**power + offset + 0.5)
    assert np.abs(ran(build, name, x) - np.clip(reference, -5000, 3000) - 17).max() <= 1


def test_offsets_are_added_before_rounding():
    build = builder(value_of(0.25, 100))
    name = build.rescale(build.values["x"], np.float64(1), (-50, 50, 0), "y", np.array([0.5]))
    assert ran(build, name, np.array([[-3, -2, -1, 0, 1, 2, 3]])).tolist() == [[0, 0, 0, 1, 1, 1, 1]]


# formats


def test_wide_codes_keep_twenty_bits_and_saturate_at_sixteen_times_the_magnitude():
    scales = np.array([[1e-4], [2e-4]])
    build = builder(value_of(scales, 2**30, amax=3.0))
    made = build.wide(build.values["x"])
    assert (made.bound, made.elem_type, float(made.scale)) == (WIDE_LIMIT, TensorProto.INT32, 3 / 2**20)
    x = np.array([[30_000, -30_000, 2**29], [15_000, 7, -(2**29)]])
    found = ran(build, made.name, x)
    assert found.dtype == np.int32
    assert np.abs(found[:, :2] * made.scale - (x * scales)[:, :2]).max() <= made.scale * 0.51
    assert found[:, 2].tolist() == [WIDE_LIMIT, -WIDE_LIMIT]


def test_the_limit_is_no_more_than_can_be_reached():
    build = builder(value_of(np.array([[1.0], [0.5]]), 1000, amax=1000.0))
    made = build.wide(build.values["x"])
    assert 1000 * 2**20 / 1000 < made.bound <= 2**20 + 3
    assert ran(build, made.name, np.array([[1000, -1000], [1000, 0]])).tolist() == [[2**20, -(2**20)], [2**19, 0]]


@pytest.mark.parametrize(
    ("scale", "bound", "kept"),
    [
        (0.5, 2 * WIDE_LIMIT, True),
        (0.5, 2 * WIDE_LIMIT + 1, False),
        ([0.5], 5, True),
        ([0.5, 0.5], 5, False),
    ],
)
def test_values_with_one_scale_and_few_bits_are_wide_already(scale, bound, kept):
    build = builder(value_of(scale, bound, amax=100.0))
    assert (build.wide(build.values["x"]) is build.values["x"]) == kept
    assert (not build.nodes) == kept


def test_operands_and_exponents_have_their_units():
    build = builder(value_of(np.array([[1e-4], [2e-4]]), 2**24, amax=2.0))
    operand, exponent = build.operand(build.values["x"]), build.exponent(build.values["x"])
    assert (float(operand.scale), operand.bound) == (2.0 / 2**14, OPERAND_LIMIT)
    assert float(exponent.scale) == EXPONENT_SCALE
    x = np.array([[20_000, -9000], [10_000, 2**24]])
    assert ran(build, operand.name, x).tolist() == [[2**14, -7373], [2**14, OPERAND_LIMIT]]
    small = np.clip(x, -30_000, 30_000)
    power = 2.0 ** (ran(build, exponent.name, small) / 2**16)
    assert power == pytest.approx(np.exp(small * np.array([[1e-4], [2e-4]])), rel=1e-5)


def test_exponents_saturate():
    build = builder(value_of(10_000.0, 2))
    made = build.exponent(build.values["x"])
    assert made.bound == EXPONENT_LIMIT
    assert ran(build, made.name, np.array([[1, -1, 0, -2]])).tolist() == [
        [EXPONENT_LIMIT, -EXPONENT_LIMIT, 0, -EXPONENT_LIMIT]
    ]


def test_conversions_are_made_once_per_format():
    build = builder(value_of(np.array([1e-4, 1e-4]), 2**28))
    first = build.wide(build.values["x"])
    count = len(build.nodes)
    assert build.wide(build.values["x"]) is first
    assert len(build.nodes) == count
    assert build.operand(build.values["x"]) is not first
    assert len(build.nodes) == 2 * count


def test_two_views_of_one_tensor_are_converted_by_their_own_scales():
    """As behind a multiplication with a constant, which makes no node of its own."""
    build = builder(value_of([1e-4, 1e-4], 2**28))
    whole = build.converted(build.values["x"], 1e-3, WIDE_LIMIT, "whole")
    half = build.converted(value_of([0.5e-4, 0.5e-4], 2**28), 1e-3, WIDE_LIMIT, "whole")
    assert half.name != whole.name
    x = np.array([[20_000, -70_000], [20, 90_000]])
    assert ran(build, whole.name, x).tolist() == [[2000, -7000], [2, 9000]]
    assert ran(build, half.name, x).tolist() == [[1000, -3500], [1, 4500]]


# sums and products


@pytest.mark.parametrize(
    ("bound", "first", "second", "kind"),
    [
        (SUM_LIMIT, TensorProto.INT32, TensorProto.INT32, np.int32),
        (SUM_LIMIT + 1, TensorProto.INT32, TensorProto.INT32, np.int64),
        (5, TensorProto.INT32, TensorProto.INT64, np.int64),
        (5, TensorProto.INT64, TensorProto.INT64, np.int64),
    ],
)
def test_results_have_the_smallest_type_that_holds_them(bound, first, second, kind):
    build = builder()
    build.emit("Cast", ["x"], "a", to=first)
    build.emit("Cast", ["x"], "b", to=second)
    operands = tuple(
        Value(name, np.asarray(scale), 2.0, 10**9, elem_type)
        for name, scale, elem_type in (("a", 0.5, first), ("b", 0.25, second))
    )
    made = build.binary("Add", operands, "y", bound)
    assert (KINDS[made.elem_type], made.bound, float(made.scale), made.amax) == (kind, bound, 0.5, 2.0)
    found = ran(build, "y", np.array([[10**9, -7]]))
    assert (found.dtype, found.tolist()) == (kind, [[2 * 10**9, -14]])


def test_a_tensor_is_widened_once_and_a_rescaled_one_not_at_all():
    build = builder(value_of(np.array([1e-4, 1e-4]), 2**28))
    value, far = build.values["x"], 2**40
    for name in ("y", "z"):
        build.binary("Mul", (value, value), name, far)
    assert operators(build).count("Cast") == 1
    rescaled = build.wide(value)
    build.binary("Mul", (rescaled, rescaled), "v", far)
    assert operators(build).count("Cast") == 2  # the one to int32; the int64 before it is read
    assert ran(build, "v", np.array([[3, -2]]) * 10**4).tolist() == [[(3 * 2**20) ** 2, (2 * 2**20) ** 2]]


# constants


def test_numbers_are_shared_and_have_the_kind_of_their_name():
    build = builder()
    assert build.number(7) == build.number(7) == "int64_7"
    assert build.number(7, "uint8") == "uint8_7"
    assert {name: (str(item.dtype), item.shape) for name, item in initializers(build).items()} == {
        "int64_7": ("int64", ()),
        "uint8_7": ("uint8", ()),
    }


def test_magnitudes_are_the_tables_where_it_has_them():
    build = builder(y=3.0)
    assert (build.amax("y", 5.0), build.amax("other", 5.0)) == (3.0, 5.0)


def test_constants_come_from_initializers_and_nodes():
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["" : 20]> g (float[N] x) => (float[N] y) {
        half = Constant <value = float {0.5}> () z = Mul(x, half) y = Add(z, bias) }""")
    model.graph.initializer.append(numpy_helper.from_array(np.float32([1, 2]), "bias"))
    found = float_constants(model)
    assert (float(found["half"]), found["bias"].tolist(), set(found)) == (0.5, [1.0, 2.0], {"half", "bias"})
