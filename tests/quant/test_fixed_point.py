import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from trtasr.errors import QualityError
from trtasr.quant.fixed_point import (
    EXP2,
    EXPONENT_BITS,
    EXPONENT_SCALE,
    MULTIPLIER_BITS,
    ONE,
    PRODUCT_BITS,
    dyadic,
    reach,
)
from trtasr.quant.integer_math import rescale

SIGNS = st.sampled_from([-1.0, 1.0])
RATIOS = st.builds(
    lambda sign, fraction, exponent: sign * math.ldexp(fraction, exponent),
    SIGNS,
    st.floats(1, 2, exclude_max=True),
    st.integers(-60, 12),
)
BOUNDS = st.integers(0, 50).flatmap(lambda bits: st.integers(2**bits, 2 ** (bits + 1)))
OFFSETS = st.one_of(st.just(0.0), st.floats(-(2.0**24), 2.0**24))


def extremes(found, ratio, bound, offset=0.0):
    """Smallest and largest q m + offset 2^e + 2^(e-1) + z 2^e, exact."""
    unit = 1 << found.shift
    middle = round(Fraction(offset) * unit) + unit // 2 + found.raise_by * unit
    span = bound * int(np.abs(found.multiplier).max())
    return middle - span, middle + span


@settings(max_examples=1000)
@given(RATIOS, BOUNDS, OFFSETS, st.integers(0, 2**24))
@example(2**-27 * 1.0003, 5000 * 2**36, 0.0, 2**24)  # multipliers of 12 bits: they round by far more than one step
@example(2.0**10, 2**40, 0.0, 0)
def test_multipliers_are_the_nearest_and_every_sum_is_positive_and_fits(ratio, bound, offset, least):
    assume(bound * abs(ratio) + abs(offset) + least < 2**57)
    found = dyadic(ratio, bound, offset, least)
    multiplier, unit = int(found.multiplier), 1 << found.shift
    assert abs(Fraction(multiplier, unit) - Fraction(ratio)) <= Fraction(1, 2 * unit)
    assert abs(multiplier) <= 2**MULTIPLIER_BITS
    assert 1 <= found.shift <= 60
    assert found.raise_by >= least
    low, high = extremes(found, ratio, bound, offset)
    assert low >= 0
    assert high < 2**63


@pytest.mark.parametrize("exponent", [-20, 0])
def test_multipliers_round_up_to_a_power_of_two_just_below_it(exponent):
    found = dyadic(math.ldexp(2 - 2**-40, exponent), 5)
    assert (int(found.multiplier), found.shift) == (2**MULTIPLIER_BITS, MULTIPLIER_BITS - 1 - exponent)
    assert extremes(found, 0, 5)[0] >= 0


@given(RATIOS, BOUNDS)
def test_no_bit_that_the_words_allow_is_wasted(ratio, bound):
    assume(bound * abs(ratio) < 2**57)
    found = dyadic(ratio, bound)
    _, high = extremes(found, ratio, bound)
    full_multiplier = abs(int(found.multiplier)) >= 2 ** (MULTIPLIER_BITS - 1) - 1
    assert full_multiplier or high >= 2 ** (PRODUCT_BITS - 4) or found.shift >= PRODUCT_BITS - 4


@given(st.lists(RATIOS, min_size=1, max_size=5), st.integers(1, 2**31))
def test_channels_share_one_shift(ratios, bound):
    assume(bound * max(map(abs, ratios)) < 2**57)
    found = dyadic(np.array(ratios).reshape(-1, 1), bound)
    assert found.multiplier.shape == (len(ratios), 1)
    assert found.multiplier.dtype == np.int64
    for ratio, multiplier in zip(ratios, found.multiplier.ravel(), strict=True):
        assert abs(Fraction(int(multiplier), 1 << found.shift) - Fraction(ratio)) <= Fraction(1, 2 << found.shift)


def test_signs_are_kept_and_zero_is_zero():
    assert dyadic([0.75, -0.75, 0.0], 1000).multiplier.tolist() == [3 << 29, -3 << 29, 0]
    nothing = dyadic(0.0, 2**40, 5.0)
    assert int(nothing.multiplier) == 0
    assert nothing.shift >= 1
    assert nothing.raise_by > 5


