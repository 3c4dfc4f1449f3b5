"""Centering: per-channel offsets that halve the range of one-sided activations, on the grid of their own scale.

TensorRT wants symmetric per-tensor activations. Between a depthwise convolution and the pointwise convolution that
reads it, a constant b_c may be subtracted from every channel and given back through the pointwise bias (b + W b_c)
without changing the function; most of these channels are one-sided, so the symmetric range shrinks by up to half.

Zero must stay on the grid: these activations are close to zero most of the time (their rms is a few percent of their
maximum), and an offset that is no multiple of the scale turns all that silence into a constant rounding error per
channel, which costs more than centering gains.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from trtasr.quant.ranges import CODES, representable
from trtasr.values import FloatArray


@dataclass(frozen=True)
class ChannelRange:
    """Smallest and largest value of each channel seen so far; both float32 [C]."""

    minimum: FloatArray
    maximum: FloatArray


def collect_channels(stream: Iterable[tuple[str, FloatArray]]) -> dict[str, ChannelRange]:
    """Channel ranges of every tensor in a stream of (tensor name, values [C, T])."""
    ranges: dict[str, ChannelRange] = {}
    for name, values in stream:
        low, high = values.min(axis=1), values.max(axis=1)
        seen = ranges.get(name, ChannelRange(low, high))
        ranges[name] = ChannelRange(np.minimum(seen.minimum, low), np.maximum(seen.maximum, high))
    return ranges


def centering(channels: ChannelRange, headroom: float) -> tuple[FloatArray, float]:
    """Offsets of each channel and the clipping magnitude of the centered tensor.

    With half-range h = max_c (max_c - min_c) / 2 and scale s = headroom h / 126.5, rounded up to an FP16 value (half a
    step is left for rounding the offsets): b_c = s round((max_c + min_c) / (2 s)) and amax = 127 s. When that is no
    smaller than the plain maximum (with the same headroom), nothing is centered.

    Args:
        channels: of the tensor, on calibration data.
        headroom: factor on the half-range; above 1 leaves room for values beyond the calibration data.

    Returns:
        b float32 [C] and amax.
    """
    plain = headroom * float(max(channels.maximum.max(), -channels.minimum.min(), 0.0))
    half = headroom * float((channels.maximum - channels.minimum).max()) / 2
    step = representable(half / (CODES - 0.5))
    if not 0 < CODES * float(step) < plain:
        return np.zeros_like(channels.minimum), plain
    middle = (channels.maximum + channels.minimum) / 2
    return (np.rint(middle / step) * step).astype(np.float32), float(step) * CODES
