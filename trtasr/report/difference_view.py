"""How far INT8 engines are from FP32, over all evaluation sets and over each: rows, and lines for the terminal."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from trtasr.report.table import align, format_delta, format_wer
from trtasr.results import BenchResult, PairedDifference

POOLED = "pooled"


class DifferenceRow(NamedTuple):
    """One engine on one evaluation set, as text; rates in percent, differences in points."""

    engine: str
    dataset: str
    units: str
    reference: str
    rate: str
    delta: str
    disagreement: str
    detectable: str


def format_interval(found: PairedDifference) -> str:
    """``[-0.21, +0.38]``, in points."""
    return f"[{', '.join(map(format_delta, found.interval))}]"


def difference_rows(results: Sequence[BenchResult]) -> list[DifferenceRow]:
    """Every INT8 engine on every evaluation set; where there are several, on all of them together at last."""
    return [row for result in results if result.precision == "int8" for row in rows_of(result)]


def rows_of(result: BenchResult) -> Iterator[DifferenceRow]:
    """One engine, set by set."""
    pooled, *parts = result.differences or [None]
    for found in (*parts, pooled):
        if found:
            yield DifferenceRow(
                result.engine,
                found.dataset or (POOLED if parts else "all"),
                str(found.units),
                format_wer(found.reference),
                format_wer(found.rate),
                f"{format_delta(found.delta)} {format_interval(found)}",
                format_wer(found.disagreement),
                format_wer(found.detectable),
            )


def difference_lines(results: Sequence[BenchResult]) -> list[str]:
    """The same for the terminal: one line per engine, or one table per engine where there are several sets."""
    lines = []
    for result in results:
        if result.precision == "int8" and result.wer and result.differences:
            lines.append(table(result) if len(result.differences) > 1 else line(result))
    return lines


def line(result: BenchResult) -> str:
    """One engine on one evaluation set in a line."""
    (row,), unit = rows_of(result), units_of(result).removesuffix("s")
    return (
        f"{row.engine}: delta {row.delta} (95 % interval), {unit} disagreement {row.disagreement} %, detectable "
        f"difference {row.detectable}"
    )


def table(result: BenchResult) -> str:
    """One engine on several evaluation sets."""
    heading = ["set", units_of(result), "fp32", result.engine, "delta [95 %]", "disagree %", "detectable"]
    return align([heading, *(list(row[1:]) for row in rows_of(result))], right={1, 2, 3, 4, 5, 6})


def units_of(result: BenchResult) -> str:
    """What the judged rate counts."""
    return "words" if result.wer and result.wer.spaced else "characters"
