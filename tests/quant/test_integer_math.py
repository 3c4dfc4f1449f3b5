import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from trtasr.quant.fixed_point import EXP2, EXPONENT_BITS, EXPONENT_SCALE, LARGEST_SHIFT, ONE, SHARE_BITS
from trtasr.quant.integer_math import exp2, isqrt, normalize, rescale, sigmoid, softmax

UNIT = 2**EXPONENT_BITS
WHOLE = 2**SHARE_BITS
EXPONENTS = np.arange(0, (LARGEST_SHIFT + 3) * UNIT, 3)


def integers(shape, low, high, seed=0):
    return np.random.default_rng(seed).integers(low, high, shape, dtype=np.int64)


def shares(t):
    """Softmax of exponents of two in float64."""
    power = 2.0 ** ((t - t.max(axis=-1, keepdims=True)) / UNIT)
    return power / power.sum(axis=-1, keepdims=True)


def normalized(x, eps):
    """The same in float64, and the root."""
    centered = x - x.mean(axis=-1, keepdims=True, dtype=np.float64)
    root = np.sqrt(np.square(centered).sum(axis=-1, keepdims=True) + eps)
    return centered / root, root


def scalars(*values):
    return tuple(np.asarray(value, np.int64) for value in values)


# rescale


@given(arrays.arrays(np.int64, 20, elements=st.integers(-(2**40), 2**40)))
def test_identity_factor_changes_nothing(x):
    assert np.array_equal(rescale(x, scalars(1, 0, 1), scalars(-(2**40), 2**40), np.int64(0)), x)
    raised = rescale(x, scalars(2**10, 2**9 + (2**41 << 10), 2**10), scalars(0, 2**42), np.int64(2**41))
    assert np.array_equal(raised, x)


def test_results_are_clipped_before_zero_is_taken_off():
    x = np.arange(-5, 6)
    assert rescale(x, scalars(1, 10, 1), scalars(8, 12), np.int64(10)).tolist() == [-2] * 3 + [-2, -1, 0, 1] + [2] * 4
    assert rescale(x, scalars(1, 10, 1), scalars(8, 12), np.int64(7)).tolist() == [1] * 3 + [1, 2, 3, 4] + [5] * 4


