"""Activation ranges: one streaming magnitude histogram per tensor, and the observers that read it.

A histogram is all the memory a tensor needs, however much data flows by: bins over |x| whose upper edge doubles when a
larger value arrives (neighbouring bins merge, so no count is ever lost).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import numpy.typing as npt

from trtasr.errors import QualityError, RecipeError
from trtasr.values import FloatArray, TensorScale

BINS = 4096
CODES = 127  # largest magnitude of a symmetric signed 8-bit code
PERCENTILE = 99.99
SEARCH_STEPS = 64  # clipping magnitudes tried by the mse and entropy observers
NEGLIGIBLE = 1e-30  # magnitudes below are counted as zero: their bins would not be float32 numbers
SMALLEST_HALF = np.float16(2.0**-24)  # smallest positive FP16 value
SMALLEST_AMAX = 1e-6  # floor for tensors that are all zero on the calibration data

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Histogram:
    """Distribution of the magnitudes of one tensor.

    Attributes:
        counts: [BINS], how many |x| fell into each bin of width ``limit / BINS``.
        limit: upper edge of the last bin; 0 before the first nonzero value.
        amax: largest |x| seen.
        minimum: smallest x seen.
        power: sum of x^2.
    """

    counts: Counts = field(default_factory=lambda: np.zeros(BINS))
    limit: float = 0.0
    amax: float = 0.0
    minimum: float = math.inf
    power: float = 0.0

    @property
    def centers(self) -> Counts:
        """Bin centers [BINS], in the tensor's unit."""
        return (np.arange(BINS, dtype=np.float64) + 0.5) * np.float64(self.limit / BINS)


def update(histogram: Histogram, values: FloatArray) -> Histogram:
    """Add values of any shape.

    Raises:
        QualityError: NaN or infinity among the values.
    """
    amax, minimum = float(np.abs(values).max(initial=0.0)), float(values.min(initial=math.inf))
    if not math.isfinite(amax):
        raise QualityError(
            "calibration met NaN or infinite activations", "check the checkpoint: its FP32 outputs are not finite"
        )
    seen = replace(histogram, amax=max(histogram.amax, amax), minimum=min(histogram.minimum, minimum))
    if amax < NEGLIGIBLE:
        counts = histogram.counts.copy()
        counts[0] += values.size
        return replace(seen, counts=counts)
    counts, limit = grow(histogram.counts, histogram.limit, amax)
    bins = np.minimum(np.abs(values).ravel() * np.float32(BINS / limit), BINS - 1).astype(np.int32)
    power = histogram.power + float(np.dot(values.ravel(), values.ravel()))
    return replace(seen, counts=counts + np.bincount(bins, minlength=BINS), limit=limit, power=power)


