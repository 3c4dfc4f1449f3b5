"""One layer of each kind: an accumulator that FP16 cannot hold, a scale product it holds badly, a harmless one."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from quantized import with_qdq

from trtasr.graph.halve import fp16_scale_lint, halve
from trtasr.graph.lint import large_activations, overflow_lint
from trtasr.values import ScaleTable, TensorScale, WeightScale

CHANNELS = 16
TEXT = """<ir_version: 9, opset_import: ["" : 20]>
one (float[B,16,T] features) => (float[B,16,T] y) { [layer] y = Conv<kernel_shape=[1]>(features, weight, bias) }"""


def layer(weight, input_amax, output_amax, bias=0.0):
    """The graph of one pointwise convolution and its scale table."""
    model = parser.parse_model(TEXT)
    values = np.broadcast_to(np.asarray(weight, np.float32), (CHANNELS, CHANNELS)).copy()[:, :, None]
    model.graph.initializer.append(numpy_helper.from_array(values, "weight"))
    model.graph.initializer.append(numpy_helper.from_array(np.full(CHANNELS, bias, np.float32), "bias"))
    onnx.checker.check_model(model)
    scales = (np.abs(values).max((1, 2)) / 127).astype(np.float32)
    activations = {"features": TensorScale(input_amax, "max"), "y": TensorScale(output_amax, "max")}
    return model, ScaleTable(activations, {"weight": WeightScale(scales, 0)})


HARMLESS = layer(0.5, 12.7, 12.7)  # acc = y / (0.1 * 0.5 / 127): 32 258
OVERFLOWING = layer(0.5, 12.7, 40.0)  # 101 600
SUBNORMAL = layer(0.005, 0.5, 0.04)  # scale product 1.5e-7


def linted(case):
    model, table = case
    quantized = halve(with_qdq(model, table, ()))
    return fp16_scale_lint(quantized), overflow_lint(model, table, {"layer"})


def test_one_of_each_kind_is_found_and_a_harmless_layer_is_not():
    assert linted(HARMLESS) == ([], [])
    assert linted(OVERFLOWING) == ([], ["layer"])
    assert linted(SUBNORMAL)[0] == ["layer"]


def test_codes_bound_what_a_wide_observed_range_cannot():
    """Two non-zero weights per channel reach 2 * 127 * 127 = 32 258 at most, whatever was observed."""
    weight = np.zeros((CHANNELS, CHANNELS), np.float32)
    weight[:, :2] = 0.5
    assert linted(layer(weight, 12.7, 1e6)) == ([], [])


@pytest.mark.parametrize(("value", "bias"), [(3.3, 0.0), (3.2, 0.0), (8.0, -40.0), (1.0, -2.0)])
def test_the_lint_says_what_the_real_accumulator_does(value, bias):
    """One constant input, run in integers: flagged exactly where the sum of products passes 65504.

    With every weight 0.5 the sum is 16 * 127 * value / 0.1, and |8 * value + bias| is all that is observed.
    """
    model, table = layer(0.5, 12.7, abs(8 * value + bias), bias)
    codes = np.full((CHANNELS, CHANNELS), 127, np.int64)
    accumulator = codes @ np.full(CHANNELS, np.rint(value / float(table.activations["features"].scale)), np.int64)
    assert bool(overflow_lint(model, table, {"layer"})) == bool(accumulator.max() > 65504)


@pytest.mark.parametrize(("output_amax", "flagged"), [(25.78, []), (25.81, ["layer"])])
def test_the_limit_is_65504(output_amax, flagged):
    """acc = y / (0.1 * 0.5 / 127): 65 481 and 65 557."""
    model, table = layer(0.5, 12.7, output_amax)
    assert overflow_lint(model, table, {"layer"}) == flagged


def test_one_bad_channel_is_enough():
    weight = np.full((CHANNELS, CHANNELS), 0.5, np.float32)
    weight[5] = 0.005
    assert linted(layer(weight, 0.5, 0.04))[0] == ["layer"]


def test_only_int8_layers_are_looked_at():
    model, table = OVERFLOWING
    assert overflow_lint(model, table, set()) == []


@pytest.mark.parametrize("amax", [1e-3, 1e4])
def test_without_an_observed_output_the_codes_decide(amax):
    model, table = layer(0.5, 12.7, amax)
    blind = ScaleTable({"features": table.activations["features"]}, table.weights)
    assert overflow_lint(model, blind, {"layer"}) == ["layer"]  # 16 * 127 * 127


@pytest.mark.parametrize(("amax", "named"), [(16376.0, []), (16377.0, ["y"]), (1e9, ["y"])])
def test_activations_near_the_limit_of_fp16_are_named(amax, named):
    _, table = layer(0.5, 1.0, amax)
    assert large_activations(table) == named
