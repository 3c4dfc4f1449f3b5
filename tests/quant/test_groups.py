"""Scales per output channel and group of columns."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtasr.quant.groups import dequantized, nearest_in_groups, spans
from trtasr.quant.propagate import rounding_loss, vulnerability
from trtasr.quant.scales import quantize_weight, weight_scale

seeds = st.integers(0, 2**32 - 1)
widths = st.sampled_from([3, 7, 127])


def random_weight(seed: int, shape: tuple[int, int, int] = (2, 5, 37)) -> np.ndarray:
    """Weights with heavy tails."""
    return np.random.default_rng(seed).standard_t(3, shape).astype(np.float32)


@given(st.integers(1, 300), st.integers(0, 300))
def test_groups_take_every_column_once_and_only_the_last_is_smaller(inputs: int, group: int) -> None:
    found = spans(inputs, group)
    assert [place for span in found for place in range(inputs)[span]] == list(range(inputs))
    assert {span.stop - span.start for span in found[:-1]} <= {group}
    assert 0 < found[-1].stop - found[-1].start <= (group or inputs)


@given(seeds, widths, st.sampled_from([0, 37, 40]))
def test_a_group_of_all_columns_is_a_scale_per_channel(seed: int, levels: int, group: int) -> None:
    weight = random_weight(seed)
    rows = weight.reshape(10, 37)
    known = weight_scale(rows, 0, levels)
    codes, scales = nearest_in_groups(weight, group, levels)
    np.testing.assert_array_equal(scales.reshape(10), known.scales)
    np.testing.assert_array_equal(codes.reshape(10, 37), quantize_weight(rows, known.scales, 0, levels))
    assert vulnerability(weight.astype(np.float64), levels, group) == vulnerability(weight.astype(np.float64), levels)


@given(seeds, widths, st.sampled_from([2, 8, 36]))
def test_no_weight_is_further_from_its_grid_than_half_a_step_and_no_step_is_larger_than_the_channels(
    seed: int, levels: int, group: int
) -> None:
    """The bound on every single error shrinks; an error itself need not: 1.0 beside 7.0 is on the grid of 7 levels."""
    weight = random_weight(seed)
    codes, scales = nearest_in_groups(weight, group, levels)
    assert codes.dtype == np.int8
    assert np.abs(codes.astype(int)).max() == levels
    steps = np.repeat(scales, group, axis=2)[:, :, :37]
    assert (np.abs(weight - dequantized(codes, scales, group)) <= steps / 2 * (1 + 1e-6)).all()
    assert (scales <= weight_scale(weight.reshape(10, 37), 0, levels).scales.reshape(2, 5, 1)).all()


@given(seeds, widths, st.sampled_from([2, 8, 32, 128]))
@settings(max_examples=40, deadline=None)
def test_over_a_whole_layer_groups_lose_no_more_than_channels(seed: int, levels: int, group: int) -> None:
    weight = random_weight(seed, (1, 32, 300))
    lost = [
        float(np.square(weight - dequantized(*nearest_in_groups(weight, size, levels), size), dtype=np.float64).sum())
        for size in (group, 0)
    ]
    assert lost[0] <= lost[1]
    assert vulnerability(weight.astype(np.float64), levels, group) <= vulnerability(weight.astype(np.float64), levels)


def test_a_group_by_hand() -> None:
    weight = np.array([[[7.0, 3.4, 0.55, 1.0, -0.25]]], np.float32)
    codes, scales = nearest_in_groups(weight, 2, 7)
    assert codes.tolist() == [[[7, 3, 4, 7, -7]]]
    assert scales.tolist() == [[[1.0, pytest.approx(1 / 7, rel=1e-3), pytest.approx(0.25 / 7, rel=1e-3)]]]
    values = dequantized(codes, scales, 2)
    np.testing.assert_allclose(values, [[[7, 3, 4 / 7, 1, -0.25]]], rtol=1e-3)
    assert vulnerability(weight.astype(np.float64), 7, 2) == pytest.approx(
        (0.4**2 + (4 / 7 - 0.55) ** 2) / float(np.square(weight).sum())
    )
    assert rounding_loss(weight.astype(np.float64), 7) == pytest.approx(0.4**2 + 0.45**2 + 0.25**2)


def test_a_group_of_zeros_stays_zero() -> None:
    weight = np.array([[[0.0, 0.0, 1.0]]], np.float32)
    codes, scales = nearest_in_groups(weight, 2, 7)
    assert (scales > 0).all()
    assert dequantized(codes, scales, 2)[0, 0, :2].tolist() == [0.0, 0.0]
