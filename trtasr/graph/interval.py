"""Arithmetic of intervals of Python integers, which hold every value that an operation on their members can give."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product, starmap
from typing import Any

import numpy as np

from trtasr.values import Array


@dataclass(frozen=True)
class Interval:
    """All integers from low to high, both included; operators give the interval of their results."""

    low: int
    high: int

    @property
    def magnitude(self) -> int:
        """Largest absolute value."""
        return max(abs(self.low), abs(self.high))

    def __add__(self, other: "Interval") -> "Interval":
        return Interval(self.low + other.low, self.high + other.high)

    def __sub__(self, other: "Interval") -> "Interval":
        return self + -other

    def __neg__(self) -> "Interval":
        return Interval(-self.high, -self.low)

    def __abs__(self) -> "Interval":
        return Interval(max(0, self.low, -self.high), self.magnitude)

    def __mul__(self, other: "Interval") -> "Interval":
        return corners(operator.mul, self, other)

    def __mod__(self, other: "Interval") -> "Interval":
        """With the sign of the divisor: between 0 and that, itself excluded."""
        check_divisor(other)
        if other.high < 0:
            return -(-self % -other)
        if self.low >= 0 and self.high < other.low:
            return self
        return Interval(0, min(self.high, other.high - 1) if self.low >= 0 else other.high - 1)


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


def divide(a: Interval, b: Interval) -> Interval:
    """The interval of a / b toward zero: the extremes lie at the corners, as b keeps its sign.

    Raises:
        ZeroDivisionError: b may be zero.
    """
    check_divisor(b)
    return corners(lambda x, y: abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1), a, b)


def maximum(*many: Interval) -> Interval:
    """The interval of the largest."""
    return Interval(max(item.low for item in many), max(item.high for item in many))


def minimum(*many: Interval) -> Interval:
    """The interval of the smallest."""
    return Interval(min(item.low for item in many), min(item.high for item in many))


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