def test_quotients_are_rounded_down_below_zero_too():
    assert rescale(np.arange(-4, 5), scalars(1, 0, 2), scalars(-9, 9), np.int64(0)).tolist() == [
        -2,
        -2,
        -1,
        -1,
        0,
        0,
        1,
        1,
        2,
    ]


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=3, max_size=3), st.integers(-(2**30), 2**30))
def test_channels_have_multipliers_and_addends_of_their_own(x, multiplier):
    factor = scalars([[multiplier], [1]], [[2**61], [5]], 2**20)
    found = rescale(np.array([x, x]), factor, scalars(-(2**62), 2**62), np.int64(0))
    assert found[0].tolist() == [(q * multiplier + 2**61) // 2**20 for q in x]
    assert found[1].tolist() == [(q + 5) // 2**20 for q in x]


# exp2


def test_powers_are_as_close_as_stated():
    found = exp2(EXPONENTS)
    assert np.abs(found / 2**ONE - 2.0 ** (-EXPONENTS / UNIT)).max() <= 2e-6
    assert found.min() >= 0
    assert found.max() < 2**ONE


def test_power_of_zero_is_the_first_coefficient_and_whole_exponents_are_shifts():
    assert exp2(np.arange(0, LARGEST_SHIFT + 5) * UNIT).tolist() == [EXP2[0] >> n for n in range(31)] + [0] * 5


def test_powers_never_increase():
    dense = np.arange(0, 3 * UNIT)
    assert (np.diff(exp2(dense)) <= 0).all()
    for whole in range(1, LARGEST_SHIFT + 2):  # a fraction ends, a shift begins
        assert (np.diff(exp2(whole * UNIT + np.arange(-200, 200))) <= 0).all()


@pytest.mark.parametrize("t", [31 * UNIT, 2**28, 2**31, 2**40, 2**62, 2**63 - 1])
def test_power_of_a_large_exponent_is_zero(t):
    assert exp2(np.array([t])).tolist() == [0]


# sigmoid


def test_sigmoid_is_as_close_as_stated():
    t = np.arange(-34 * UNIT, 34 * UNIT, 7)
    assert np.abs(sigmoid(t) / WHOLE - 1 / (1 + 2.0 ** (-t / UNIT))).max() <= 3e-6
    assert (np.diff(sigmoid(t)) >= 0).all()


def test_sigmoid_of_a_number_and_its_negative_make_one():
    t = np.concatenate([np.arange(0, 34 * UNIT, 5), [2**21, 2**28, 2**31, 2**62]])
    assert np.abs(sigmoid(t) + sigmoid(-t) - WHOLE).max() <= 1


def test_sigmoid_at_its_ends():
    assert sigmoid(np.array([0])).tolist() == [WHOLE // 2]
    large = np.array([22 * UNIT, 2**21, 2**28, 2**62])
    assert sigmoid(large).tolist() == [WHOLE] * 4
    assert sigmoid(-large).tolist() == [0] * 4


# softmax

SPREADS = [0, 1, 100, UNIT // 3, UNIT, 5 * UNIT, 40 * UNIT]


@pytest.mark.parametrize("terms", [1, 2, 3, 17, 256, 5000])
@pytest.mark.parametrize("spread", SPREADS)
def test_softmax_is_as_close_as_stated_and_rows_make_one(terms, spread):
    t = np.rint(np.random.default_rng(terms).normal(0, spread, (8, terms))).astype(np.int64)
    found = softmax(t)
    assert np.abs(found / WHOLE - shares(t)).max() <= 4e-6
    assert np.abs(found.sum(axis=-1) - WHOLE).max() <= terms / 2 + 1
    assert found.min() >= 0
    assert found.max() <= WHOLE


def test_softmax_reads_differences_only():
    t = integers((4, 50), -10 * UNIT, 10 * UNIT)
    for shift in (-(2**28), 2**28, 2**50):
        assert np.array_equal(softmax(t + shift), softmax(t))


def test_equal_terms_have_equal_shares():
    assert softmax(np.full((1, 4), 12345)).tolist() == [[WHOLE // 4] * 4]
    assert len(set(softmax(np.full((1, 4999), -7)).ravel().tolist())) == 1


def test_one_huge_term_takes_all():
    t = np.full((1, 5000), -UNIT)
    t[0, 1234] = 2**28
    found = softmax(t)[0]
    assert found[1234] == WHOLE
    assert found.sum() == WHOLE


@pytest.mark.parametrize("masked", [1, 10, 4999])
def test_masked_terms_are_exactly_zero_and_change_nothing(masked):
    t = integers((2, 5000), -10 * UNIT, 10 * UNIT)
    t[:, -masked:] = -(2**28)
    found = softmax(t)
    assert not found[:, -masked:].any()
    assert np.array_equal(found[:, :-masked], softmax(t[:, :-masked]))


def test_softmax_works_on_the_last_axis_of_any_shape():
    t = integers((2, 3, 5, 7), -UNIT, UNIT)
    assert np.array_equal(softmax(t)[1, 2, 4], softmax(t[1, 2, 4]))


# isqrt


@settings(max_examples=400)
@given(
    st.one_of(
        st.integers(1, 2**62 - 1),
        st.integers(0, 61).map(lambda bits: 2**bits),
        st.integers(2, 2**31 - 1).flatmap(lambda root: st.integers(root**2 - 1, root**2 + 1)),
    )
)
@example(2**62 - 1)
@example((2**31 - 1) ** 2)
@example((2**31 - 1) ** 2 - 1)
def test_roots_are_exact(n):
    assert isqrt(np.array([n])).tolist() == [math.isqrt(n)]


def test_roots_of_small_numbers_and_of_all_perfect_squares_neighbours():
    small = np.arange(1, 100_000)
    assert isqrt(small).tolist() == [math.isqrt(int(n)) for n in small]
    roots = integers(20_000, 2, 2**31)
    for difference, expected in ((-1, roots - 1), (0, roots), (1, roots)):
        assert np.array_equal(isqrt(roots * roots + difference), expected)


def test_the_argument_of_a_root_is_not_changed():
    n = np.array([10, 20])
    isqrt(n)
    assert n.tolist() == [10, 20]


# normalize


@pytest.mark.parametrize("width", [2, 16, 257, 1024])
@pytest.mark.parametrize("spread", [10, 1000, 2**17, 2**20, 2**24])
@pytest.mark.parametrize("eps", [1, 2**20, 2**40])
def test_normalized_numbers_are_within_a_few_steps_over_the_root(width, spread, eps):
    """Half a step from the mean, one of the root, which is cut off, and what the mean's rounding adds to the energy."""
    x = np.clip(np.rint(np.random.default_rng(width).normal(100, spread, (50, width))), -(2**25), 2**25)
    reference, root = normalized(x.astype(np.int64), eps)
    error = np.abs(normalize(x.astype(np.int64), np.int64(eps)) / 2**ONE - reference)
    stated = (0.5 + np.abs(reference) * (1 + width / (8 * root))) / np.maximum(root - 1, 0.5) + 2.0**-ONE
    assert (error <= stated).all()


def test_normalized_numbers_of_the_usual_size_are_exact_to_seven_digits():
    x = integers((200, 256), -(2**20), 2**20)
    reference, _ = normalized(x, 1)
    assert np.abs(normalize(x, np.int64(1)) / 2**ONE - reference).max() < 1e-7


def test_equal_numbers_become_zero_and_one_huge_number_stays_below_one():
    assert not normalize(np.full((3, 64), 2**25), np.int64(1)).any()
    alone = np.zeros((1, 64), np.int64)
    alone[0, 5] = 2**25
    found = normalize(alone, np.int64(1))[0] / 2**ONE
    assert found[5] == pytest.approx(math.sqrt(63 / 64), abs=1e-6)
    assert np.delete(found, 5) == pytest.approx(-math.sqrt(1 / (63 * 64)), abs=1e-6)
    assert np.abs(normalize(np.array([[-1, 1], [0, 1], [0, 3]]), np.int64(1))).max() <= 2**ONE


def test_sums_of_the_largest_numbers_do_not_overflow():
    x = np.where(np.arange(4094) % 2, 2**25, -(2**25))[None]
    found = normalize(x, np.int64(1)) / 2**ONE
    assert np.abs(np.abs(found) - 1 / math.sqrt(4094)).max() < 1e-8


def test_the_mean_is_rounded_to_the_nearest_halves_up():
    """Of numbers 0 and 1 the mean is a half, and becomes 1; of 0 and -1 it becomes 0."""
    assert normalize(np.array([[0, 1], [-1, 0]]), np.int64(3)).tolist() == [[-(2**29), 0], [-(2**29), 0]]


def test_signs_follow_the_centered_numbers():
    x = integers((20, 32), -(2**20), 2**20)
    assert np.array_equal(np.sign(normalize(x, np.int64(1))), np.sign(np.rint(x - x.mean(axis=-1, keepdims=True))))


def test_a_large_eps_dominates():
    x = np.array([[-(2**10), 2**10]])
    assert normalize(x, np.int64(2**40)).tolist() == [[-(2**30 // 1024), 2**30 // 1024]]


def test_stated_errors_hold_with_the_rounding_of_what_is_read():
    real = np.random.default_rng(5).normal(size=(40, 300)) * 4
    read = np.rint(real / EXPONENT_SCALE).astype(np.int64)
    exact = np.exp(real - real.max(axis=-1, keepdims=True))
    assert np.abs(softmax(read) / 2**20 - exact / exact.sum(axis=-1, keepdims=True)).max() < 4e-6
    assert np.abs(sigmoid(read) / 2**20 - 1 / (1 + np.exp(-real))).max() < 4e-6
