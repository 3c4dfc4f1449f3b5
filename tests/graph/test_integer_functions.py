"""The functions of the integer graph, run by ONNX Runtime, against `quant.integer_math` bit for bit."""

import math
from functools import cache

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_graphs import opened, parsed
from onnx import TensorProto, helper, inliner, shape_inference

from trtasr.graph.check import check_model, run_graph
from trtasr.graph.integer_functions import DOMAIN, FUNCTIONS
from trtasr.graph.integer_ops import SIGMOID_LIMIT
from trtasr.quant import integer_math
from trtasr.quant.fixed_point import EXPONENT_BITS, EXPONENT_LIMIT, WIDE_LIMIT, dyadic

UNIT = 2**EXPONENT_BITS
PARAMETERS = {
    "Rescale": "int64[C] multiplier, int64[D] addend, int64 divisor, uint64 low, uint64 high, int64 zero",
    "Normalize": "int64[N,K] ones, int64 count, int64 shift, int64 eps",
}
SHAPES = {
    "Exp2": "int64[N] t",
    "Sigmoid": "int32[N] t",
    "Softmax": "int32[M,N] t",
    "Isqrt": "int64[N,1] n",
    "Rescale": "int64[M,N] x",
    "Normalize": "int32[M,N] x",
}


def calling(name):
    """A graph of one call."""
    declared = ", ".join(filter(None, (SHAPES[name], PARAMETERS.get(name, ""))))
    names = ", ".join(item.split()[-1] for item in declared.split(", "))
    output = "int64[P] y" if name in ("Exp2", "Sigmoid") else "int64[P,Q] y"
    return parsed(declared, output, f"[call] y = {DOMAIN}.{name}({names})", functions=FUNCTIONS.values())


@cache
def session(name):
    return opened(calling(name))


def ran(name, **feeds):
    return session(name)({key: np.asarray(value) for key, value in feeds.items()})["y"]


def drawn(shape, low, high, seed=0):
    return np.random.default_rng(seed).integers(low, high, shape, dtype=np.int64)


def signed(*magnitudes):
    return np.array([sign * number for number in magnitudes for sign in (1, -1)])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_valid_and_have_integers_inside(name):
    model = calling(name)
    check_model(model)
    known = shape_inference.infer_shapes(inliner.inline_local_functions(model), strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*known.value_info, *known.output)}
    assert {output for node in known.node for output in node.output} == set(types)
    assert set(types.values()) <= {TensorProto.INT32, TensorProto.INT64, TensorProto.UINT64}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nodes_of_a_function_have_names_of_their_own(name):
    """ONNX Runtime refuses a graph in which two have one."""
    names = [node.name for node in FUNCTIONS[name].node]
    assert len(set(names)) == len(names)


# Rescale


def rescale_parameters(ratio, bound, limit, offset=0.0):
    """Inputs of Rescale and of `integer_math.rescale` for one dyadic ratio per channel."""
    found = dyadic(ratio, bound, offset, limit)
    unit = 1 << found.shift
    addend = np.rint(np.ldexp(offset, found.shift)).astype(np.int64) + unit // 2 + found.raise_by * unit
    low, high = found.raise_by - limit, found.raise_by + limit
    feeds = {
        "multiplier": found.multiplier,
        "addend": np.broadcast_to(addend, found.multiplier.shape),
        "divisor": np.int64(unit),
        "low": np.uint64(low),
        "high": np.uint64(high),
        "zero": np.int64(found.raise_by),
    }
    reference = ((found.multiplier, addend, np.int64(unit)), (np.int64(low), np.int64(high)), np.int64(found.raise_by))
    return feeds, reference


@settings(max_examples=300)
@given(st.floats(-40, 8), st.integers(1, 49), st.integers(1, 2**25), st.floats(-(2.0**24), 2.0**24), st.integers(0, 99))
def test_rescale_equals_the_mathematics(power, bits, limit, offset, seed):
    ratio = 2.0**power * np.array([1, -0.37, 0.0, 2.0**-9])
    bound = 2**bits if power + bits < 55 else 2 ** int(55 - power)
    x = drawn((16, 4), -bound, bound + 1, seed)
    x[:2] = [[bound] * 4, [-bound] * 4]
    feeds, reference = rescale_parameters(ratio, bound, limit, np.full(4, offset))
    assert np.array_equal(ran("Rescale", x=x, **feeds), integer_math.rescale(x, *reference))