def test_ratios_far_below_a_step_become_zero():
    found = dyadic(1e-300, 2**31)
    assert (int(found.multiplier), found.shift <= 60) == (0, True)


@pytest.mark.parametrize(
    ("ratio", "bound", "offset"),
    [
        (2.0**31, 1, 0.0),
        (2.0**20, 2**41, 0.0),
        (1.0, 2**61, 0.0),
        (1.0, 1, 2.0**61),
        (-(2.0**31), 1, 0.0),
    ],
)
def test_ratios_that_do_not_fit_are_refused(ratio, bound, offset):
    with pytest.raises(QualityError, match=r"too large .*\n.*calibrate"):
        dyadic(ratio, bound, offset)


def test_the_largest_ratio_that_fits():
    assert int(dyadic(2.0**29, 1).multiplier) == 2**30
    with pytest.raises(QualityError, match=r"1\.07e\+09 .*too large"):
        dyadic(2.0**30, 1)


@pytest.mark.parametrize("ratio", [np.inf, -np.inf, np.nan, [1.0, np.nan]])
def test_ratios_that_are_not_finite_are_refused(ratio):
    for called in (dyadic, reach):
        with pytest.raises(QualityError, match=r"not finite\n.*calibrate"):
            called(ratio, 100)


@given(RATIOS, st.integers(0, 2**40), OFFSETS)
def test_reach_is_above_every_rounded_value(ratio, bound, offset):
    found = reach([ratio, ratio / 3], bound, offset)
    for q in (-bound, bound):
        exact = Fraction(q) * Fraction(ratio) + Fraction(offset)
        assert abs(math.floor(exact + Fraction(1, 2))) < found
    assert found <= bound * abs(ratio) * (1 + 1e-9) + abs(offset) + 4


@given(RATIOS, st.integers(1, 2**31), st.floats(-1, 1), st.integers(-(2**24), 2**24))
def test_rescaled_numbers_are_rounded_halves_up(ratio, bound, share, offset):
    """round(q m / 2^e + offset), as the executor computes it from the multiplier, the shift and z."""
    assume(bound * abs(ratio) < 2**50)
    found, q = dyadic(ratio, bound, float(offset)), int(bound * share)
    unit = 1 << found.shift
    addend = offset * unit + unit // 2 + found.raise_by * unit
    factor = tuple(np.asarray(value, np.int64) for value in (found.multiplier, addend, unit))
    limits = (np.int64(0), np.int64(2 * found.raise_by))
    made = rescale(np.int64(q), factor, limits, np.int64(found.raise_by))
    assert int(made) == math.floor(Fraction(q * int(found.multiplier), unit) + Fraction(1, 2)) + offset


@pytest.mark.parametrize(("q", "rounded"), [(1, 1), (-1, 0), (3, 2), (-3, -1), (2, 1), (-2, -1), (0, 0)])
def test_exact_halves_go_up(q, rounded):
    found = dyadic(0.5, 4)
    factor = (
        found.multiplier,
        np.int64((1 << found.shift - 1) + (found.raise_by << found.shift)),
        np.int64(1 << found.shift),
    )
    made = rescale(np.int64(q), factor, (np.int64(0), np.int64(2**40)), np.int64(found.raise_by))
    assert int(made) == rounded


def test_error_of_the_polynomial_is_the_stated_one():
    fraction = np.linspace(0, 1, 200_001)
    c0, c1, c2, c3, c4 = np.array(EXP2) / 2**ONE
    power = c0 - fraction * (c1 - fraction * (c2 - fraction * (c3 - fraction * c4)))
    worst = np.abs(power - 2.0**-fraction).max()
    assert 0.9 * 1.9e-6 < worst <= 1.9e-6


def test_exponents_count_powers_of_two():
    assert pytest.approx(math.exp(EXPONENT_SCALE), rel=1e-15) == 2.0 ** (1 / 2**EXPONENT_BITS)
