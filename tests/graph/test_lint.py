"""One layer of each kind: an accumulator that FP16 cannot hold, a scale product it holds badly, a harmless one."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from trtasr.graph.halve import fp16_scale_lint, halve
from trtasr.graph.lint import overflow_lint
from trtasr.graph.qdq import insert_qdq
from trtasr.values import ScaleTable, TensorScale, WeightScale

CHANNELS = 16
TEXT = """<ir_version: 9, opset_import: ["" : 20]>
one (float[B,16,T] features) => (float[B,16,T] y) { [layer] y = Conv<kernel_shape=[1]>(features, weight) }"""


def layer(weight, input_amax, output_amax):
    """The graph of one pointwise convolution and its scale table."""
    model = parser.parse_model(TEXT)
    values = np.broadcast_to(np.asarray(weight, np.float32), (CHANNELS, CHANNELS)).copy()[:, :, None]
    model.graph.initializer.append(numpy_helper.from_array(values, "weight"))
    onnx.checker.check_model(model)
    scales = (np.abs(values).max((1, 2)) / 127).astype(np.float32)
    activations = {"features": TensorScale(input_amax, "max"), "y": TensorScale(output_amax, "max")}
    return model, ScaleTable(activations, {"weight": WeightScale(scales, 0)})


HARMLESS = layer(0.5, 12.7, 12.7)  # acc = y / (0.1 * 0.5 / 127): 32 258
OVERFLOWING = layer(0.5, 12.7, 40.0)  # 101 600
SUBNORMAL = layer(0.005, 0.5, 0.04)  # scale product 1.5e-7


def linted(case):
    model, table = case
    quantized = halve(insert_qdq(model, table, ()).model)
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


def test_an_accumulator_found_here_really_overflows():
    """Codes of the flagged layer, at the observed output: larger than FP16's largest number."""
    _, table = OVERFLOWING
    step = float(table.activations["features"].scale) * float(table.weights["weight"].scales[0])
    with np.errstate(over="ignore"):
        assert np.isinf(np.float16(table.activations["y"].amax / step))


def test_only_int8_layers_are_looked_at():
    model, table = OVERFLOWING
    assert overflow_lint(model, table, set()) == []


@pytest.mark.parametrize("amax", [1e-3, 1e4])
def test_without_an_observed_output_the_codes_decide(amax):
    model, table = layer(0.5, 12.7, amax)
    blind = ScaleTable({"features": table.activations["features"]}, table.weights)
    assert overflow_lint(model, blind, {"layer"}) == ["layer"]  # 16 * 127 * 127
