"""Arithmetic of intervals: every result lies inside, and the ends are taken on."""

from itertools import product
from operator import add, mod, mul, neg, sub

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtasr.graph.interval import Interval, divide, hull, maximum, minimum, of_array, of_type, weighted_sums

SMALL = [Interval(low, high) for low in range(-3, 4) for high in range(low, 4)]
EXACT = {add: add, sub: sub, mul: mul, maximum: max, minimum: min}
LARGE = st.integers(-(2**80), 2**80)


def members(item):
    return range(item.low, item.high + 1)


@pytest.mark.parametrize("function", EXACT)
def test_two_intervals_give_the_hull_of_all_results(function):
    for a, b in product(SMALL, SMALL):
        values = [EXACT[function](x, y) for x, y in product(members(a), members(b))]
        assert function(a, b) == Interval(min(values), max(values)), (a, b)


@pytest.mark.parametrize("function", [neg, abs])
def test_one_interval_gives_the_hull_of_all_results(function):
    for a in SMALL:
        values = [function(x) for x in members(a)]
        assert function(a) == Interval(min(values), max(values)), a


@pytest.mark.parametrize(("function", "exact"), [(divide, lambda x, y: int(x / y)), (mod, mod)])
def test_division_keeps_every_result_and_refuses_zero(function, exact):
    for a, b in product(SMALL, SMALL):
        if b.low <= 0 <= b.high:
            with pytest.raises(ZeroDivisionError):
                function(a, b)
            continue
        values = [exact(x, y) for x, y in product(members(a), members(b))]
        found = function(a, b)
        assert found.low <= min(values), (a, b)
        assert max(values) <= found.high, (a, b)


@given(st.tuples(LARGE, LARGE), st.tuples(LARGE, LARGE), st.floats(0, 1), st.floats(0, 1))
def test_nothing_wraps_however_large(a, b, place, other):
    """Python's integers have no width: products of 80 bits are exact."""
    first, second = (Interval(*sorted(ends)) for ends in (a, b))
    x, y = (item.low + int(share * (item.high - item.low)) for item, share in ((first, place), (second, other)))
    x, y = min(x, first.high), min(y, second.high)
    found = first * second
    assert found.low <= x * y <= found.high
    assert {found.low, found.high} <= {p * q for p in a for q in b}


def test_hulls_of_types_arrays_and_intervals():
    assert of_type(np.dtype(np.int8)) == Interval(-128, 127)
    assert of_type(np.dtype(np.uint64)) == Interval(0, 2**64 - 1)
    assert of_array(np.array([[3, -7], [5, 0]], np.int32)) == Interval(-7, 5)
    assert of_array(np.zeros(0, np.int64)) == Interval(0, 0)
    assert hull(Interval(1, 2), Interval(-5, -4)) == Interval(-5, 2)
    assert (Interval(-9, 3).magnitude, Interval(-9, 30).magnitude) == (9, 30)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=6, max_size=6), st.integers(-2, 2), st.integers(0, 3))
def test_weighted_sums_are_exact(numbers, low, width):
    weight = np.asarray(numbers).reshape(2, 3)
    ends = (min(low, 0), max(low + width, 0))
    sums = [int(row @ np.asarray(x)) for row in weight for x in product(ends, repeat=3)]
    assert weighted_sums(Interval(low, low + width), weight, (1,)) == Interval(min(sums), max(sums))
