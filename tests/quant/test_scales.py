import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from stored_table import table_from_json

from trtasr.errors import QualityError, RecipeError
from trtasr.quant.ranges import Histogram, update
from trtasr.quant.scales import quantize_weight, scale_table, table_to_json, weight_scale
from trtasr.values import ScaleTable, TensorScale, WeightScale

weights = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=8), elements=st.floats(-50, 50, width=32)
)


@given(weights, st.integers(0, 1))
@settings(max_examples=80, deadline=None)
def test_weight_error_is_at_most_half_a_step_per_channel(weight: np.ndarray, axis: int) -> None:
    found = weight_scale(weight, axis)
    shape = [1] * weight.ndim
    shape[axis] = -1
    scales = found.scales.reshape(shape)
    codes = quantize_weight(weight, found.scales, axis)
    assert codes.dtype == np.int8
    assert np.abs(codes).max(initial=0) <= 127
    assert (np.abs(codes * scales - weight) <= scales * 0.5001 + 1e-12).all()


def test_codes_round_half_to_even_and_clamp() -> None:
    codes = quantize_weight(np.array([[0.5, 1.5, -2.5, 300, -300]], np.float32), np.array([1.0], np.float32), 0)
    assert codes.tolist() == [[0, 2, -2, 127, -127]]


@given(weights)
@settings(max_examples=40, deadline=None)
def test_scaling_a_channel_scales_its_scale_alone(weight: np.ndarray) -> None:
    weight = np.where(np.abs(weight) < 0.02, np.float32(0.02), weight)  # scales in FP16's normal range
    before = weight_scale(weight, 0).scales
    scaled = weight.copy()
    scaled[0] *= np.float32(4)
    after = weight_scale(scaled, 0).scales
    assert np.isclose(after[0], before[0] * 4, rtol=2**-9)
    assert np.array_equal(after[1:], before[1:])


def test_dead_channels_are_floored_and_named(caplog: pytest.LogCaptureFixture) -> None:
    weight = np.ones((4, 3, 1), np.float32)
    weight[2] = 0
    with caplog.at_level(logging.WARNING):
        table = scale_table({}, {"layer.weight": (weight, 0)}, "max")
    assert table.weights["layer.weight"].floored == (2,)
    assert (table.weights["layer.weight"].scales > 0).all()
    assert "layer.weight" in caplog.text
    assert not quantize_weight(weight, table.weights["layer.weight"].scales, 0)[2].any()


@given(weights)
@settings(max_examples=60, deadline=None)
def test_scales_are_fp16_values_not_below_what_is_needed(weight: np.ndarray) -> None:
    scales = weight_scale(weight, 0).scales
    assert np.array_equal(scales.astype(np.float16).astype(np.float32), scales)
    needed = np.abs(weight).max(axis=tuple(range(1, weight.ndim))) / 127
    assert (scales >= needed * (1 - 1e-6)).all()
    assert (scales <= needed * (1 + 2**-9) + 2.0**-23).all()


@given(st.floats(1e-6, 1e6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_table_survives_json_bit_for_bit(amax: float, sign: bool) -> None:
    scales = np.random.default_rng(0).uniform(1e-4, 1, 7).astype(np.float32)
    table = ScaleTable(
        {"a:0": TensorScale(amax, "max", sign, 31.25)},
        {"w": WeightScale(scales, 0, 40.0, (1,))},
        {"layer": 0.5},
        {"a:0": scales},
        {"seed": 3},
    )
    back = table_from_json(json.loads(json.dumps(table_to_json(table))))
    assert back.activations["a:0"] == table.activations["a:0"]
    assert back.activations["a:0"].scale.tobytes() == table.activations["a:0"].scale.tobytes()
    assert np.array_equal(back.weights["w"].scales, scales)
    assert back.weights["w"].floored == (1,)
    assert dict(back.alphas) == {"layer": 0.5}
    assert dict(back.settings) == {"seed": 3}
    assert np.array_equal(back.offsets["a:0"], scales)


def test_edited_scale_is_refused() -> None:
    data = table_to_json(ScaleTable({"a": TensorScale(1.0, "max")}, {}))
    data["activations"]["a"]["scale"] *= 2
    with pytest.raises(RecipeError, match="disagree"):
        table_from_json(data)


def test_nan_weight_is_refused() -> None:
    with pytest.raises(QualityError, match="NaN"):
        scale_table({}, {"layer": (np.array([[np.nan, 1.0]], np.float32), 0)}, "max")


def test_unsigned_and_signed_scales_cover_the_same_range() -> None:
    scale = TensorScale(3.3, "max", True)
    assert abs(float(scale.unsigned_scale) * 255 - 3.3) < 1e-5
    assert abs(float(scale.scale) * 127 - 3.3) < 1e-5


def test_table_takes_observer_and_sign_from_the_histogram() -> None:
    histogram = update(Histogram(), np.array([0.0, 2.54], np.float32))
    entry = scale_table({"x": histogram}, {}, "max").activations["x"]
    assert 0.02 <= entry.scale <= 0.02 * (1 + 2**-10)
    assert entry.non_negative