def test_rescale_is_right_where_sums_fill_62_bits():
    """The clip sees quotients with the 32nd bit set, which ONNX Runtime 1.31 compares wrongly as int64."""
    bound = 2**40
    x = np.concatenate([drawn((500, 1), -bound, bound), [[bound], [-bound], [2**31], [-(2**31)], [2**32 + 7]]])
    for ratio in (1.0, -1.0, 2.0**-4, 0.99 * 2.0**-8):
        feeds, reference = rescale_parameters(np.array([ratio]), bound, 2**31, np.array([0.0]))
        assert reference[2] * reference[0][2] > 2**58
        assert np.array_equal(ran("Rescale", x=x, **feeds), integer_math.rescale(x, *reference))


# Exp2, Sigmoid


def test_exp2_equals_the_mathematics():
    t = np.concatenate([np.arange(0, 33 * UNIT), drawn(50_000, 0, 2**62), [2**31, 2**32, 2**32 + 1, 2**62]])
    assert np.array_equal(ran("Exp2", t=t), integer_math.exp2(t))


def test_sigmoid_equals_the_mathematics():
    t = np.concatenate(
        [
            np.arange(-SIGMOID_LIMIT, SIGMOID_LIMIT + 1, 11),
            drawn(50_000, -(2**31), 2**31 - 1),
            signed(0, 1, 2, UNIT, 2**24, 2**30, 2**31 - 2),
            [-(2**31)],
        ]
    )
    assert np.array_equal(ran("Sigmoid", t=t.astype(np.int32)), integer_math.sigmoid(t))


def run_pair(op, kind, first, second):
    """An operator on two vectors."""
    model = parsed(f"{kind}[N] a, {kind}[N] b", f"{kind}[N] y", f"y = {op}(a, b)")
    return run_graph(model, {"a": np.array(first, kind), "b": np.array(second, kind)})["y"]


SMALL_MAX = [2**31 - 1] * 64  # as many as vector instructions take
LARGE = [2**31, 2**32 - 1] * 32
MENDED = run_pair("Max", "int64", SMALL_MAX, LARGE).tolist() == LARGE


def test_sigmoid_of_the_largest_int32():
    """t + 1 would have the 32nd bit set."""
    assert set(ran("Sigmoid", t=np.full(64, 2**31 - 1, np.int32)).tolist()) == {2**20}


# Softmax


@pytest.mark.parametrize("terms", [1, 2, 3, 100, 5000])
@pytest.mark.parametrize("limit", [1, UNIT, 40 * UNIT, EXPONENT_LIMIT, 2 * EXPONENT_LIMIT, 2**31])
def test_softmax_equals_the_mathematics(terms, limit):
    t = drawn((20, terms), -limit, limit, terms)
    assert np.array_equal(ran("Softmax", t=t.astype(np.int32)), integer_math.softmax(t))


def test_softmax_of_masked_equal_and_single_huge_terms():
    t = np.zeros((6, 5000), np.int64)
    t[0, 7], t[1, 7], t[2, 1:] = EXPONENT_LIMIT, 2**31 - 1, -EXPONENT_LIMIT
    t[3], t[4] = 2**31 - 1, -(2**31)
    t[5, ::2] = -(2**31)
    found = ran("Softmax", t=t.astype(np.int32))
    assert np.array_equal(found, integer_math.softmax(t))
    assert found[:3].sum(axis=1).tolist() == [2**20] * 3


# Isqrt


@settings(max_examples=300)
@given(st.lists(st.one_of(st.integers(1, 2**62 - 1), st.integers(1, 2**20)), min_size=1, max_size=50))
def test_isqrt_is_exact(numbers):
    assert ran("Isqrt", n=np.array(numbers)[:, None]).ravel().tolist() == [math.isqrt(n) for n in numbers]


def test_isqrt_of_squares_and_their_neighbours():
    roots = np.concatenate([np.arange(2, 50_000), drawn(50_000, 2, 2**31), np.arange(2**31 - 1000, 2**31)])
    powers = 2 ** np.arange(62, dtype=np.int64)
    n = np.concatenate([roots**2 - 1, roots**2, roots**2 + 1, [1, 2, 3], powers, powers[2:] - 1, [2**62 - 1]])
    found = ran("Isqrt", n=n[:, None])[:, 0]
    assert np.array_equal(found, integer_math.isqrt(n))
    assert found[len(roots) : 2 * len(roots)].tolist() == roots.tolist()


# Normalize


def normalized(x, eps):
    width = x.shape[-1]
    shift = 1 << int(np.abs(x).max()).bit_length()
    return ran(
        "Normalize",
        x=x.astype(np.int32),
        ones=np.ones((width, 1), np.int64),
        count=np.int64(width),
        shift=np.int64(shift),
        eps=np.int64(eps),
    )


