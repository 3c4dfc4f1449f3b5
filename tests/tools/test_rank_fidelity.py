"""The tool that compares rankings ranks as Spearman does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools.rank_fidelity import correlation, ranks


def test_ranks_of_equal_values_are_their_mean():
    assert ranks([3.0, 1.0, 3.0, 0.0]) == [2.5, 1.0, 2.5, 0.0]


@given(st.lists(st.integers(-1000, 1000), min_size=3, max_size=20, unique=True))
def test_only_the_order_counts(values):
    assert correlation(values, list(np.arctan(values) * 2 + 1)) == pytest.approx(correlation(values, values))
    assert correlation(values, [-value for value in values]) == pytest.approx(-1)


def test_it_is_the_formula_of_squared_differences_without_ties():
    one, other = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 4.0, 3.0, 5.0]
    assert correlation(one, other) == pytest.approx(1 - 6 * 4 / (5 * 24))
