"""QEP and the FADE-style strength: identities, bounds, and a dense least-squares solution in float64."""

import numpy as np
import pytest
from calibration_loss import calibration_loss
from hypothesis import given, settings
from hypothesis import strategies as st

from trtasr.quant import propagate
from trtasr.quant.propagate import (
    Columns,
    Geometry,
    best_step,
    columns,
    correction,
    fade_alpha,
    joined,
    product,
    ranks,
    reliability,
    vulnerability,
    windows,
)

GEOMETRIES = {
    "pointwise": Geometry(),
    "dense": Geometry(5, pads=(2, 2)),
    "strided": Geometry(3, stride=2, pads=(1, 1)),
    "dilated": Geometry(3, dilation=2, pads=(2, 2)),
    "grouped": Geometry(3, pads=(1, 1), groups=2),
    "depthwise": Geometry(5, pads=(2, 2), groups=4),
    "strided depthwise": Geometry(3, stride=2, dilation=1, pads=(1, 1), groups=4),
}
CHANNELS, OUT = 4, 8
seeds = st.integers(0, 10**6)


def streams(seed, utterances=4, error=0.1, mix=0.6):
    """X and Xq of a few utterances; the error is partly a function of X, as that of earlier layers is."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(CHANNELS, CHANNELS))
    full = [rng.normal(size=(1, CHANNELS, 30 + 7 * i)).astype(np.float32) for i in range(utterances)]
    handed = [np.einsum("ij,bjt->bit", mixing, x) * mix for x in full]
    noise = [rng.normal(size=x.shape) for x in full]
    return full, [(x + error * (h + n)).astype(np.float32) for x, h, n in zip(full, handed, noise, strict=True)]


def weights(seed, geometry):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(geometry.groups, OUT // geometry.groups, CHANNELS // geometry.groups * geometry.kernel))


def halves(seed, geometry, **options):
    full, quantized = streams(seed, **options)
    return columns(full[::2], quantized[::2], geometry), columns(full[1::2], quantized[1::2], geometry)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_windows_times_weight_is_the_convolution(name):
    torch = pytest.importorskip("torch")
    geometry, (x, *_), _ = GEOMETRIES[name], *streams(0)
    weight = weights(1, geometry)
    mine = np.matmul(weight, windows(x, geometry)).reshape(OUT, -1)
    kernel = torch.tensor(weight.reshape(OUT, -1, geometry.kernel), dtype=torch.float32)
    theirs = torch.nn.functional.conv1d(
        torch.tensor(x), kernel, None, geometry.stride, geometry.pads[0], geometry.dilation, geometry.groups
    )[0]
    np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_the_correction_is_the_least_squares_solution(name, damping):
    """Against a dense solve in float64: one block-diagonal system of all groups, stacked with the ridge rows."""
    geometry = GEOMETRIES[name]
    found, weight = joined(halves(3, geometry)), weights(4, geometry)
    changed = correction(weight, found, damping)
    for group in range(geometry.groups):
        x, error = found.quantized[group].astype(np.float64), found.error[group].astype(np.float64)
        ridge = np.sqrt(damping * np.mean(np.square(x).sum(axis=1))) * np.eye(len(x))
        system = np.concatenate([x.T, ridge])
        target = np.concatenate([(weight[group] @ error).T, np.zeros((len(x), weight.shape[1]))])
        dense, *_ = np.linalg.lstsq(system, target, rcond=None)
        assert np.abs(changed[group] - dense.T).max() <= 1e-6 * np.abs(dense).max()


@pytest.mark.parametrize(("exact", "tolerance"), [(propagate.EXACT, 1e-9), (0, 2e-3)])
def test_products_are_those_of_float64(monkeypatch, exact, tolerance):
    monkeypatch.setattr(propagate, "EXACT", exact)
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(2, 6, 20_000)).astype(np.float32) for _ in range(2))
    expected = np.matmul(a.astype(np.float64), b.astype(np.float64).swapaxes(1, 2))
    np.testing.assert_allclose(product(a, b), expected, atol=tolerance)  # of 20 000 products


@given(seeds, st.sampled_from(sorted(GEOMETRIES)))
@settings(max_examples=30, deadline=None)
def test_no_upstream_error_no_change(seed, name):
    geometry = GEOMETRIES[name]
    full, _ = streams(seed)
    found = columns(full, full, geometry)
    assert not correction(weights(seed, geometry), found, 0.01).any()


@given(seeds, st.sampled_from(sorted(GEOMETRIES)), st.floats(0.0, 3.0), st.floats(0.0, 1.0))
@settings(max_examples=60, deadline=None)
def test_a_correction_never_raises_the_calibration_loss(seed, name, damping, alpha):
    geometry = GEOMETRIES[name]
    found, weight = joined(halves(seed, geometry)), weights(seed + 1, geometry)
    before = calibration_loss(weight, np.zeros_like(weight), found)
    after = calibration_loss(weight, alpha * correction(weight, found, damping), found)
    assert after <= before * (1 + 1e-6)


def test_the_loss_is_a_parabola_in_alpha():
    """Undamped: L(a) = L(1) + (L(0) - L(1)) (1 - a)^2, so that a half takes three quarters of the gain."""
    geometry = GEOMETRIES["dense"]
    found, weight = joined(halves(5, geometry)), weights(6, geometry)
    change = correction(weight, found, 0.0)
    loss = {a: calibration_loss(weight, a * change, found) for a in (0.0, 0.5, 1.0)}
    assert loss[0.5] == pytest.approx(loss[1.0] + (loss[0.0] - loss[1.0]) / 4, rel=1e-5)
    assert loss[1.0] < loss[0.0]


@given(seeds, st.sampled_from(sorted(GEOMETRIES)), st.floats(0.0, 1.0))
@settings(max_examples=60, deadline=None)
def test_within_its_reliability_a_correction_never_raises_the_loss_of_the_other_half(seed, name, share):
    geometry = GEOMETRIES[name]
    first, second = halves(seed, geometry, error=0.3, mix=0.2)
    weight = weights(seed + 1, geometry)
    alpha = share * reliability(weight, (first, second), 0.01)
    for fitted, judged in ((first, second), (second, first)):
        change = alpha * correction(weight, fitted, 0.01)
        without = calibration_loss(weight, np.zeros_like(weight), judged)
        assert calibration_loss(weight, change, judged) <= without * (1 + 1e-6)


def test_noise_is_unreliable_and_a_common_error_is_not():
    geometry = Geometry()
    weight = weights(0, geometry)
    noise = reliability(weight, halves(1, geometry, mix=0.0, utterances=2), 0.0)
    common = reliability(weight, halves(1, geometry, mix=5.0, utterances=12), 0.0)
    assert noise < 0.7 < 0.9 < common <= 1


def test_a_silent_channel_is_untouched():
    full, quantized = streams(0)
    for x in (*full, *quantized):
        x[:, 2] = 0
    weight = weights(1, Geometry())
    change = correction(weight, columns(full, quantized, Geometry()), 0.01)
    assert not change[:, :, 2].any()
    assert change[:, :, [0, 1, 3]].all()


def test_all_silent_means_no_change():
    zeros = [np.zeros((1, CHANNELS, 20), np.float32)]
    assert not correction(weights(1, Geometry()), columns(zeros, zeros, Geometry()), 0.01).any()


def test_few_columns_are_solved_in_the_dual_form():
    geometry = Geometry(5, pads=(2, 2))
    found, weight = joined(halves(3, geometry)), weights(4, geometry)
    few = Columns(found.quantized[..., :12], found.error[..., :12])  # d = 20 > m = 12
    gram = product(few.quantized, few.quantized)
    ridge = 0.1 * np.trace(gram[0]) / 20 * np.eye(20)
    primal = weight @ product(few.error, few.quantized) @ np.linalg.inv(gram + ridge)
    np.testing.assert_allclose(correction(weight, few, 0.1), primal, atol=1e-6)


def test_frames_are_thinned_out_to_bound_the_memory():
    full, quantized = streams(0)
    whole = columns(full, quantized, Geometry(5, pads=(2, 2)))
    thin = columns(full, quantized, Geometry(5, pads=(2, 2)), most=whole.quantized.size // 3)
    assert thin.quantized.size <= whole.quantized.size // 3 + 4 * 20  # one column more per utterance
    assert thin.quantized.shape[2] > whole.quantized.shape[2] // 5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_ranks_order_the_scores_between_zero_and_one(scores):
    found = ranks(scores)
    assert all(0 <= rank <= 1 for rank in found)
    for a, rank_a in zip(scores, found, strict=True):
        for b, rank_b in zip(scores, found, strict=True):
            assert (a < b) == (rank_a < rank_b)


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_strength_stays_within_the_reliability(reliable, rank):
    assert 0 <= fade_alpha(reliable, rank) <= reliable


def test_vulnerability_is_the_share_of_the_weight_that_rounding_loses():
    weight = np.array([[[7.0, 3.4, 0.5], [1.0, 1.0, 1.0]]])
    assert vulnerability(weight, 7) == pytest.approx((0.4**2 + 0.5**2) / (7**2 + 3.4**2 + 0.5**2 + 3))
    assert vulnerability(np.zeros((1, 2, 3)), 7) == 0
    rng = np.random.default_rng(0)
    smooth, heavy = rng.uniform(-1, 1, (1, 8, 64)), rng.standard_t(2, (1, 8, 64))
    assert vulnerability(heavy, 7) > vulnerability(smooth, 7)


@given(seeds, st.sampled_from(sorted(GEOMETRIES)))
@settings(max_examples=30, deadline=None)
def test_the_best_step_minimizes_the_loss_from_products_and_from_columns(seed, name):
    geometry = GEOMETRIES[name]
    first, second = halves(seed, geometry, error=0.3)
    weight = weights(seed + 1, geometry)
    change = correction(weight, first, 0.01)
    few = Columns(second.quantized[..., :2], second.error[..., :2])  # fewer columns than values
    for found in (second, few):
        step = best_step(weight, change, found)
        losses = [calibration_loss(weight, alpha * change, found) for alpha in (step, step - 1e-3, step + 1e-3)]
        inside = [loss for loss, alpha in zip(losses[1:], (step - 1e-3, step + 1e-3), strict=True) if 0 <= alpha <= 1]
        assert all(losses[0] <= loss * (1 + 1e-9) for loss in inside)


def test_a_direction_of_nothing_takes_no_step():
    found = joined(halves(0, Geometry()))
    weight = weights(0, Geometry())
    assert best_step(weight, np.zeros_like(weight), found) == 0
