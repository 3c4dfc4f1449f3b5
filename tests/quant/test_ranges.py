import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trtasr.errors import QualityError, RecipeError
from trtasr.quant.ranges import (
    BINS,
    OBSERVERS,
    Histogram,
    activation_scale,
    collect,
    grow,
    mse_amax,
    noise_power,
    percentile_amax,
    sqnr_db,
    update,
)

finite = hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-1e4, 1e4, width=32))


@given(st.lists(finite, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_streaming_keeps_every_count_and_the_exact_extremes(parts: list[np.ndarray]) -> None:
    histogram = Histogram()
    for part in parts:
        histogram = update(histogram, part)
    whole = np.concatenate(parts)
    assert histogram.counts.sum() == whole.size
    assert histogram.amax == np.abs(whole).max()
    assert histogram.minimum == whole.min()
    assert math.isclose(histogram.power, float(np.square(whole.astype(np.float64)).sum()), rel_tol=1e-4, abs_tol=1e-9)


@given(st.permutations(range(4)))
@settings(max_examples=24, deadline=None)
def test_order_of_the_stream_does_not_change_the_range(order: list[int]) -> None:
    generator = np.random.default_rng(0)
    parts = [generator.normal(0, scale, 500).astype(np.float32) for scale in (0.1, 1, 10, 100)]
    histogram = Histogram()
    for index in order:
        histogram = update(histogram, parts[index])
    assert histogram.amax == max(np.abs(p).max() for p in parts)
    assert histogram.limit >= histogram.amax
    assert histogram.counts.sum() == 2000


def test_growing_merges_neighbours_and_covers() -> None:
    counts = np.arange(BINS, dtype=np.float64)
    grown, limit = grow(counts, 1.0, 3.5)
    assert limit == 4.0
    assert grown.sum() == counts.sum()
    assert grown[0] == counts[:4].sum()


def test_every_observer_stays_inside_the_seen_range() -> None:
    values = np.random.default_rng(1).standard_t(3, 50_000).astype(np.float32)
    histogram = update(Histogram(), values)
    for name, observer in OBSERVERS.items():
        assert 0 < observer(histogram) <= histogram.amax, name
    assert OBSERVERS["max"](histogram) == np.abs(values).max()


def test_percentile_agrees_with_numpy() -> None:
    values = np.random.default_rng(2).normal(size=200_000).astype(np.float32)
    histogram = update(Histogram(), values)
    assert abs(percentile_amax(histogram, 99.0) - np.percentile(np.abs(values), 99.0)) < 2 * histogram.limit / BINS


def test_mse_clips_heavy_tails_and_never_does_worse_than_max() -> None:
    values = np.random.default_rng(3).standard_t(2.5, 100_000).astype(np.float32)
    histogram = update(Histogram(), values)
    best = mse_amax(histogram)
    assert best < histogram.amax
    assert noise_power(histogram, best) <= noise_power(histogram, histogram.amax)


def test_sqnr_from_the_histogram_matches_direct_quantization() -> None:
    values = np.random.default_rng(4).normal(size=100_000).astype(np.float32)
    histogram = update(Histogram(), values)
    step = histogram.amax / 127
    error = values - np.clip(np.rint(values / step), -127, 127) * step
    direct = 10 * np.log10(np.square(values).sum() / np.square(error).sum())
    assert abs(sqnr_db(histogram, histogram.amax) - direct) < 0.1


def test_nan_and_infinity_are_refused() -> None:
    for bad in (np.nan, np.inf):
        with pytest.raises(QualityError, match="NaN or infinite"):
            update(Histogram(), np.array([1.0, bad], np.float32))


def test_silent_tensor_gets_a_positive_scale() -> None:
    scale = activation_scale(update(Histogram(), np.zeros(10, np.float32)), "max")
    assert scale.scale > 0
    assert scale.non_negative


def test_sign_is_remembered_over_the_stream() -> None:
    stream = [
        ("a", np.array([0.5, 2.0], np.float32)),
        ("b", np.array([1.0], np.float32)),
        ("b", np.array([-0.1], np.float32)),
    ]
    histograms = collect(stream)
    assert activation_scale(histograms["a"], "max").non_negative
    assert not activation_scale(histograms["b"], "max").non_negative


def test_unknown_observer_is_refused() -> None:
    with pytest.raises(RecipeError, match="use one of"):
        activation_scale(update(Histogram(), np.ones(3, np.float32)), "median")
