"""Error propagation: weights corrected for the quantization error that earlier layers hand on (QEP, FADE-style alpha).

A layer of the quantized network reads Xq where the full-precision network reads X. QEP (Arai and Ichikawa,
"Quantization Error Propagation", arXiv 2504.09629, Proposition 5.1, in the damped form of the authors' code) moves its
weight so that it computes from Xq what the original computes from X:

    W*(alpha) = W + alpha D,   D = W (X - Xq) Xq^T (Xq Xq^T + lambda I)^-1,   lambda = damping mean(diag(Xq Xq^T))

FADE (arXiv 2601.02455) gives every layer an alpha of its own, from the weight's vulnerability and the reliability of
the correction. Its formulas are not public: what is here is our reconstruction of the published idea.

Nothing is subtracted from X and Xq, so that what silence gives (zero in, zero out) is kept. Convolutions are linear
layers over windows: d = C_in / groups x kernel columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from trtasr.quant.groups import spans
from trtasr.values import FloatArray

Matrix = npt.NDArray[np.float64]
MOST_VALUES = 1 << 27  # of the columns of one half; frames are thinned out evenly beyond (512 MiB in float32)
EXACT = 2048  # rows up to which products are float64 throughout
CHUNK = 4096  # columns whose products are summed at once


@dataclass(frozen=True)
class Geometry:
    """How a layer's windows lie in its input [B, C, T]; a linear layer has a kernel of 1.

    Attributes:
        kernel: taps; stride, dilation: in frames; pads: zeros before and behind.
        groups: channel groups; C for a depthwise convolution.
    """

    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    pads: tuple[int, int] = (0, 0)
    groups: int = 1


@dataclass(frozen=True)
class Columns:
    """What one layer multiplies its weight with, in both streams; m windows of d values in each channel group.

    Attributes:
        quantized: Xq, float32 [groups, d, m].
        error: X - Xq, likewise.
    """

    quantized: FloatArray
    error: FloatArray

    @cached_property
    def gram(self) -> Matrix:
        """Xq Xq^T, [groups, d, d]."""
        return product(self.quantized, self.quantized)

    @cached_property
    def cross(self) -> Matrix:
        """(X - Xq) Xq^T, [groups, d, d]."""
        return product(self.error, self.quantized)

    @property
    def wide(self) -> bool:
        """True when there are at least as many columns as values, so that d x d numbers say it all."""
        return bool(self.quantized.shape[1] <= self.quantized.shape[2])


def windows(values: FloatArray, geometry: Geometry, step: int = 1) -> FloatArray:
    """Windows of a layer: [B, C, T] -> float32 [groups, d, m], d = C / groups x kernel, every `step`-th of B T'."""
    batch, channels, _ = values.shape
    padded = np.pad(values, ((0, 0), (0, 0), geometry.pads))
    span = (geometry.kernel - 1) * geometry.dilation + 1
    view = np.lib.stride_tricks.sliding_window_view(padded, span, axis=2)
    view = view[:, :, :: geometry.stride * step, :: geometry.dilation]  # [B, C, T', k]
    columns = view.transpose(1, 3, 0, 2).reshape(channels * geometry.kernel, batch * view.shape[2])
    return np.ascontiguousarray(columns, np.float32).reshape(geometry.groups, -1, columns.shape[1])


