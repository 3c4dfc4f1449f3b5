"""What the verbs say: tables and lines from results, for people; flat data for ``--json``."""

import resource
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trtasr.pipeline.gates import speedups
from trtasr.pipeline.record import record_json
from trtasr.report.difference_view import difference_lines
from trtasr.report.fidelity_view import fidelity_lines, left_words
from trtasr.report.table import (
    controls_table,
    coverage_line,
    decision_summary,
    generation_lines,
    generation_words,
    last_line,
    layer_table,
    summary_table,
)
from trtasr.results import BenchResult, Comparison, Latency, LayerRow, Record

SUMMARY = (
    "outcome",
    "problems",
    "seconds",
    "results",
    "comparison",
    "controls",
    "fidelity",
)  # what ``--json`` has of a record


def compile_text(record: Record, out: Path) -> str:
    """The closing table: engines, coverage, controls, missed gates and the machine-readable line."""
    lines = [summary_table(record.results)]
    lines += difference_lines(record.results)
    lines += generation_lines(record.results)
    lines += speed_lines(record.results)
    lines += [
        f"{coverage_line(item.target, item.layers)}{left_words(item, record.fidelity)}; {decision_summary(item)}"
        for item in record.quantized
    ]
    lines += fidelity_lines(record.fidelity)
    if record.controls:
        lines += ["", controls_table(record.controls, record.results)]
    lines.append(comparison_text(record.comparison, out))
    lines += integer_lines(record, out)
    lines.append(f"report: {out / 'report.html'}")
    lines.append(f"compile {record.seconds:.0f} s; peak memory {peak_gb():.1f} GB")
    lines += [f"gate missed: {problem}" for problem in record.problems]
    lines.append(final_line(record, out))
    return "\n".join(lines)


def integer_lines(record: Record, out: Path) -> list[str]:
    """What the bundle's integer-only graph is, in one line; none without one."""
    if record.integer is None:
        return []
    held = record.integer.proof
    return [
        f"integer-only: {out / record.integer.graph}, {len(held.floats)} of {held.tensors} tensors float, int32 "
        f"sums of at most {record.integer.sum_bits} of 31 bits; trtasr compare {out} --integer"
    ]


def speed_lines(results: Sequence[BenchResult]) -> list[str]:
    """INT8 against FP16 and FP32 on the GPU, shape by shape; the command line shows in red where INT8 loses."""
    lines = []
    for over in ("fp16", "fp32"):
        for engine, latency, ratio in speedups(results, over):
            line = f"{engine} against {over.upper()}, {latency.shape}: {ratio:.2f} x"
            lines.append(f"{line}  INT8 IS SLOWER" if ratio <= 1 else line)
    return lines


def cpu_speed_line(results: Sequence[BenchResult]) -> list[str]:
    """INT8 against FP32 on the CPU, length by length, in one line; none where no such engine was timed."""
    found = speedups(results, "fp32", on_gpu=False)
    ratios = ", ".join(f"{ratio:.2f} x at {latency.audio_seconds:g} s" for _, latency, ratio in found)
    return [f"{found[0].engine} against fp32, same run, same threads: {ratios}"] if found else []


def final_line(record: Record, out: Path) -> str:
    """``PASSED | seconds | engine=... | wer_fp32=... | ...``; ``cer_...`` behind them where CER is judged."""
    first, names = record.engines[0], {"fp32": "fp32"}
    names |= {engine.target: engine.label.replace(" ", "_") for engine in record.quantized}
    if first.paths != first.graphs:  # a plan
        names[first.target] = "int8"
    scored = [(names[r.target], r.wer) for r in record.results if r.wer and r.target in names]
    wers = {f"wer_{name}": found.wer for name, found in scored}
    cers = {f"cer_{name}": found.cer for name, found in scored if not found.spaced}
    values: dict[str, str | float] = {"engine": str(out / first.paths[0]), **wers, **cers}
    return last_line(record.outcome, record.seconds, values)


def compile_data(record: Record, out: Path) -> dict[str, Any]:
    """The summary for ``--json``: some of ``bundle.json``, and where things are."""
    found = record_json(record)
    where = {"bundle": str(out), "engine": str(out / record.engines[0].paths[0])}
    return {key: found[key] for key in SUMMARY} | where | {"peak_gb": peak_gb()}


def peak_gb() -> float:
    """Most memory that this process, or a builder it started, has held."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 2**20  # Linux counts KiB


def comparison_text(comparison: Comparison, folder: Path) -> str:
    """One line of judgement and the equivalent Polygraphy command, which can be run from anywhere.

    Args:
        comparison: of two graphs.
        folder: that holds its files.
    """
    scores = ", ".join(f"{t.tensor} SQNR {t.sqnr_db:.1f} dB, cosine {t.cosine:.5f}" for t in comparison.tensors)
    return (
        f"{comparison.candidate} against {comparison.reference} on {comparison.features}: {scores}, "
        f"{100 * comparison.token_agreement:.2f} % of {comparison.frames} {comparison.unit} have the same token\n"
        f"  polygraphy: {run_inside(folder, comparison.command)}"
    )


def run_inside(folder: Path, command: str) -> str:
    """A Polygraphy command line that first enters a folder, and finds Polygraphy where only our environment has it."""
    programs = Path(sys.executable).parent
    found = "" if shutil.which("polygraphy") else f'PATH={shlex.quote(str(programs))}:"$PATH" && '
    return f"({found}cd {shlex.quote(str(folder.resolve()))} && {command})"


def latency_text(engine: str, latency: Latency) -> str:
    """One benchmarked shape in one line; on a GPU with how it was launched."""
    device = "" if latency.threads else f" ({latency.device})"
    return (
        f"{engine}: {latency.shape} of audio, batch {latency.batch}{device}: p50 {latency.p50_ms:.1f}, "
        f"p95 {latency.p95_ms:.1f}, p99 {latency.p99_ms:.1f} ms over {latency.runs} runs, "
        f"RTFx {latency.rtfx:.1f}" + (f"; {generation_words(latency)}" if latency.tokens else "")
    )


def layers_text(engines: Mapping[str, Sequence[LayerRow]], show_all: bool) -> str:
    """Layer table and coverage of each engine."""
    parts = [f"{layer_table(rows, show_all)}\n{coverage_line(target, rows)}" for target, rows in engines.items()]
    return "\n\n".join(parts)
