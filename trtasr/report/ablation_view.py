"""The ablation's tables: mean and standard deviation over the seeds, one line per setting."""

import statistics
from collections.abc import Mapping, Sequence

from trtasr.report.table import align, format_delta
from trtasr.results import Ablation, Cell


def spread(found: Sequence[float | None]) -> str:
    """``13.38 +- 0.12``; without the deviation for a single value; ``useless`` where any seed has no figure."""
    values = [value for value in found if value is not None]
    if len(values) < len(found):
        return f"useless ({len(found) - len(values)} of {len(found)})"
    mean = statistics.fmean(values)
    return f"{mean:.2f}" if len(values) < 2 else f"{mean:.2f} +- {statistics.stdev(values):.2f}"


def delta(found: Sequence[float | None], reference: float) -> str:
    """Mean minus the rate of FP32 in points; ``-`` where any seed has no figure."""
    values = [value for value in found if value is not None]
    return format_delta(statistics.fmean(values) - reference if len(values) == len(found) else None)


def ablation_table(found: Ablation, labels: Mapping[str, str]) -> str:
    """All settings over all evaluation sets together; below that the rate on each set, where there are several.

    Args:
        found: what was compared.
        labels: calibration method -> its words.
    """
    reference = found.reference
    first = f"FP32: {reference.measure} {reference.rate:.2f} %, normalizer {reference.normalizer}"
    heads = [f"{reference.measure} %", "delta", "disagree %", "agreement %", "SQNR dB", "seeds"]
    rows = [["weights", "features", "correction", *heads]]
    rows += [[*named(cell, labels), *figures(cell, reference.rate)] for cell in found.cells]
    table = align(rows, right=set(range(3, 9)))
    return "\n".join([first, table, *(["", set_table(found, labels)] if found.sets else [])])


def set_table(found: Ablation, labels: Mapping[str, str]) -> str:
    """The rate on every evaluation set; FP32 comes first."""
    names = list(found.sets)
    rows = [["weights", "features", "correction", *(f"{name}: {found.reference.measure} %" for name in names)]]
    rows.append(["FP32", "", "", *(f"{found.sets[name]:.2f}" for name in names)])
    rows += [[*named(cell, labels), *(spread(cell.sets[name]) for name in names)] for cell in found.cells]
    return align(rows, right=set(range(3, 3 + len(names))))


def named(cell: Cell, labels: Mapping[str, str]) -> list[str]:
    """Which line of the table it is."""
    return [cell.weights, labels[cell.features], cell.correction]


def figures(cell: Cell, reference: float) -> list[str]:
    """Rate, its difference to FP32, disagreement, agreement, SQNR and how many seeds."""
    spreads = [spread(values) for values in (cell.disagreement, cell.agreement, cell.sqnr_db)]
    return [spread(cell.wer), delta(cell.wer, reference), *spreads, str(len(cell.wer))]
