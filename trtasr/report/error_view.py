"""Quantization error as the report shows it: SQNR per tensor, and synthetic against real activation ranges."""

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from trtasr.report.table import format_db
from trtasr.values import ScaleTable

WORST_GAPS = 8
METHODS = {"qep": " (QEP)", "fade": " (FADE-style: our reconstruction, the published idea has no public formula)"}


class ActivationRow(NamedTuple):
    """One activation tensor; numbers in words beside the SQNR in dB to sort by."""

    tensor: str
    sqnr_db: float
    sqnr: str
    amax: str
    method: str
    signed: str


class WeightRow(NamedTuple):
    """One weight; `dead` counts output channels whose scale was raised to the floor."""

    weight: str
    sqnr_db: float
    sqnr: str
    channels: int
    dead: int


class RangePair(NamedTuple):
    """Range of one tensor (amax) from real audio and from synthetic features; both positive."""

    tensor: str
    real: float
    synthetic: float


def activation_rows(scales: ScaleTable) -> list[ActivationRow]:
    """Activations whose SQNR was measured, the worst first."""
    rows = []
    for name, scale in scales.activations.items():
        if math.isfinite(scale.sqnr_db):
            signed, amax = "no" if scale.non_negative else "yes", f"{scale.amax:.4g}"
            rows.append(ActivationRow(name, scale.sqnr_db, format_db(scale.sqnr_db), amax, scale.method, signed))
    return sorted(rows, key=lambda row: row.sqnr_db)


def weight_rows(scales: ScaleTable) -> list[WeightRow]:
    """Weights whose SQNR was measured, the worst first."""
    rows = [
        WeightRow(name, w.sqnr_db, format_db(w.sqnr_db), len(w.scales), len(w.floored))
        for name, w in scales.weights.items()
        if math.isfinite(w.sqnr_db)
    ]
    return sorted(rows, key=lambda row: row.sqnr_db)


def range_pairs(scales: ScaleTable, audio: ScaleTable | None) -> list[RangePair]:
    """Tensors with a range from both calibrations, in graph order; empty without the audio control."""
    real = audio.activations if audio else {}
    return [RangePair(name, real[name].amax, s.amax) for name, s in scales.activations.items() if name in real]


def range_note(pairs: Sequence[RangePair]) -> str:
    """How many ranges agree within a factor of two, and the median ratio; empty without pairs."""
    if not pairs:
        return ""
    ratios = [pair.synthetic / pair.real for pair in pairs]
    close = sum(0.5 <= ratio <= 2.0 for ratio in ratios)
    return f"{close} of {len(ratios)} ranges lie within a factor of 2; median ratio {median(ratios):.2f}."


def range_gaps(pairs: Sequence[RangePair]) -> list[tuple[str, ...]]:
    """Tensors whose ranges differ most: name, real, synthetic, ratio."""
    worst = sorted(pairs, key=lambda pair: abs(math.log(pair.synthetic / pair.real)), reverse=True)[:WORST_GAPS]
    return [(p.tensor, f"{p.real:.4g}", f"{p.synthetic:.4g}", f"{p.synthetic / p.real:.2f}") for p in worst]


def corrections(scales: ScaleTable) -> str:
    """Strength of the error-propagation correction in words; empty without one."""
    values = list(scales.alphas.values())
    if not values:
        return ""
    limits = f"{min(values):.2f} to {max(values):.2f}, median {median(values):.2f}"
    method = METHODS.get(scales.settings.get("quantization", {}).get("correction", ""), "")
    return f"corrected layers: {len(values)}, strength {limits}{method}"
