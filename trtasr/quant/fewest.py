"""How many of the noisiest layers have to go so that what is left is quiet enough, found in few measurements."""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

CAUTION = 0.9  # of the allowance, that a first guess aims at
STEEPEST = 4.0  # exponent that two measurements may suggest; the gentlest is its inverse


def fewest(noise: Sequence[float], rest: float, used: Callable[[int], float], start: float) -> int | None:
    """The smallest count of first candidates without which a network is within its allowance of noise.

    Noise of different layers adds up, so that without the first k candidates what is used of the allowance is about

        u(k) = u(0) (N_k / N_0)^g,   N_k = rest + noise_k + noise_k+1 + ...

    with g = 1 before anything but u(0) is known; from then on u is interpolated between the nearest counts on both
    sides of the allowance, linearly in log u and log N. A count is right when it was measured to be within the
    allowance, and the one before was measured, or is expected, to be beyond.

    Args:
        noise: of each candidate, in the order in which they go.
        rest: of all layers that are no candidates.
        used: measures the share of the allowance that is used without the first candidates; 1 and less is within.
            Infinite where only a miss is known.
        start: used(0), beyond the allowance.

    Returns:
        the count, 1 to all; None where all of them do not suffice.
    """
    left = [rest + item for item in reversed(list(accumulate(reversed(noise), initial=0.0)))]
    missed, held = {0: start}, dict[int, float]()
    while True:
        low, high = max(missed), min(held, default=len(noise))
        if low == len(noise):
            return None
        count = expected(left, missed, held, high)
        if count in held:
            return count
        found = used(count)
        (held if found <= 1 else missed)[count] = found


def expected(left: Sequence[float], missed: dict[int, float], held: dict[int, float], high: int) -> int:
    """The next count to measure, above all that missed; `high` when no smaller one is expected to hold."""
    low, silent = max(missed), held.get(high) == 0  # without any noise nothing says how steep it falls
    if not math.isfinite(missed[low]) or len(missed) > 4 or silent:
        return (low + high + 1) // 2 if held else min(max(1, 2 * low), high)
    slope, aim = steepness(left, missed, held), 1.0 if held else CAUTION
    for count in range(low + 1, high):
        if missed[low] * ratio(left[count], left[low]) ** slope <= aim:
            return count
    return high


def steepness(left: Sequence[float], missed: dict[int, float], held: dict[int, float]) -> float:
    """The exponent g that joins the nearest two measurements."""
    low = max(missed)
    other = min(held) if held else min(missed)
    used = (held | missed)[other]
    change, noise = ratio(used, missed[low]), ratio(left[other], left[low])
    if low == other or change <= 0 or noise <= 0 or noise == 1:
        return 1.0
    return min(max(math.log(change) / math.log(noise), 1 / STEEPEST), STEEPEST)


def ratio(part: float, whole: float) -> float:
    """Part of a whole that may be 0."""
    return part / whole if whole > 0 else 0.0