@pytest.mark.parametrize("width", [1, 2, 3, 176, 1024])
@pytest.mark.parametrize("limit", [1, 5, 2**20, 2 * WIDE_LIMIT])
@pytest.mark.parametrize("eps", [1, 12345, 2**50])
def test_normalize_equals_the_mathematics(width, limit, eps):
    x = drawn((40, width), -limit, limit + 1, width)
    x[0], x[1], x[2] = limit, -limit, np.where(np.arange(width) % 2, limit, -limit)
    x[3] = np.where(np.arange(width) == 0, limit, 0)
    assert np.array_equal(normalized(x, eps), integer_math.normalize(x, np.int64(eps)))


@given(st.lists(st.integers(-2 * WIDE_LIMIT, 2 * WIDE_LIMIT), min_size=4, max_size=4), st.integers(1, 2**40))
def test_normalize_equals_the_mathematics_for_drawn_numbers(x, eps):
    assert np.array_equal(normalized(np.array([x]), eps), integer_math.normalize(np.array([x]), np.int64(eps)))


# What ONNX Runtime computes wrongly, and how the functions avoid it


@pytest.mark.skipif(MENDED, reason="this ONNX Runtime compares int64 numbers rightly")
def test_runtime_compares_int64_numbers_wrongly_beyond_32_bits():
    """Why clips are done on uint64 and maxima on int32. Where this fails, ONNX Runtime was mended: see `Body.clip`."""
    assert run_pair("Max", "int64", SMALL_MAX, LARGE).tolist() == SMALL_MAX
    assert run_pair("Min", "int64", SMALL_MAX, LARGE).tolist() == LARGE
    clip = parsed("int64[N] a", "int64[N] y", "y = Clip(a, low, high)", {"low": np.int64(0), "high": np.int64(7)})
    assert run_graph(clip, {"a": np.array(LARGE)})["y"].tolist() != [7] * 64


def test_runtime_compares_uint64_and_int32_numbers_rightly():
    numbers = np.array([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**33 + 5, 2**40, 2**62], np.uint64)
    first, second = np.meshgrid(numbers, numbers)
    for op, compare in (("Max", np.maximum), ("Min", np.minimum)):
        found = run_pair(op, "uint64", first.ravel(), second.ravel())
        assert np.array_equal(found, compare(first.ravel(), second.ravel()))
    clip = parsed(
        "uint64[N] a", "uint64[N] y", "y = Clip(a, low, high)", {"low": np.uint64(3), "high": np.uint64(2**40)}
    )
    assert np.array_equal(run_graph(clip, {"a": numbers})["y"], np.clip(numbers, 3, 2**40))


EXTREMES = {
    "Exp2": {"t": np.concatenate([np.arange(0, 2**22, 501), 2 ** np.arange(23, 63)])},
    "Sigmoid": {"t": np.concatenate([np.arange(-SIGMOID_LIMIT, SIGMOID_LIMIT + 1, 501)]).astype(np.int32)},
    "Softmax": {"t": drawn((9, 5000), -EXPONENT_LIMIT, EXPONENT_LIMIT + 1).astype(np.int32)},
    "Isqrt": {"n": np.concatenate([2 ** np.arange(62), drawn(1000, 1, 2**62), [2**62 - 1]])[:, None]},
    "Rescale": {"x": np.array([[2**40], [-(2**40)], [2**31]])} | rescale_parameters(np.ones(1), 2**40, 2**31)[0],
    "Normalize": {
        "x": np.array([[2**25, -(2**25)] * 512, [0] * 1023 + [2**25]], np.int32),
        "ones": np.ones((1024, 1), np.int64),
        "count": np.int64(1024),
        "shift": np.int64(2**26),
        "eps": np.int64(1),
    },
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_int64_comparisons_see_small_numbers_and_sums_exact_ones(name):
    """Every tensor that Clip, Max, Min or ReduceMax reads as int64 fits 31 bits; what ReduceSum makes fits 53."""
    model = inliner.inline_local_functions(calling(name))
    known = shape_inference.infer_shapes(model).graph
    wide = {
        value.name
        for value in (*known.input, *known.value_info, *known.output)
        if value.type.tensor_type.elem_type == TensorProto.INT64
    }
    compared = {
        item
        for node in known.node
        if node.op_type in ("Clip", "Max", "Min", "ReduceMax")
        for item in node.input
        if item in wide
    }
    summed = {node.output[0] for node in known.node if node.op_type == "ReduceSum"}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    made = {value for node in known.node for value in node.output} - {"y"}
    watched.graph.output.extend(
        helper.make_tensor_value_info(item, TensorProto.INT64, None) for item in (compared | summed) & made
    )
    found = run_graph(watched, {key: np.asarray(value) for key, value in EXTREMES[name].items()})
    assert all(np.abs(found[item]).max() < 2**31 for item in compared & made)
    assert all(np.abs(found[item]).max() < 2**53 for item in summed)
    assert not compared - made
