import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtasr.bench.fidelity import LIMITS, Tally, divergences, edits, loss, tally, total, typical_error

EXACT = np.array([[2.0, 1.0, 0.0], [0.0, 0.1, -5.0]], np.float32)
TOKENS = st.lists(st.integers(0, 3), max_size=8)


def test_what_is_the_same_has_no_error():
    found = tally(EXACT, EXACT, [1, 2], [1, 2]).fidelity("long")
    assert (found.kind, found.positions, found.agreement, found.thin) == ("long", 2, 1.0, 0.0)
    assert (found.divergence, found.token_errors, found.token_error_rate) == (0.0, 0, 0.0)
    assert found.sqnr_db == math.inf
    assert loss(found) == 0.0


def test_a_flip_is_counted_and_so_is_the_margin_that_let_it_happen():
    other = EXACT + np.array([[0.0, 0.0, 0.0], [0.3, 0.0, 0.0]], np.float32)
    found = tally(EXACT, other, [0, 1], [0]).fidelity("")
    assert found.agreement == 0.5
    assert found.thin == 0.5
    assert found.token_error_rate == 0.5
    assert found.sqnr_db == pytest.approx(10 * math.log10(float(np.square(EXACT).sum()) / 0.09), abs=1e-4)


def test_divergence_is_that_of_kullback_and_leibler():
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    expected = float((p * np.log(p / q)).sum())
    assert divergences(np.log(p)[None] + 3, np.log(q)[None]) == pytest.approx([expected])
    assert tally(np.log(p)[None], np.log(q)[None], [], []).divergence == pytest.approx(expected)


def test_a_shift_of_all_scores_changes_no_distribution():
    found = tally(EXACT, EXACT + 4, [], [])
    assert (found.thin, found.divergence) == (0, pytest.approx(0, abs=1e-9))


def test_utterances_add_up():
    one, two = tally(EXACT, EXACT, [1], [1]), tally(EXACT[:1], EXACT[:1] + 1, [1, 2], [2])
    assert total([one, two]) == one + two
    assert (one + two).positions == 3
    assert (one + two).fidelity("").token_errors == 1
    assert total([]) == Tally()


@given(TOKENS, TOKENS)
def test_edits_are_a_distance(first, second):
    found = edits(first, second)
    assert found == edits(second, first)
    assert (found == 0) == (first == second)
    assert abs(len(first) - len(second)) <= found <= max(len(first), len(second))


@pytest.mark.parametrize(("first", "second", "count"), [([1, 2, 3], [1, 3], 1), ([], [4, 4], 2), ([1, 2], [2, 1], 2)])
def test_edits_are_the_fewest(first, second, count):
    assert edits(first, second) == count


def test_a_text_where_there_should_be_none_is_an_error_a_token():
    assert tally(EXACT, EXACT, [], [1, 2]).fidelity("").token_error_rate == 2.0


def test_max_asks_for_more_than_high_and_fast_is_judged_as_high_is():
    assert LIMITS["max"] < LIMITS["high"] == LIMITS["fast"]


def test_the_typical_error_is_the_geometric_mean_of_what_changes_a_distribution():
    exact = np.zeros((3, 2))
    error = np.array([[0.1, -0.1], [5.1, 4.9], [10.0, -10.0]])  # variances 0.01, 0.01, 100
    assert typical_error([exact], [exact + error]) == pytest.approx((0.01 * 0.01 * 100) ** (1 / 3), rel=1e-3)
    assert typical_error([exact], [exact]) == 0
    assert typical_error([], []) == 0


@given(st.integers(0, 999), st.floats(-50, 50))
def test_the_typical_error_grows_with_the_error_and_ignores_what_is_added_to_all_tokens(seed, shift):
    draw = np.random.default_rng(seed)
    exact, error = draw.normal(size=(2, 9, 6))
    assert typical_error([exact], [exact + shift]) == pytest.approx(0, abs=1e-12)
    half, whole = (typical_error([exact], [exact + part * error + shift]) for part in (0.5, 1))
    assert half == pytest.approx(whole / 4, rel=1e-3)


def test_the_typical_error_of_utterances_is_that_of_all_their_positions():
    draw = np.random.default_rng(0)
    exact, found = draw.normal(size=(2, 9, 6))
    parts = typical_error([exact[:4], exact[4:]], [found[:4], found[4:]])
    assert parts == pytest.approx(typical_error([exact], [found]))


def test_one_position_that_is_far_off_hardly_counts():
    exact = np.zeros((100, 3))
    found = np.tile([0.1, 0.0, -0.1], (100, 1))
    far = np.vstack([found[:99], [[30.0, 0.0, -30.0]]])
    assert typical_error([exact], [far]) < 1.15 * typical_error([exact], [found])
