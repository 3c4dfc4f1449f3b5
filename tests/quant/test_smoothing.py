"""Smoothing: the same product, less noise where few channels are large, nothing where none helps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtasr.quant.rotation import rotated
from trtasr.quant.smoothing import ALPHAS, factors, relative_noise, smoothing


def plain(rows):
    """Nothing else is done to the channels."""
    return rows


def turned(rows):
    """They are rotated."""
    return rotated(rows, 1)


def spread(seed, channels=64, positions=300):
    """Rows of which two channels are 40 times as large as the others, and the weights of two layers."""
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(positions, channels)).astype(np.float32)
    rows[:, :2] *= 40
    return rows, [draw.normal(size=(outputs, channels)).astype(np.float32) for outputs in (16, 24)]


@pytest.mark.parametrize("turn", [plain, turned])
@given(seed=st.integers(0, 999))
def test_large_channels_are_smoothed_and_the_noise_falls(turn, seed):
    rows, weights = spread(seed)
    found = smoothing(rows, weights, turn)
    assert found.shape == (64,)
    assert found.min() == 1
    assert (found[:2] > 2 * found[2:].max()).all()
    before, after = (
        sum(relative_noise(rows, weight, scale, turn) for weight in weights) for scale in (np.ones_like(found), found)
    )
    assert after < 0.8 * before


@given(st.integers(0, 999))
def test_where_none_helps_there_is_none(seed):
    """One scale of each weight has to hold a channel that matters nothing: any factor would make it worse."""
    draw = np.random.default_rng(seed)
    rows = draw.choice([-1.0, 1.0], size=(200, 32)).astype(np.float32)
    weights = [draw.choice([-1.0, 1.0], size=(8, 32)).astype(np.float32)]
    assert smoothing(rows, weights, plain).shape == (0,)


@given(st.integers(0, 999), st.sampled_from(ALPHAS))
def test_the_factors_are_those_of_the_formula_over_their_smallest(seed, alpha):
    rows, weights = spread(seed)
    size, weight = (np.sqrt(np.square(values).mean(0)) for values in (rows, np.concatenate(weights)))
    expected = size**alpha / weight ** (1 - alpha)
    np.testing.assert_allclose(factors(rows, weights, alpha), expected / expected.min(), rtol=1e-4)


@pytest.mark.parametrize("turn", [plain, turned])
def test_noise_is_that_of_both_sides_rounded(turn):
    rows, [weight, _] = spread(0)
    smooth, heavy = turn(rows), turn(weight)
    steps, own = np.abs(smooth).max(1, keepdims=True) / 127, np.abs(heavy).max(1, keepdims=True) / 127
    error = (np.rint(smooth / steps) * steps) @ (np.rint(heavy / own) * own).T - rows @ weight.T
    expected = error.var(0).sum() / (rows @ weight.T).var(0).sum()
    assert relative_noise(rows, weight, np.ones(64, np.float32), turn) == pytest.approx(expected, rel=0.05)


def test_channels_that_never_speak_and_rows_of_silence_divide_nothing_by_zero():
    rows, weights = spread(3)
    rows[:, 5], rows[7] = 0, 0
    for one in (weights, [np.zeros_like(weights[0])]):
        assert np.isfinite(smoothing(rows, one, plain)).all()
    assert smoothing(np.zeros_like(rows), weights, plain).shape == (0,)
