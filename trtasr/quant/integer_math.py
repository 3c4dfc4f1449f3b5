"""Integer arithmetic of integer-only inference, as pure functions on int64 arrays.

No function computes with floating point. Each is the meaning of a function of the same name in the integer graph, and
is written in another way (shifts of signed numbers, exact divisions), so that one checks the other.
"""

import numpy as np

from trtasr.quant.fixed_point import EXP2, EXPONENT_BITS, LARGEST_SHIFT, ONE, SHARE_BITS
from trtasr.values import IntArray


def rescale(
    x: IntArray, factor: tuple[IntArray, IntArray, IntArray], limits: tuple[IntArray, IntArray], zero: IntArray
) -> IntArray:
    """clip(floor((x m + a) / 2^e), low, high) - zero: dyadic requantization (Q-ASR, section 3).

    With a = 2^(e-1) + z 2^e, low = z + l, high = z + h and zero = z - p this is clip(round(x m / 2^e), l, h) + p,
    halves up: codes with zero point p; z only keeps sums above zero.

    Args:
        x: int64, any shape.
        factor: m and a, broadcast against it, and 2^e, a scalar.
        limits: low, high.
        zero: taken off the clipped quotient.
    """
    multiplier, addend, divisor = factor
    shift = int(divisor).bit_length() - 1
    codes: IntArray = np.clip((x * multiplier + addend) >> shift, *limits) - zero
    return codes


def exp2(t: IntArray) -> IntArray:
    """2^-t in 2^-30, t >= 0 in 2^-16: a polynomial for the fraction, a shift for the rest.

    The method of I-BERT's i-exp (arXiv 2101.01321, section 3.4), with powers of two instead of e and degree 4 instead
    of 2. Largest absolute error 2e-6 (of a result of at most 1).
    """
    fraction, whole = t & (2**EXPONENT_BITS - 1), np.minimum(t >> EXPONENT_BITS, LARGEST_SHIFT)
    found: IntArray = np.full_like(t, EXP2[-1])
    for coefficient in EXP2[-2::-1]:
        found = coefficient - ((fraction * found) >> EXPONENT_BITS)
    shifted: IntArray = found >> whole
    return shifted


def sigmoid(t: IntArray) -> IntArray:
    """1 / (1 + 2^-t) in 2^-20, t in 2^-16 of either sign: E / (1 + E) or 1 / (1 + E) with E = 2^-|t|.

    Largest absolute error 3e-6.
    """
    small = exp2(np.abs(t))
    one = np.int64(1) << ONE
    total = one + small
    share: IntArray = ((np.where(t >= 0, one, small) << SHARE_BITS) + total // 2) // total
    return share


def softmax(t: IntArray) -> IntArray:
    """2^t / sum(2^t) over the last axis, in 2^-20, t in 2^-16 (I-BERT, algorithm 3).

    The sum is 2^-30 too large, so that nothing is ever divided by zero.
    Largest absolute error 4e-6 for up to 5000 terms.
    """
    small = exp2(t.max(axis=-1, keepdims=True) - t)
    total = small.sum(axis=-1, keepdims=True) + 1
    share: IntArray = np.minimum(((small << SHARE_BITS) + total // 2) // total, 1 << SHARE_BITS)
    return share


def isqrt(n: IntArray) -> IntArray:
    """floor(sqrt(n)) for 1 <= n < 2^62, exactly, one binary digit at a time."""
    root, rest = np.zeros_like(n), n.copy()
    for position in range(30, -1, -1):
        trial = (root << (position + 1)) + (np.int64(1) << (2 * position))
        fits = rest >= trial
        rest = np.where(fits, rest - trial, rest)
        root = np.where(fits, root + (np.int64(1) << position), root)
    return root


def normalize(x: IntArray, eps: IntArray) -> IntArray:
    """(x - mean) / sqrt(sum((x - mean)^2) + eps) over the last axis, in 2^-30 (I-BERT, section 3.5).

    A layer norm is this times sqrt(d) gamma, plus beta: both go into the scale behind it. The mean is rounded to an
    integer, halves up; the division cuts off.

    Args:
        x: int64 [..., d].
        eps: d eps / scale^2, at least 1.
    """
    count = x.shape[-1]
    mean = (x.sum(axis=-1, keepdims=True) + count // 2) // count
    centered = x - mean
    root = isqrt((centered * centered).sum(axis=-1, keepdims=True) + eps)
    quotient = (np.abs(centered) << ONE) // root
    found: IntArray = np.minimum(quotient, 1 << ONE) * np.sign(centered)
    return found
