import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtasr.errors import QualityError
from trtasr.quant.gptq import gptq_codes, gptq_in_groups
from trtasr.quant.groups import block_scales, dequantized, nearest_in_groups, spans

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
    with pytest.raises(ValueError, match="scales of shape"):
        gptq_codes(weight, gram, scales[:1], 127)
    with pytest.raises(QualityError, match="NaN"):
        gptq_in_groups(weight * np.nan, gram, 4, 127)
    with pytest.raises(ValueError, match="gram matrix"):
        gptq_in_groups(weight, gram[:1], 4, 127)


def grid_loss(weight: np.ndarray, made: tuple[np.ndarray, np.ndarray], gram: np.ndarray, group: int) -> float:
    """tr((W - Wq) H (W - Wq)^T) of codes and scales in groups."""
    error = weight.astype(np.float64) - dequantized(*made, group)
    return float(np.einsum("goi,gij,goj->", error, gram, error))


def by_power(problem: Problem) -> Problem:
    """The same problem with its inputs in descending order of power, in which all of them are rounded."""
    weight, gram, scales = problem
    order = np.argsort(-gram[0].diagonal())
    return weight[:1, :, order], gram[:1, order][:, :, order], scales[:1]


@given(seeds, widths, st.sampled_from([0, 9, 12]))
@settings(max_examples=30, deadline=None)
def test_a_group_of_all_inputs_is_a_scale_per_channel(seed: int, levels: int, group: int) -> None:
    weight, gram, _ = by_power(problem(seed, (1, 5, 9), levels))
    scales = block_scales(weight, levels)
    codes, found = gptq_in_groups(weight, gram, group, levels)
    np.testing.assert_array_equal(found[:, :, 0], scales)
    np.testing.assert_array_equal(codes, gptq_codes(weight, gram, scales, levels))


@given(seeds, widths, st.sampled_from([2, 5, 8, 32]))
@settings(max_examples=40, deadline=None)
def test_in_groups_output_error_is_not_above_round_to_nearest(seed: int, levels: int, group: int) -> None:
    weight, gram, _ = problem(seed, (1, 24, 32), levels)
    plain = grid_loss(weight, nearest_in_groups(weight, group, levels), gram, group)
    assert grid_loss(weight, gptq_in_groups(weight, gram, group, levels), gram, group) <= 1.02 * plain


@pytest.mark.parametrize("group", [2, 7, 64, 128, 150, 200])
def test_scales_of_a_group_are_those_of_its_weights_as_the_columns_before_have_left_them(group: int) -> None:
    """Against columns rounded one by one, the inverse of the remaining ones computed anew at each step."""
    levels, (weight, gram, _) = 7, problem(3, (2, 4, 150), 7)
    codes, scales = gptq_in_groups(weight, gram, group, levels)
    assert scales.shape == (2, 4, -(-150 // group))
    for g in range(2):
        damped = gram[g] + 0.01 * np.diag(gram[g]).mean() * np.eye(150)
        left = weight[g].astype(np.float64)
        for number, span in enumerate(spans(150, group)):
            step = block_scales(left[None, :, span], levels)[0].astype(np.float64)
            np.testing.assert_allclose(scales[g, :, number], step)
            for i in range(span.start, span.stop):
                wanted = np.clip(np.rint(left[:, i] / step), -levels, levels)
                np.testing.assert_array_equal(codes[g, :, i], wanted)
                inverse = np.linalg.inv(damped[i:, i:])
                left[:, i:] -= np.outer(left[:, i] - wanted * step, inverse[0] / inverse[0, 0])
