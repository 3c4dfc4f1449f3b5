import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtasr.errors import QualityError
from trtasr.quant.gptq import gptq_codes

Problem = tuple[np.ndarray, np.ndarray, np.ndarray]
seeds = st.integers(0, 2**32 - 1)
widths = st.sampled_from([7, 127])


def problem(seed: int, shape: tuple[int, int, int], levels: int) -> Problem:
    """Random weights, the gram matrix of correlated inputs and max-abs scales."""
    rng = np.random.default_rng(seed)
    groups, _, inputs = shape
    weight = rng.normal(size=shape).astype(np.float32)
    samples = rng.normal(size=(groups, inputs, inputs)) @ rng.normal(size=(groups, inputs, 4 * inputs))
    scales = (np.abs(weight).max(axis=2) / levels).astype(np.float32)
    return weight, samples @ samples.swapaxes(1, 2), scales


def nearest(weight: np.ndarray, scales: np.ndarray, levels: int) -> np.ndarray:
    steps = weight.astype(np.float64) / scales.astype(np.float64)[:, :, None]
    return np.clip(np.rint(steps), -levels, levels).astype(np.int8)


def loss(weight: np.ndarray, codes: np.ndarray, gram: np.ndarray, scales: np.ndarray) -> float:
    error = weight.astype(np.float64) - codes * scales.astype(np.float64)[:, :, None]
    return float(np.einsum("goi,gij,goj->", error, gram, error))


def reference(weight: np.ndarray, gram: np.ndarray, scales: np.ndarray, levels: int, damping: float) -> np.ndarray:
    """OBQ without blocks and without Cholesky: the inverse of the remaining columns is computed anew at each step."""
    codes = np.zeros(weight.shape, np.int8)
    for g in range(len(weight)):
        damped = gram[g] + damping * np.diag(gram[g]).mean() * np.eye(len(gram[g]))
        left, w = list(np.argsort(-np.diag(gram[g]), kind="stable")), weight[g].astype(np.float64)
        while left:
            inverse, i = np.linalg.inv(damped[np.ix_(left, left)]), left[0]
            codes[g, :, i] = np.clip(np.rint(w[:, i] / scales[g].astype(np.float64)), -levels, levels)
            error = w[:, i] - codes[g, :, i] * scales[g].astype(np.float64)
            w[:, left] -= np.outer(error, inverse[0] / inverse[0, 0])
            left = left[1:]
    return codes


@given(seeds, widths)
@settings(max_examples=30, deadline=None)
def test_uncorrelated_inputs_give_round_to_nearest(seed: int, levels: int) -> None:
    weight, gram, scales = problem(seed, (2, 5, 9), levels)
    codes = gptq_codes(weight, gram * np.eye(9), scales, levels)
    assert codes.dtype == np.int8
    assert np.array_equal(codes, nearest(weight, scales, levels))


@given(seeds, widths)
@settings(max_examples=30, deadline=None)
def test_weights_on_the_grid_stay(seed: int, levels: int) -> None:
    _, gram, scales = problem(seed, (2, 5, 9), levels)
    codes = np.random.default_rng(seed).integers(-levels, levels + 1, (2, 5, 9))
    weight = (codes * scales[:, :, None]).astype(np.float32)
    assert np.array_equal(gptq_codes(weight, gram, scales, levels), codes)


@given(seeds, widths, st.booleans())
@settings(max_examples=40, deadline=None)
def test_output_error_is_not_above_round_to_nearest(seed: int, levels: int, depthwise: bool) -> None:
    weight, gram, scales = problem(seed, (24, 1, 11) if depthwise else (1, 24, 32), levels)
    plain = loss(weight, nearest(weight, scales, levels), gram, scales)
    assert loss(weight, gptq_codes(weight, gram, scales, levels), gram, scales) <= 1.02 * plain


@pytest.mark.parametrize("levels", [7, 127])
@pytest.mark.parametrize("shape", [(1, 24, 32), (24, 1, 11)])
def test_output_error_is_far_below_round_to_nearest_on_average(levels: int, shape: tuple[int, int, int]) -> None:
    ratios = []
    for seed in range(20):
        weight, gram, scales = problem(seed, shape, levels)
        found, plain = gptq_codes(weight, gram, scales, levels), nearest(weight, scales, levels)
        ratios.append(loss(weight, found, gram, scales) / loss(weight, plain, gram, scales))
    assert np.mean(ratios) < 0.5


