"""The scale table: per-tensor activation scales, per-channel weight scales, checked before anyone reads them."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, cast

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from trtasr.errors import QualityError, RecipeError
from trtasr.quant.ranges import CODES, Histogram, activation_scale, representable
from trtasr.values import FloatArray, ScaleTable, TensorScale, WeightScale

logger = logging.getLogger(__name__)

REMAKE = "remake it with `make calib`"
DEAD_CHANNEL_FLOOR = 1e-8  # smallest weight amax; a zero scale breaks TensorRT's parser


Size = Annotated[float, Meta(gt=0, le=1e37)]  # float32 holds it, and 127 times it
Number = Annotated[float, Meta(ge=-1e37, le=1e37)]
Place = Annotated[int, Meta(ge=0, le=2**31)]


@dataclass(frozen=True)
class StoredScale:
    """A `TensorScale` in a file, with the scale that follows from it; an SQNR that is not finite is null."""

    amax: Size
    scale: Size
    method: str
    non_negative: bool
    sqnr_db: Number | None


@dataclass(frozen=True)
class StoredWeight:
    """A `WeightScale` in a file."""

    axis: Place
    scales: tuple[Size, ...]
    sqnr_db: Number | None
    floored: tuple[Place, ...]


@dataclass(frozen=True)
class StoredTable:
    """A `ScaleTable` in a file, without its arrays (`trtasr.quant.stored`); other keys are ignored."""

    activations: dict[str, StoredScale]
    weights: dict[str, StoredWeight]
    offsets: dict[str, tuple[Number, ...]]
    alphas: dict[str, Number] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def weight_scale(weight: FloatArray, axis: int, levels: int = CODES) -> WeightScale:
    """Per-channel symmetric scales: max |W_c| / levels over every axis but the output-channel axis (Q-ASR, section 3).

    Scales are rounded up to FP16 values, see `representable`.

    Args:
        weight: float32, any rank.
        axis: output-channel axis.
        levels: largest code, 127; fewer simulate fewer bits on the same INT8 codes.

    Returns:
        scales [O]; channels whose weights are all (nearly) zero get a floor and are listed.
    """
    others = tuple(a for a in range(weight.ndim) if a != axis)
    if not np.isfinite(weight).all():
        raise QualityError("a weight is NaN or infinite", "check the checkpoint")
    amax = np.abs(weight).max(axis=others)
    floored = tuple(int(c) for c in np.flatnonzero(amax < DEAD_CHANNEL_FLOOR))
    scales = representable(np.maximum(amax, DEAD_CHANNEL_FLOOR).astype(np.float64) / levels)
    return WeightScale(scales, axis, weight_sqnr_db(weight, scales, axis), floored)


def quantize_weight(weight: FloatArray, scales: FloatArray, axis: int, levels: int = CODES) -> npt.NDArray[np.int8]:
    """round(W / s_c), half to even, clipped to -levels..levels."""
    codes = np.rint(weight / along(scales, axis, weight.ndim))
    return cast(npt.NDArray[np.int8], np.clip(codes, -levels, levels).astype(np.int8))


def along(scales: FloatArray, axis: int, rank: int) -> FloatArray:
    """Scales [O] in a shape that multiplies a weight of that rank, whose output-channel axis is `axis`."""
    return scales.reshape([-1 if index == axis else 1 for index in range(rank)])


def weight_sqnr_db(weight: FloatArray, scales: FloatArray, axis: int) -> float:
    """Weight SQNR in dB; NaN for an all-zero or exactly represented weight."""
    error = weight - quantize_weight(weight, scales, axis) * along(scales, axis, weight.ndim)
    noise, signal = float(np.square(error, dtype=np.float64).sum()), float(np.square(weight, dtype=np.float64).sum())
    return 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else math.nan


def scale_table(
    histograms: Mapping[str, Histogram],
    weights: Mapping[str, tuple[FloatArray, int]],
    method: str,
    headroom: float = 1.0,
    centered: Mapping[str, float] | None = None,
) -> ScaleTable:
    """Scales of every observed activation and every weight.

    Args:
        histograms: activation tensor name -> histogram.
        weights: initializer name -> (weight, output-channel axis).
        method: observer for the activations.
        headroom: factor on the observed clipping magnitudes.
        centered: clipping magnitudes that centering has fixed; observer and headroom do not apply to them.

    Raises:
        QualityError: a scale that is not positive and finite.
    """
    fixed = centered or {}
    activations = {name: activation_scale(h, method, headroom, fixed.get(name)) for name, h in histograms.items()}
    table = ScaleTable(activations, {n: weight_scale(w, axis) for n, (w, axis) in weights.items()})
    check_table(table)
    return table


def check_table(table: ScaleTable) -> None:
    """Refuse scales that are zero, negative, NaN or infinite; name dead channels.

    Raises:
        QualityError: naming the tensor.
    """
    for name, entry in table.activations.items():
        if not (math.isfinite(entry.scale) and entry.scale > 0):
            raise QualityError(
                f"activation {name}: scale {entry.scale} is not positive and finite",
                "calibrate again with `make calib`; if it stays, exclude the layer",
            )
    for name, weight in table.weights.items():
        if not (np.isfinite(weight.scales).all() and (weight.scales > 0).all()):
            raise QualityError(
                f"weight {name}: a channel scale is not positive and finite", "check the checkpoint for NaN weights"
            )
    warn_dead_channels(table)


def warn_dead_channels(table: ScaleTable) -> None:
    """One line about all output channels whose scale was raised to the floor; the table lists every one of them."""
    dead = {name: weight.floored for name, weight in table.weights.items() if weight.floored}
    if dead:
        worst = sorted(dead, key=lambda name: -len(dead[name]))[:3]
        named = ", ".join(f"{name} {list(dead[name][:4])}" for name in worst)
        found = "%d dead output channels in %d weights, scale raised to the floor (scales.json lists all): %s"
        logger.warning(found, sum(map(len, dead.values())), len(dead), named)


def table_to_json(table: ScaleTable) -> dict[str, Any]:
    """JSON form; floats keep every bit (``scale`` is the float32 that Q/DQ nodes and the cache carry)."""
    activations = {
        name: vars(StoredScale(e.amax, float(e.scale), e.method, e.non_negative, rounded_or_null(e.sqnr_db)))
        for name, e in table.activations.items()
    }
    weights = {
        name: vars(StoredWeight(w.axis, tuple(w.scales.tolist()), rounded_or_null(w.sqnr_db), w.floored))
        for name, w in table.weights.items()
    }
    return {
        "activations": activations,
        "weights": weights,
        "alphas": dict(table.alphas),
        "offsets": {name: values.tolist() for name, values in table.offsets.items()},
        "corrected": sorted(table.corrected),
        "products": sorted(table.products),
        "settings": dict(table.settings),
    }


def table_of(stored: StoredTable) -> ScaleTable:
    """The table of a file, bit for bit.

    Raises:
        RecipeError: a scale that does not follow from its amax, or that float32 cannot hold.
    """
    activations = {
        name: TensorScale(entry.amax, entry.method, entry.non_negative, number_or_nan(entry.sqnr_db))
        for name, entry in stored.activations.items()
    }
    weights = {
        name: WeightScale(np.array(entry.scales, np.float32), entry.axis, number_or_nan(entry.sqnr_db), entry.floored)
        for name, entry in stored.weights.items()
    }
    offsets = {name: np.array(values, np.float32) for name, values in stored.offsets.items()}
    table = ScaleTable(activations, weights, stored.alphas, offsets, settings=stored.settings)
    for name, entry in activations.items():
        if float(entry.scale) != stored.activations[name].scale:
            raise RecipeError(f"scale table: scale and amax of {name:.80} disagree", REMAKE)
    try:
        check_table(table)
    except QualityError as error:
        raise RecipeError(f"scale table: {error.problem}", REMAKE) from error
    return table


def rounded_or_null(value: float) -> float | None:
    """Three decimals for a file; null where the number is not finite, which JSON has no word for."""
    return round(value, 3) if math.isfinite(value) else None


def number_or_nan(value: float | None) -> float:
    """The number of a file; NaN for its null."""
    return math.nan if value is None else value
