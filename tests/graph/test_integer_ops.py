"""Operators one by one: tiny graphs of a convolution, the operator, and a decoder, through the whole pass."""

import numpy as np
import onnx
import pytest
from integer_graphs import opened, parsed, twin_of, with_log_probs
from onnx import numpy_helper
from tiny_network import table_of

from trtasr.errors import BuildError
from trtasr.graph.check import check_model, run_graph
from trtasr.graph.integer import integerize
from trtasr.graph.integer_ops import OPERATORS, channel_codes
from trtasr.quant.fixed_point import SUM_LIMIT
from trtasr.quant.integer import IntegerExecutor
from trtasr.values import WeightScale


def floats(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


FEEDS = {"features": floats(2, 4, 30), "lengths": np.array([30, 17])}
WEIGHTS = {
    "unit": np.float32(1),
    "half": np.float32(0.5),
    "third": np.float32(-1 / 3),
    "one": np.float32(1),
    "low": np.float32(-1),
    "high": np.float32(1),
    "zero": np.float32(0),
    "six": np.float32(2.5),
    "w": floats(4, 4, 1),
    "b": floats(4),
    "w_again": floats(4, 4, 1, seed=1),
    "w2": floats(3, 4, 1),
    "b2": floats(3),
    "gamma": floats(4, seed=1),
    "beta": floats(4, seed=2),
    "column": floats(4, 1),
    "linear": floats(4, 4),
    "linear_bias": floats(4, seed=3),
}
CLOSE = 5e-4
FIRST = "[scale] scaled = Mul(features, unit) [conv] x = Conv(scaled, w, b)"
AGAIN = "[again] v = Conv(scaled, w_again)"
TURN = "[turn] tx = Transpose <perm=[0,2,1]> (x)"
BACK = "[back] y = Transpose <perm=[0,2,1]> (ty)"
END = """[decoder] d = Conv(y, w2, b2) [last] e = Transpose <perm=[0,2,1]> (d)
         [end] log_probs = LogSoftmax <axis=-1> (e) [lengths] output_lengths = Identity(lengths)"""


def graph(*body, **changed):
    """y, of the shape of x [B, 4, T], from x."""
    weights = WEIGHTS | changed
    used = {name: value for name, value in weights.items() if name in " ".join((FIRST, *body, END))}
    model = parsed(
        "float[B,4,T] features, int64[B] lengths",
        "float[B,T,3] log_probs, int64[B] output_lengths",
        " ".join((FIRST, *body, END)),
        used,
    )
    del model.opset_import[1:]
    return onnx.shape_inference.infer_shapes(model)


def deviation(fp32, table, model, outputs, feeds):
    """Error against the twin with Q/DQ nodes: of the worst frame but for a fifth of them, over the spread.

    Where a rounding takes a code to its neighbour, a frame is off by a step; in all others scales and sums show.
    """
    twin, found = run_graph(twin_of(fp32, table), feeds)["log_probs"], with_log_probs(model, outputs)["log_probs"]
    return np.quantile(np.abs(found - twin).max(axis=2), 0.8) / twin.std()


def compared(fp32, feeds=FEEDS):
    """Deviation; the executor and ONNX Runtime must agree bit for bit."""
    table = table_of(fp32, feeds)
    model = integerize(fp32, table)
    check_model(model)
    outputs = opened(model)(feeds)
    logits, _ = IntegerExecutor(model)(feeds["features"], feeds["lengths"])
    assert np.array_equal(logits, outputs["logits"])
    return deviation(fp32, table, model, outputs, feeds)


def test_wrong_numbers_are_far_above_the_limit():
    """What the limit is worth: a constant that is off by 1 %."""
    fp32, other = graph("[by] y = Mul(x, third)"), graph("[by] y = Mul(x, third)", third=np.float32(-0.99 / 3))
    table = table_of(fp32, FEEDS)
    model = integerize(other, table)
    assert deviation(fp32, table, model, opened(model)(FEEDS), FEEDS) > 3 * CLOSE


@pytest.mark.parametrize(
    "body",
    [
        ["[keep] y = Identity(x)"],
        ["[relu] y = Relu(x)"],
        ["[relu] z = Relu(x) [relu2] y = Relu(z)"],
        ["[hardtanh] y = Clip(x, low, high)"],
        ["[relu6] y = Clip(x, zero, six)"],
        ["[by] y = Mul(x, half)"],
        ["[by] y = Mul(third, x)"],
        ["[by] z = Mul(x, third) [relu] y = Relu(z)"],
        [AGAIN, "[add] y = Add(x, v)"],
        [AGAIN, "[max] y = Max(x, v)"],
        [AGAIN, "[by] y = Mul(x, v)"],
        ["[add] y = Add(x, column)"],
        ["[add] z = Add(x, column) [add2] y = Add(half, z)"],
        ["[gate] g = Sigmoid(x) [swish] y = Mul(x, g)"],
        ["[gate] g = Sigmoid(x) [swish] z = Mul(g, x) [relu] y = Relu(z)"],
        ["[gate] y = Sigmoid(x)"],
        ["[gate] g = Sigmoid(x) [rest] y = Sub(one, g)"],
        [TURN, "[shares] ty = Softmax <axis=-1> (tx)", BACK],
        [
            TURN,
            AGAIN,
            "[turn2] tv = Transpose <perm=[0,2,1]> (v) [add] z = Add(tx, tv)",
            "[shares] ty = Softmax <axis=-1> (z)",
            BACK,
        ],
        [TURN, "[norm] ty = LayerNormalization <axis=-1> (tx, gamma, beta)", BACK],
        [TURN, "[norm] ty = LayerNormalization <axis=-1> (tx, gamma)", BACK],
        [TURN, "[norm] ty = LayerNormalization <axis=-1, epsilon=0.5> (tx, gamma, beta)", BACK],
        [TURN, "[linear] ty = MatMul(tx, linear)", BACK],
        [TURN, "[linear] z = MatMul(tx, linear) [bias] ty = Add(z, linear_bias)", BACK],
        [TURN, "[linear] z = MatMul(tx, linear) [bias] ty = Add(linear_bias, z)", BACK],
        [TURN, AGAIN, "[score] s = MatMul(tx, v) [shares] p = Softmax <axis=-1> (s) [attend] ty = MatMul(p, tx)", BACK],
        ["[grouped] y = Conv <group=2> (x, w_grouped)"],
        ["[deep] y = Conv <group=4, pads=[1,1]> (x, w_deep)"],
        ["[sides] y = Conv <pads=[2,0], kernel_shape=[3]> (x, w_long)"],
        ["[wide] y = Conv <pads=[2,2], dilations=[2]> (x, w_long)"],
    ],
)
def test_operator_is_close_to_its_twin(body):
    weights = {"w_grouped": floats(4, 2, 1), "w_deep": floats(4, 1, 3), "w_long": floats(4, 4, 3)}
    assert compared(graph(*body, **weights)) < CLOSE


def test_parts_of_a_split_are_gated():
    fp32 = graph(
        "[split] p, q = Split <axis=1, num_outputs=2> (x) [gate] g = Sigmoid(q) [glu] h = Mul(p, g)",
        "[widen] y = Conv(h, w_wide)",
        w_wide=floats(4, 2, 1),
    )
    assert compared(fp32) < CLOSE


AXES = {"axis": np.array([1]), "axes_end": np.array([3]), "start": np.array([0]), "end": np.array([4])}


def constant(name):
    return f"{name} = Constant <value = int64[1] {{{AXES[name][0]}}}> ()"


MOVES = {
    "Unsqueeze": ("[up] u = Unsqueeze(x, axis) [down] y = Squeeze(u, axis)", ["axis"]),
    "Slice": ("[cut] y = Slice(x, start, end, axis)", ["start", "end", "axis"]),
}


@pytest.mark.parametrize("move", MOVES)
def test_moves_with_constant_nodes(move):
    body, names = MOVES[move]
    assert compared(graph(*map(constant, names), body)) < CLOSE


@pytest.mark.parametrize("move", MOVES)
def test_moves_with_initializers(move):
    assert compared(graph(MOVES[move][0], **{name: AXES[name] for name in MOVES[move][1]})) < CLOSE


@pytest.mark.parametrize(
    "body",
    [
        ["[by] z = Mul(x, half) [add] y = Add(x, z)"],
        [
            "[by] z = Mul(x, half) [s1] s = Sigmoid(x) [p1] p = Mul(x, s) [s2] t = Sigmoid(z) [p2] q = Mul(z, t)",
            "[add] y = Add(p, q)",
        ],
        [TURN, "[by] z = Mul(x, half) [t2] tz = Transpose <perm=[0,2,1]> (z) [add] ty = Add(tx, tz)", BACK],
        [TURN, "[shares] p = Softmax <axis=-1> (tx) [gate] g = Sigmoid(tx) [add] ty = Add(p, g)", BACK],
    ],
    ids=["sum", "two swishes", "two transposes", "softmax and sigmoid"],
)
def test_a_tensor_and_a_scaled_view_of_it_are_read_in_one_graph(body):
    """The integers are the same, so one conversion must not be taken for the other."""
    assert compared(graph(*body)) < CLOSE


@pytest.mark.parametrize(
    ("body", "node"),
    [
        ("[odd] y = Softmax <axis=1> (x)", "odd: .*Softmax"),
        ("[odd] y = Tanh(x)", "odd: .*Tanh"),
        ("[odd] y = Div(x, half)", "odd: .*Div"),
        ("[odd] y = Mul(x, column)", "odd: .*Mul"),
        ("[odd] y = Mul(x, zero)", "odd: .*Mul"),
        ("[odd] y = Mul(x, large)", "odd: .*Mul"),
        ("[odd] y = Clip(x, far, farther)", "odd: .*Clip"),
        ("[odd] y = Clip(x, low)", "odd: .*Clip"),
        ("[odd] y = Sub(half, x)", "odd: .*Sub"),
        ("[odd] y = Sub(x, half)", "half: a float tensor"),
    ],
)
def test_forms_without_an_integer_form_are_refused(body, node):
    fp32 = graph(body, large=np.float32(np.inf), far=np.float32(1e3), farther=np.float32(2e3))
    table = table_of(graph("[keep] y = Identity(x)"), FEEDS)
    with pytest.raises(BuildError, match=node):
        integerize(fp32, table)


@pytest.mark.parametrize("body", ["[odd] y = Max(x)", f"{AGAIN} [odd] y = Max(x, v, scaled)"])
def test_a_maximum_of_other_than_two_is_refused(body):
    fp32 = graph(body)
    with pytest.raises(BuildError, match=r"odd: .*Max"):
        integerize(fp32, table_of(fp32, FEEDS))


NORM = [TURN, "[norm] ty = LayerNormalization <axis=-1> (tx, gamma, beta)", BACK]


def faint(factor, body):
    """x is as small as the factor."""
    tiny = np.float32(factor)
    return graph(*body, w=WEIGHTS["w"] * tiny, b=WEIGHTS["b"] * tiny)


@pytest.mark.parametrize(
    ("factor", "body"),
    [
        (1e-3, ["[hardtanh] y = Clip(x, low, high)"]),
        (1e-5, ["[hardtanh] y = Clip(x, low, high)"]),
        (1e-6, NORM),
    ],
)
def test_activations_that_are_almost_zero(factor, body):
    assert compared(faint(factor, body)) < CLOSE


def test_scores_are_exact_up_to_eleven_thousand_and_saturate_there():
    shares = [TURN, "[shares] ty = Softmax <axis=-1> (tx)", BACK]
    assert compared(faint(1e3, shares)) < CLOSE
    assert compared(faint(1e4, shares)) > CLOSE  # two that saturate are equal; no overflow


def test_a_norm_that_only_its_epsilon_decides_is_refused():
    fp32 = faint(1e-8, NORM)
    with pytest.raises(BuildError, match=r"norm: .*LayerNormalization"):
        integerize(fp32, table_of(fp32, FEEDS))


def test_operators_that_are_written_for_are_tested_here():
    tested = {
        "Mul",
        "Sub",
        "Max",
        "Relu",
        "Clip",
        "Sigmoid",
        "Softmax",
        "LayerNormalization",
        "Transpose",
        "Slice",
        "Split",
        "Squeeze",
        "Unsqueeze",
        "Identity",
    }
    assert set(OPERATORS) - tested == {"Reshape", "Flatten", "Pad"}  # which Conformer and future context need


# channel codes


def test_codes_are_the_tables_where_the_bias_fits():
    weight, entry = floats(4, 4, 1), WeightScale(np.full(4, 0.02, np.float32), 0)
    codes, scales = channel_codes(weight, entry, np.float64(0.01), np.array([1.0, -2.0, 0.0, 5.0], np.float32))
    assert np.array_equal(codes, np.clip(np.rint(weight / np.float32(0.02)), -127, 127))
    assert scales.tolist() == (entry.scales.astype(np.float64) * 0.01).tolist()


@pytest.mark.parametrize("bias", [1.0, -1.0, 1e3, 1e-3])
def test_scales_of_channels_that_are_all_bias_double_until_it_fits(bias):
    entry = WeightScale(np.array([0.02, 1e-20], np.float32), 0)
    weight = np.array([[1.0], [1e-20]], np.float32)
    codes, scales = channel_codes(weight, entry, np.float64(0.01), np.array([0.0, bias], np.float32))
    assert abs(bias) / scales[1] <= SUM_LIMIT // 2 + 1
    assert abs(bias) / scales[1] > SUM_LIMIT // 5  # no coarser than needed
    assert np.log2(scales[1] / (entry.scales[1].astype(np.float64) * 0.01)) % 1 == 0
    assert (scales[0], codes.ravel().tolist()) == (np.float64(np.float32(0.02)) * 0.01, [50, 0])


def test_biases_are_rounded_to_the_sums_own_scale():
    fp32 = graph("[keep] y = Identity(x)")
    table = table_of(fp32, FEEDS)
    stored = {item.name: numpy_helper.to_array(item) for item in integerize(fp32, table).graph.initializer}
    read, weight = float(stored["features_scale"]), table.weights["w"].scales.astype(np.float64)
    assert stored["x_addend"].dtype == np.int32
    assert np.abs(stored["x_addend"].ravel() * read * weight - WEIGHTS["b"]).max() <= (read * weight).max() / 2
