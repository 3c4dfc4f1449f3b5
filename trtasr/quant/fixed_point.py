"""Fixed-point numbers of integer-only inference: dyadic multipliers, and the formats that inner tensors have.

Both sides read this page: the pass that writes the integer graph, and the executor that checks it.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trtasr.errors import QualityError
from trtasr.values import IntArray

ZERO_POINT = 128  # int8 codes are held as uint8: u8 x u8 products are exact on every x86 kernel, u8 x s8 are not

WIDE_BITS = 20  # a wide code: the tensor's magnitude is 2^20 ...
WIDE_LIMIT = 2**24  # ... and sixteen times as much saturates
OPERAND_LIMIT = 2**16  # largest operand of a product of two activations ...
OPERAND_HEADROOM = 4  # ... whose magnitude is a fourth of it
SUM_LIMIT = 2**31 - 1  # of an int32

ONE = 30  # 1.0 is 2^30 in what Exp2 and Normalize give
SHARE_BITS = 20  # 1.0 is 2^20 in what Softmax and Sigmoid give
EXPONENT_BITS = 16  # 1.0 is 2^16 in the exponents, of two, that Softmax and Sigmoid read
EXPONENT_SCALE = float(np.log(2)) / 2**EXPONENT_BITS  # the same as a scale: e^x = 2^(x / ln 2)
EXPONENT_LIMIT = 2**28  # saturates at e^(+-2839)

# 2^-f on [0, 1] = c0 - f (c1 - f (c2 - f (c3 - f c4))), the best polynomial of degree 4 (Remez), in 2^-30: off by at
# most 1.9e-6; Softmax and Sigmoid by 4e-6, the rounding of what they read included.
EXP2 = (1073739835, 744159319, 257105068, 57166560, 7353878)
LARGEST_SHIFT = 31  # 2^30 shifted by so much is 0
ISQRT_STEPS = 6  # of Newton's method from a start within a factor of 2 above the root

MULTIPLIER_BITS = 31
PRODUCT_BITS = 62  # what is divided stays below 2^62 in an int64

# Frames of self-attention, NeMo's pos_emb_max_len: how long the table of positions is.
LONGEST = 5000


@dataclass(frozen=True)
class Dyadic:
    """Ratios m / 2^e, one m per channel and one e per tensor.

    Attributes:
        multiplier: m, int64, |m| <= 2^31.
        shift: e, 1 .. 60.
        raise_by: z, what makes every round(q m / 2^e + offset) + z positive.
    """

    multiplier: IntArray
    shift: int
    raise_by: int


def reach(ratio: npt.ArrayLike, bound: int, offset: npt.ArrayLike = 0.0) -> int:
    """A magnitude that round(q ratio + offset) stays below for every |q| <= bound.

    Raises:
        QualityError: it is not finite.
    """
    found = bound * float(np.abs(ratio).max()) + float(np.abs(offset).max()) + 2
    if not math.isfinite(found):
        raise QualityError("a ratio of two scales is not finite", "calibrate again with `make calib`")
    return math.ceil(found)


def dyadic(ratio: npt.ArrayLike, bound: int, offset: npt.ArrayLike = 0.0, least: int = 0) -> Dyadic:
    """The nearest m / 2^e for each ratio: m = round(ratio 2^e), e as large as the words allow (Q-ASR, section 3).

    The largest m has at most 31 bits, fewer where (q m + offset 2^e + z 2^e) would leave 62 bits for some |q| <= bound.
    What that costs: at most bound / 2^(e + 1) steps of the result.

    Args:
        ratio: float64, any shape, any sign.
        bound: largest |q| that will be multiplied.
        offset: what will be added behind the ratio, any shape.
        least: smallest z.

    Raises:
        QualityError: a ratio that is not finite, or too large for these words.
    """
    most = max(reach(ratio, bound, offset), least)
    largest = float(np.abs(ratio).max())
    by_word = PRODUCT_BITS - math.ceil(math.log2(2 * most)) - 1
    by_multiplier = MULTIPLIER_BITS - 1 - math.floor(math.log2(largest)) if largest else by_word
    shift = min(by_word, by_multiplier, PRODUCT_BITS - 2)
    if shift < 1:
        raise QualityError(
            f"a ratio of {largest:.3g} of two scales is too large for {MULTIPLIER_BITS}-bit multipliers",
            "calibrate again: one activation scale is far from the others",
        )
    multiplier = np.rint(np.ldexp(np.asarray(ratio, np.float64), shift)).astype(np.int64)
    rounded = (bound * int(np.abs(multiplier).max()) >> shift) + 1 + math.ceil(float(np.abs(offset).max())) + 2
    return Dyadic(multiplier, shift, max(most, rounded))