def grow(counts: Counts, limit: float, amax: float) -> tuple[Counts, float]:
    """Double the upper edge until it covers amax; pairs of bins merge at each doubling."""
    if limit == 0.0:
        return counts.copy(), float(2.0 ** math.ceil(math.log2(amax) + 1e-9))
    grown = counts.copy()
    while limit < amax:
        merged = grown.reshape(-1, 2).sum(axis=1)
        grown = np.concatenate([merged, np.zeros(BINS // 2)])
        limit *= 2
    return grown, limit


def collect(stream: Iterable[tuple[str, FloatArray]]) -> dict[str, Histogram]:
    """Histograms of every tensor in a stream of (tensor name, values)."""
    histograms: dict[str, Histogram] = {}
    for name, values in stream:
        histograms[name] = update(histograms.get(name, Histogram()), values)
    return histograms


def noise_power(histogram: Histogram, amax: float, codes: int = CODES) -> float:
    """Sum of (x - Q(x))^2 on the histogram's bin centers, Q with step amax / codes, clipped at +-amax."""
    step = amax / codes
    centers = histogram.centers
    quantized = np.minimum(np.rint(centers / step), codes) * step
    return float(np.dot(histogram.counts, (centers - quantized) ** 2))


def sqnr_db(histogram: Histogram, amax: float, codes: int = CODES) -> float:
    """Signal to quantization-noise ratio 10 log10(sum x^2 / sum (x - Q(x))^2) in dB."""
    noise = noise_power(histogram, amax, codes)
    return 10 * math.log10(histogram.power / noise) if noise > 0 and histogram.power > 0 else math.nan


def percentile_amax(histogram: Histogram, percentile: float = PERCENTILE) -> float:
    """The magnitude below which ``percentile`` percent of the values lie."""
    total = histogram.counts.sum()
    index = int(np.searchsorted(np.cumsum(histogram.counts), total * percentile / 100.0))
    return min((min(index, BINS - 1) + 1) * histogram.limit / BINS, histogram.amax)


def mse_amax(histogram: Histogram) -> float:
    """The clipping magnitude with the smallest quantization-noise power, searched from 0.2 to 1.0 of the maximum."""
    candidates = np.linspace(0.2, 1.0, SEARCH_STEPS) * histogram.amax
    return float(min(candidates, key=lambda amax: noise_power(histogram, float(amax))))


def entropy_amax(histogram: Histogram) -> float:
    """The clipping magnitude whose quantized distribution diverges least from the clipped one.

    Kullback-Leibler calibration as in TensorRT's entropy calibrator: P is the histogram with the tail moved into the
    last kept bin, Q is P without that tail averaged over 128 levels (zero bins stay zero); minimize sum P log(P / Q).
    """
    used = max(math.ceil(histogram.amax / histogram.limit * BINS), CODES + 1)
    stops = np.unique(np.linspace(CODES + 1, used, 2 * SEARCH_STEPS).astype(int))
    best = min(stops, key=lambda stop: divergence(histogram.counts, int(stop)))
    return min(float(best) * histogram.limit / BINS, histogram.amax)


def divergence(counts: Counts, stop: int) -> float:
    """Kullback-Leibler divergence, sum P log(P / Q), of `entropy_amax` for a histogram cut at bin ``stop``."""
    inside = counts[:stop]
    reference = inside.copy()
    reference[-1] += counts[stop:].sum()
    edges = np.linspace(0, stop, CODES + 2).astype(int)[:-1]
    filled = (inside > 0).astype(np.float64)
    totals, widths = np.add.reduceat(inside, edges), np.add.reduceat(filled, edges)
    levels = np.divide(totals, widths, out=np.zeros_like(totals), where=widths > 0)
    quantized = np.repeat(levels, np.diff(np.append(edges, stop))) * filled
    p, q = reference / reference.sum(), quantized / max(quantized.sum(), 1.0)
    mask = p > 0
    return float(np.sum(p[mask] * np.log(p[mask] / np.maximum(q[mask], 1e-12))))


OBSERVERS: Mapping[str, Callable[[Histogram], float]] = {
    "max": lambda histogram: histogram.amax,  # no clipping
    "percentile": percentile_amax,
    "mse": mse_amax,
    "entropy": entropy_amax,
}


def representable(scales: npt.ArrayLike) -> FloatArray:
    """The smallest FP16 values that are not below the given scales, as float32 of the same shape.

    Strongly typed TensorRT graphs carry FP16 scales; with these, FP32 and FP16 graphs share every scale bit for bit.
    """
    wanted = np.asarray(scales, np.float64)
    half = wanted.astype(np.float16)
    raised = np.where(half.astype(np.float64) < wanted, np.nextafter(half, np.float16(np.inf)), half)
    return cast(FloatArray, np.maximum(raised, SMALLEST_HALF).astype(np.float32))


def representable_amax(amax: float) -> float:
    """The clipping magnitude, at least ``amax``, whose scale amax / 127 is an FP16 value."""
    return float(representable(amax / CODES)) * CODES


def activation_scale(
    histogram: Histogram, method: str, headroom: float = 1.0, centered: float | None = None
) -> TensorScale:
    """The scale of one tensor by one observer, with its SQNR.

    Args:
        histogram: of the tensor.
        method: observer.
        headroom: factor on what the observer chose; above 1 leaves room for values beyond the calibration data.
        centered: clipping magnitude that centering has fixed; observer and headroom do not apply to it.

    Raises:
        RecipeError: unknown observer.
    """
    if method not in OBSERVERS:
        raise RecipeError(f"quantization.ranges: {method!r}", f"use one of {', '.join(OBSERVERS)}")
    if centered is not None:
        amax, method = centered, "centered"
    else:
        seen = OBSERVERS[method](histogram) if histogram.limit > 0 else 0.0
        amax = representable_amax(max(seen * headroom, SMALLEST_AMAX))
    return TensorScale(amax, method, histogram.minimum >= 0, sqnr_db(histogram, amax))
