"""The tool that compares rankings: it ranks as Spearman does, and knows the noise near margins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools.rank_fidelity import correlation, margin_noise, ranks


def test_ranks_of_equal_values_are_their_mean():
    assert ranks([3.0, 1.0, 3.0, 0.0]) == [2.5, 1.0, 2.5, 0.0]


@given(st.lists(st.integers(-1000, 1000), min_size=3, max_size=20, unique=True))
def test_only_the_order_counts(values):
    assert correlation(values, list(np.arctan(values) * 2 + 1)) == pytest.approx(correlation(values, values))
    assert correlation(values, [-value for value in values]) == pytest.approx(-1)


def test_it_is_the_formula_of_squared_differences_without_ties():
    one, other = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 4.0, 3.0, 5.0]
    assert correlation(one, other) == pytest.approx(1 - 6 * 4 / (5 * 24))


def test_margin_noise_is_the_square_error_of_near_margins():
    exact = np.array([[1.0, 1.0, -9.0], [30.0, 0.0, -9.0]])
    error = np.array([[0.5, 0.0, 7.0], [0.0, 0.9, 7.0]])  # the third token is no rival, the second margin is wide
    assert margin_noise([exact], [exact + error]) == pytest.approx(0.25, rel=1e-6)


@given(st.integers(0, 999), st.floats(-50, 50))
def test_margin_noise_has_bounds_and_ignores_what_is_added_to_all_tokens(seed, shift):
    draw = np.random.default_rng(seed)
    exact, error = draw.normal(size=(2, 9, 6))
    assert margin_noise([exact], [exact + shift]) == pytest.approx(0, abs=1e-12)
    assert 0 < margin_noise([exact], [exact + 0.1 * error]) < margin_noise([exact], [exact + error]) <= 1
    assert margin_noise([exact], [exact + 1e6 * error]) == pytest.approx(1)


def test_margin_noise_of_utterances_is_that_of_all_their_positions():
    draw = np.random.default_rng(0)
    exact, found = draw.normal(size=(2, 9, 6))
    assert margin_noise([exact[:4], exact[4:]], [found[:4], found[4:]]) == pytest.approx(margin_noise([exact], [found]))