@given(seeds, widths)
@settings(max_examples=30, deadline=None)
def test_order_of_the_inputs_does_not_matter(seed: int, levels: int) -> None:
    weight, gram, scales = problem(seed, (2, 5, 9), levels)
    order = np.random.default_rng(seed).permutation(9)
    permuted = gptq_codes(weight[:, :, order], gram[:, order][:, :, order], scales, levels)
    assert np.array_equal(permuted, gptq_codes(weight, gram, scales, levels)[:, :, order])


@given(seeds, widths)
@settings(max_examples=30, deadline=None)
def test_codes_stay_within_range_when_scales_clip(seed: int, levels: int) -> None:
    weight, gram, scales = problem(seed, (2, 5, 9), levels)
    codes = gptq_codes(weight, gram, scales / 3, levels).astype(int)
    assert np.abs(codes).max() == levels


@given(seeds, widths)
@settings(max_examples=30, deadline=None)
def test_dead_inputs_are_rounded_to_nearest_and_correct_nobody(seed: int, levels: int) -> None:
    weight, gram, scales = problem(seed, (2, 5, 9), levels)
    dead = [1, 6]
    gram[:, dead], gram[:, :, dead] = 0, 0
    codes = gptq_codes(weight, gram, scales, levels)
    assert np.array_equal(codes[:, :, dead], nearest(weight, scales, levels)[:, :, dead])
    changed = weight.copy()
    changed[:, :, dead] *= 0.3
    alive = [i for i in range(9) if i not in dead]
    assert np.array_equal(gptq_codes(changed, gram, scales, levels)[:, :, alive], codes[:, :, alive])


def test_silence_is_rounded_to_nearest() -> None:
    weight, gram, scales = problem(0, (2, 5, 9), 127)
    assert np.array_equal(gptq_codes(weight, gram * 0, scales, 127), nearest(weight, scales, 127))


@given(seeds, widths)
@settings(max_examples=20, deadline=None)
def test_groups_are_independent(seed: int, levels: int) -> None:
    weight, gram, scales = problem(seed, (3, 4, 9), levels)
    alone = [gptq_codes(weight[[g]], gram[[g]], scales[[g]], levels) for g in range(3)]
    assert np.array_equal(gptq_codes(weight, gram, scales, levels), np.concatenate(alone))


@pytest.mark.parametrize("levels", [7, 127])
@pytest.mark.parametrize("shape", [(1, 6, 150), (1, 3, 128), (5, 1, 11), (2, 3, 20)])
def test_agrees_with_a_plain_unblocked_reference(levels: int, shape: tuple[int, int, int]) -> None:
    weight, gram, scales = problem(3, shape, levels)
    assert np.array_equal(gptq_codes(weight, gram, scales, levels), reference(weight, gram, scales, levels, 0.01))


def test_ties_are_rounded_to_even() -> None:
    weight = np.array([[[0.5, 1.5, -2.5]]], np.float32)
    assert gptq_codes(weight, np.eye(3)[None], np.ones((1, 1), np.float32), 7).tolist() == [[[0, 2, -2]]]


def test_singular_statistics_need_damping() -> None:
    weight, scales = np.ones((1, 1, 2), np.float32), np.ones((1, 1), np.float32)
    assert gptq_codes(weight, np.ones((1, 2, 2)), scales, 7).tolist() == [[[1, 1]]]
    with pytest.raises(QualityError, match="positive definite"):
        gptq_codes(weight, np.ones((1, 2, 2)), scales, 7, damping=0.0)


def test_broken_arguments_are_refused() -> None:
    weight, gram, scales = problem(0, (2, 5, 9), 127)
    with pytest.raises(ValueError, match="gram matrix"):
        gptq_codes(weight, gram[:1], scales, 127)
    with pytest.raises(ValueError, match="levels"):
        gptq_codes(weight, gram, scales, 128)
    with pytest.raises(QualityError, match="NaN"):
        gptq_codes(weight, gram * np.nan, scales, 127)
    with pytest.raises(QualityError, match="positive"):
        gptq_codes(weight, gram, scales * 0, 127)
