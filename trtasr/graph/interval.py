"""Arithmetic of intervals of Python integers, which hold every value that an operation on their members can give."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product, starmap
from typing import Any

import numpy as np

from trtasr.values import Array


@dataclass(frozen=True)
class Interval:
    """All integers from low to high, both included."""

    low: int
    high: int

    @property
    def magnitude(self) -> int:
        """Largest absolute value."""
        return max(abs(self.low), abs(self.high))


def of_type(dtype: np.dtype[Any]) -> Interval:
    """All values of an integer type."""
    info = np.iinfo(dtype)
    return Interval(int(info.min), int(info.max))


def of_array(array: Array) -> Interval:
    """Hull of the values of an integer array; 0 of an empty one."""
    return Interval(int(array.min()), int(array.max())) if array.size else Interval(0, 0)


def hull(*many: Interval) -> Interval:
    """The smallest interval that holds all of these."""
    return Interval(min(item.low for item in many), max(item.high for item in many))


def add(a: Interval, b: Interval) -> Interval:
    """The interval of a + b."""
    return Interval(a.low + b.low, a.high + b.high)


def subtract(a: Interval, b: Interval) -> Interval:
    """The interval of a - b."""
    return Interval(a.low - b.high, a.high - b.low)


def multiply(a: Interval, b: Interval) -> Interval:
    """The interval of a b: the extremes lie at the corners."""
    return corners(lambda x, y: x * y, a, b)


def divide(a: Interval, b: Interval) -> Interval:
    """The interval of a / b toward zero: the extremes lie at the corners, as b keeps its sign.

    Raises:
        ZeroDivisionError: b may be zero.
    """
    check_divisor(b)
    return corners(lambda x, y: abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1), a, b)


def modulo(a: Interval, b: Interval) -> Interval:
    """The interval of a mod b, which has the sign of b: between 0 and b, itself excluded.

    Raises:
        ZeroDivisionError: b may be zero.
    """
    check_divisor(b)
    if b.high < 0:
        return negate(modulo(negate(a), negate(b)))
    if a.low >= 0 and a.high < b.low:
        return a
    return Interval(0, min(a.high, b.high - 1) if a.low >= 0 else b.high - 1)


def maximum(*many: Interval) -> Interval:
    """The interval of the largest."""
    return Interval(max(item.low for item in many), max(item.high for item in many))


def minimum(*many: Interval) -> Interval:
    """The interval of the smallest."""
    return Interval(min(item.low for item in many), min(item.high for item in many))


def negate(a: Interval) -> Interval:
    """The interval of -a."""
    return Interval(-a.high, -a.low)


def absolute(a: Interval) -> Interval:
    """The interval of |a|."""
    return Interval(max(0, a.low, -a.high), a.magnitude)


def relu(a: Interval) -> Interval:
    """The interval of max(a, 0)."""
    return maximum(a, Interval(0, 0))


def weighted_sums(x: Interval, weight: Array, axes: tuple[int, ...]) -> Interval:
    """Hull of sum(w x) over these axes of the weight, each x anywhere in an interval that holds 0.

    Exact: the largest sum has the highest x at positive weights and the lowest at negative ones. Because x may be 0,
    partial sums are within it too.
    """
    x = hull(x, Interval(0, 0))
    ups = np.ravel(np.maximum(weight, 0).sum(axis=axes))
    downs = np.ravel(np.minimum(weight, 0).sum(axis=axes))
    pairs = [(int(up), int(down)) for up, down in zip(ups, downs, strict=True)]
    return Interval(
        min((up * x.low + down * x.high for up, down in pairs), default=0),
        max((up * x.high + down * x.low for up, down in pairs), default=0),
    )


def corners(function: Callable[[int, int], int], a: Interval, b: Interval) -> Interval:
    """The interval of a function that is monotonic in each argument."""
    values = list(starmap(function, product((a.low, a.high), (b.low, b.high))))
    return Interval(min(values), max(values))


def check_divisor(b: Interval) -> None:
    """Refuse a divisor that may be zero.

    Raises:
        ZeroDivisionError: it may.
    """
    if b.low <= 0 <= b.high:
        raise ZeroDivisionError
