"""Smoothing: large channels of activations lend their size to the weights, so that no few of them set the scales.

    y = W x = (W diag(s)) (x / s),   s_j = rms(x_j)^alpha / rms(W_j)^(1 - alpha)      SmoothQuant (Xiao et al. 2023,
                                                                                    arXiv 2211.10438, equation 4)

with root mean squares in place of maxima, and alpha chosen by trial as in AWQ (Lin et al. 2023, arXiv 2306.00978,
section 3.2), here for what rounding of both sides together does to the output.
"""

from collections.abc import Callable, Sequence

import numpy as np

from trtasr.quant.ranges import CODES
from trtasr.quant.scales import quantize_weight, weight_scale
from trtasr.values import FloatArray

ALPHAS = (0.25, 0.5, 0.75)
FLOOR = 1e-2  # of the largest channel's: what hardly speaks must not blow up what it is divided from
OUTPUTS = 4096  # of a layer, at most, that its noise is measured on: there are vocabularies of 50,000

Turn = Callable[[FloatArray], FloatArray]


def smoothing(rows: FloatArray, weights: Sequence[FloatArray], turn: Turn) -> FloatArray:
    """The factors s of the channels that some layers read, float32 [C], at least 1; empty where none helps.

    Args:
        rows: positions of their input, [N, C].
        weights: of each layer, [O, C].
        turn: what else is done to the channels, along the last axis, before they are rounded: `rotated`, or nothing.
    """
    weights = [weight[:: 1 + len(weight) // OUTPUTS] for weight in weights]
    choices = [np.ones(rows.shape[1], np.float32), *(factors(rows, weights, alpha) for alpha in ALPHAS)]
    best = min(choices, key=lambda scale: sum(relative_noise(rows, weight, scale, turn) for weight in weights))
    return np.zeros(0, np.float32) if best is choices[0] else best


def factors(rows: FloatArray, weights: Sequence[FloatArray], alpha: float) -> FloatArray:
    """Equation 4, divided by its smallest: x / s overflows nothing that x does not."""
    size, weight = root_mean_square(rows), root_mean_square(np.concatenate(weights))
    found = size**alpha / weight ** (1 - alpha)
    return np.asarray(found / found.min(), np.float32)


def root_mean_square(rows: FloatArray) -> np.ndarray:
    """Of each column, at least `FLOOR` times the largest; 1 where all are 0."""
    found = np.sqrt(np.square(rows, dtype=np.float64).mean(0))
    return np.maximum(found, FLOOR * found.max()) if found.any() else np.ones_like(found)


def relative_noise(rows: FloatArray, weight: FloatArray, scale: FloatArray, turn: Turn) -> float:
    """Variance of an output's error over that of the output; both sides of the product are rounded.

    Args:
        rows: x, [N, C]. Each has a scale of its own.
        weight: W, [O, C]; to nearest.
        scale: s, [C].
        turn: as in `smoothing`.
    """
    smooth, heavy = turn(rows / scale), turn(weight * scale)
    steps = np.maximum(np.abs(smooth).max(1, keepdims=True), np.finfo(np.float32).tiny) / np.float32(CODES)
    own = weight_scale(heavy, 0).scales
    error = np.rint(smooth / steps) * steps @ (quantize_weight(heavy, own, 0) * own[:, None]).T - rows @ weight.T
    power = float((rows @ weight.T).var(0, dtype=np.float64).sum())
    return float(error.var(0, dtype=np.float64).sum()) / power if power else 0.0
