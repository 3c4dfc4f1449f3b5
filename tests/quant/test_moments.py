"""Moments of utterances that come one by one are those of all their positions together."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trtasr.quant.moments import Moments


@given(st.integers(1, 6), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.booleans(), st.integers(0, 99))
def test_sums_over_utterances_are_the_moments_of_all_positions(channels, lengths, first, seed):
    draw = np.random.default_rng(seed)
    parts = [draw.normal(1.0, 2.0, (length, channels)).astype(np.float32) for length in lengths]
    found = Moments(channels, first, second=True)
    for part in parts:
        found.add(np.ascontiguousarray(part.T) if first else part)
    assert found.count == sum(lengths)
    together = np.concatenate(parts).astype(np.float64)
    np.testing.assert_allclose(found.mean, together.mean(0), atol=1e-5)
    expected = np.cov(together.T, bias=True).reshape(channels, channels)
    np.testing.assert_allclose(found.covariance, expected, atol=1e-4)


def test_more_axes_are_more_positions():
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    first, last = Moments(2, first=True), Moments(4, first=False)
    first.add(values)
    last.add(values)
    assert (first.count, last.count) == (12, 6)
    np.testing.assert_array_equal(first.mean, values.mean((1, 2)))
    np.testing.assert_array_equal(last.mean, values.mean((0, 1)))


def test_nothing_seen_has_mean_zero():
    assert Moments(3, first=True).mean.tolist() == [0, 0, 0]