def columns(
    full: Sequence[FloatArray], quantized: Sequence[FloatArray], geometry: Geometry, most: int = MOST_VALUES
) -> Columns:
    """Columns of a layer over utterances of valid frames only.

    Args:
        full: X of each utterance, [B, C, T].
        quantized: Xq likewise.
        geometry: of the layer.
        most: values per matrix; with more frames than that allows, every n-th frame is taken.
    """
    total = sum(x.size for x in full) * geometry.kernel // geometry.stride
    step = -(-total // most)
    parts = [windows(x, geometry, step) for x in quantized]
    errors = [windows(x, geometry, step) - part for x, part in zip(full, parts, strict=True)]
    return Columns(np.concatenate(parts, axis=2), np.concatenate(errors, axis=2))


def joined(parts: Sequence[Columns]) -> Columns:
    """The columns of all parts."""
    if len(parts) == 1:
        return parts[0]
    sides = ([part.quantized for part in parts], [part.error for part in parts])
    return Columns(*(np.concatenate(side, axis=2) for side in sides))


def product(first: FloatArray, second: FloatArray) -> Matrix:
    """Product first second^T over the last axis: float64 for small ones, else float32 in chunks added up in float64."""
    kind = np.float64 if first.shape[-2] <= EXACT else np.float32
    total = np.zeros((*first.shape[:-1], second.shape[-2]))
    for start in range(0, first.shape[-1], CHUNK):
        left, right = (part[..., start : start + CHUNK].astype(kind) for part in (first, second))
        total += np.matmul(left, right.swapaxes(-1, -2))
    return total


def correction(weight: Matrix, found: Columns, damping: float) -> Matrix:
    """D, the full correction of a weight (alpha = 1).

    With fewer columns m than values d the same D is found in the dual form, which needs m x m instead of d x d numbers:
    D = W (X - Xq) (Xq^T Xq + lambda I)^-1 Xq^T. Values that no column excites keep their weight.

    Args:
        weight: [groups, O, d].
        found: of the calibration frames.
        damping: lambda over the mean of diag(Xq Xq^T); larger moves the weight less.

    Returns:
        float64 [groups, O, d].
    """
    power = np.einsum("gdm,gdm->gd", found.quantized, found.quantized, dtype=np.float64)
    ridge = damping * power.mean(axis=1)[:, None]
    if found.wide:
        solved = solved_right(np.matmul(weight, found.cross), found.gram + diagonal(ridge + (power == 0)))
    else:
        turned = found.quantized.swapaxes(1, 2)
        system = product(turned, turned) + diagonal(ridge + ~turned.any(axis=2))
        solved = np.matmul(solved_right(np.matmul(weight, found.error), system), turned)
    return np.where(power[:, None, :] > 0, solved, 0.0)


def diagonal(values: Matrix) -> Matrix:
    """[groups, n] -> diagonal matrices [groups, n, n]."""
    return np.asarray(values[:, :, None] * np.eye(values.shape[1]))


def solved_right(target: Matrix, system: Matrix) -> Matrix:
    """Target system^-1 for symmetric systems."""
    return np.asarray(np.linalg.solve(system, target.swapaxes(1, 2)).swapaxes(1, 2), np.float64)


def best_step(weight: Matrix, direction: Matrix, found: Columns) -> float:
    """The alpha in [0, 1] that minimizes ||W X - (W + alpha D) Xq||^2 on these columns; 0 for D = 0.

    alpha = <W (X - Xq), D Xq> / ||D Xq||^2.
    """
    if found.wide:
        power = float(np.sum(np.matmul(direction, found.gram) * direction))
        gain = float(np.sum(np.matmul(weight, found.cross) * direction))
    else:
        moved = np.matmul(direction, found.quantized)
        power = float(np.square(moved).sum())
        gain = float(np.sum(np.matmul(weight, found.error) * moved))
    return min(max(gain / power, 0.0), 1.0) if power > 0 else 0.0


def reliability(weight: Matrix, halves: tuple[Columns, Columns], damping: float) -> float:
    """How much of a correction fitted on one half of the calibration frames holds on the other, in [0, 1].

    Both ways, the smaller of the two best steps: fitted on one half and scaled by it, a correction cannot raise the
    loss of the other.
    """
    return min(best_step(weight, correction(weight, a, damping), b) for a, b in (halves, halves[::-1]))


def vulnerability(weight: Matrix, levels: int, group: int = 0) -> float:
    """Relative error of rounding a weight to its grid, ||W - RTN(W)||^2 / ||W||^2: from the weight alone.

    Args:
        weight: [groups, O, d]; one scale per output channel, and per `group` columns.
        levels: largest code, 127 for 8 bits.
        group: columns that share a scale; 0: all.
    """
    power = float(np.square(weight).sum())
    lost = sum(rounding_loss(weight[:, :, span], levels) for span in spans(weight.shape[2], group))
    return lost / power if power > 0 else 0.0


def rounding_loss(weight: Matrix, levels: int) -> float:
    """||W - RTN(W)||^2 with one scale per output channel, max |W| / levels."""
    step = np.abs(weight).max(axis=2, keepdims=True) / levels
    error = weight - np.rint(np.divide(weight, step, out=np.zeros_like(weight), where=step > 0)) * step
    return float(np.square(error).sum())


def ranks(scores: Sequence[float]) -> list[float]:
    """Ranks of scores in [0, 1]: 0 for the smallest, 1 for the largest; ties share their mean rank; 0 for one alone."""
    values = np.asarray(scores, np.float64)
    below = (values[:, None] > values[None, :]).sum(axis=1)
    equal = (values[:, None] == values[None, :]).sum(axis=1) - 1
    return [float(rank) for rank in (below + equal / 2) / max(len(values) - 1, 1)]


def fade_alpha(reliable: float, rank: float) -> float:
    """FADE-style strength of one layer; a reconstruction, the authors' formula is not public.

    alpha = min(r, (1 + v) / 2), with the `reliability` r of the correction and the rank v (`ranks`) of the weight's
    `vulnerability` among all layers: a correction is applied as far as it holds on unseen data, and beyond a half only
    where rounding the weight costs much. docs/ablation.md compares it with the product of both scores and with the
    opposite sign of the vulnerability.
    """
    return min(reliable, (1 + rank) / 2)
