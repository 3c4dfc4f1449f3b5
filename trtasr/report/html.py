"""One self-contained HTML page about one compiled bundle: no server, no network, light and dark, printable."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jinja2

from trtasr.report import svg
from trtasr.report.error_view import activation_rows, corrections, range_gaps, range_note, range_pairs, weight_rows
from trtasr.report.integer_view import proof_view
from trtasr.report.layer_view import engine_view, lints, skipped
from trtasr.report.speed_view import bar_groups, latency_rows, tradeoff, tradeoff_rows
from trtasr.report.table import (
    REFERENCE,
    ControlRow,
    conditions,
    format_db,
    format_delta,
    format_ms,
    format_rtfx,
    format_size,
    format_wer,
    measure_of,
    measured_on,
    rate_delta,
    rates,
    reference_first,
    reference_rate,
    shown_latency,
)
from trtasr.report.transcript_view import mistakes
from trtasr.results import BenchResult, Comparison, Engine, Proof, speedup
from trtasr.values import Decision, ScaleTable

WORST_ROWS = 12


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows.

    Attributes:
        name: of the bundle; architecture: of the model, for instance ``QuartzNet15x5``.
        targets: engines built.
        device: machine the measurements were made on.
        seed: of the calibration.
        versions: library -> version.
        results: one row per engine.
        scales: the scale table in use.
        engines: built engines with their layer tables.
        decisions: target -> one decision per quantizable node.
        reasons: rule -> the reason in words.
        intervals: row label -> 95 % interval of its difference to FP32 in WER (or CER), in points.
        comparisons: Polygraphy comparisons.
        controls: calibration controls; empty when they were not asked for.
        audio_scales: scale table from real audio; None when that control was not run.
        settings: the resolved recipe (JSON types).
        commands: command lines that reproduce the bundle.
        subnormal: linted target -> layers with a scale product below FP16's normal range; () when there is none.
        overflowing: linted target -> layers whose accumulator could exceed FP16's range, likewise.
        checkpoint_sha256: of the source model; empty when unknown.
        integer: proof of the integer-only graph; None without one.
        built: when, in UTC, ISO 8601; empty when unknown.
    """

    name: str
    architecture: str
    targets: tuple[str, ...]
    device: str
    seed: int
    versions: Mapping[str, str]
    results: tuple[BenchResult, ...]
    scales: ScaleTable
    engines: tuple[Engine, ...] = ()
    decisions: Mapping[str, tuple[Decision, ...]] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    controls: tuple[ControlRow, ...] = ()
    audio_scales: ScaleTable | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    subnormal: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    overflowing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    checkpoint_sha256: str = ""
    integer: Proof | None = None
    built: str = ""


class Card(NamedTuple):
    """One headline figure with the line below it; tone is ``good``, ``bad`` or empty."""

    title: str
    value: str
    detail: str
    tone: str = ""


class File(NamedTuple):
    """A file the bundle was made from or holds; `facts` is what its builder said, as JSON text."""

    role: str
    path: str
    size: str
    sha256: str
    facts: str


def render(data: ReportData) -> str:
    """The page as one HTML string; every string of `data` is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trtasr", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.j2").render(
        data=data,
        chips=_chips(data),
        cards=[*_wer_cards(data), *_size_cards(data.results), *_speed_cards(data.results)],
        summary=[_summary_row(data, result) for result in reference_first(data.results)],
        conditions=conditions(data.results),
        measure=measure_of(data.results),
        files=_files(data),
        settings=_json(data.settings),
        mistakes=[view for result in data.results if (view := mistakes(data.results, result))],
        **_speed(data.results),
        **_layers(data),
        **_error(data),
    )


def _speed(results: Sequence[BenchResult]) -> dict[str, Any]:
    points = tradeoff(results)
    timed = any(point.rtfx is not None for point in points)
    return {
        "latency": latency_rows(results),
        "bars": bar_groups(results),
        "points": tradeoff_rows(points) if timed else [],
        "tradeoff_svg": svg.tradeoff_scatter(points, measure_of(results)),
    }


def _layers(data: ReportData) -> dict[str, Any]:
    engines = [engine for engine in data.engines if engine.layers]
    return {
        "engines": [engine_view(engine, data.decisions.get(engine.target, ()), data.reasons) for engine in engines],
        "skipped": skipped(data.decisions, data.reasons),
        "lints": lints(data.subnormal, data.overflowing),
        "integer": proof_view(data.integer) if data.integer else None,
    }


def _error(data: ReportData) -> dict[str, Any]:
    pairs = range_pairs(data.scales, data.audio_scales)
    return {
        "sqnr_svg": svg.sqnr_stems(data.scales.activations),
        "scatter_svg": svg.range_scatter(pairs),
        "scatter_note": range_note(pairs),
        "range_gaps": range_gaps(pairs),
        "activations": activation_rows(data.scales),
        "weights": weight_rows(data.scales),
        "worst": WORST_ROWS,
        "corrections": corrections(data.scales),
        "controls": [
            (r.calibration, format_wer(r.wer), format_delta(r.delta), format_db(r.sqnr_db)) for r in data.controls
        ],
    }


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, default=str, ensure_ascii=False) if value else ""


def _chips(data: ReportData) -> list[tuple[str, str]]:
    built = [("built", data.built.replace("T", " ").replace("Z", " UTC"))] if data.built else []
    measured = [("measured on", data.device), ("seed", str(data.seed))]
    return [("model", data.architecture), ("targets", ", ".join(data.targets)), *measured, *built]


def _files(data: ReportData) -> list[File]:
    """The checkpoint, then the engines; an engine without a hash of its own is hashed in the bundle's sidecar."""
    files = [File("checkpoint", "", "", data.checkpoint_sha256, "")] if data.checkpoint_sha256 else []
    for engine in data.engines:
        facts = {key: value for key, value in engine.details.items() if key != "sha256"}
        sha256 = str(engine.details.get("sha256", "sha256 in bundle.json"))
        files.append(File(engine.target, engine.path, format_size(engine.size_bytes), sha256, _json(facts)))
    return files


def _wer_cards(data: ReportData) -> list[Card]:
    baseline = reference_rate(data.results)
    cards = []
    for result in reference_first(data.results):
        if result.wer is None or (result.precision != "int8" and result.target != REFERENCE):
            continue
        delta, found = rate_delta(result, baseline), result.wer
        detail = f"{found.errors} errors in {found.words} words"
        if not found.spaced:
            detail = f"{found.character_errors} errors in {found.characters} characters"
        if delta is not None:
            detail = f"{format_delta(delta)} points to FP32{_interval(data, result)}"
        cards.append(Card(f"{found.measure} {result.engine}", f"{format_wer(found.rate)} %", detail))
    return cards


def _size_cards(results: Sequence[BenchResult]) -> list[Card]:
    reference = next((r for r in results if r.target == REFERENCE), None)
    cards = []
    for result in results:
        if result.precision != "int8":
            continue
        detail = result.note
        if reference:
            share = 100 * result.size_bytes / reference.size_bytes
            detail = f"{share:.1f} % of FP32 ({format_size(reference.size_bytes)})"
        cards.append(Card(f"Size {result.engine}", format_size(result.size_bytes), detail))
    return cards


def _speed_cards(results: Sequence[BenchResult]) -> list[Card]:
    cards = []
    for result in results:
        latency = shown_latency(result)
        if latency is None or result.precision != "int8":
            continue
        shape = f"{latency.shape} of audio, on {measured_on(result)}"
        cards.append(Card(f"Latency {result.engine}", f"{format_ms(latency.p50_ms)} ms", f"median; {shape}"))
        cards.append(Card(f"RTFx {result.engine}", format_rtfx(latency.rtfx), "seconds of audio per second of work"))
        for precision in ("fp32", "fp16"):
            if (ratio := speedup(results, latency, precision)) is not None:
                label, tone = precision.upper(), "good" if ratio > 1 else "bad"
                detail = f"median {label} / INT8, same device and shape"
                cards.append(Card(f"Speedup {result.engine} over {label}", f"{ratio:.2f} x", detail, tone))
    return cards


def _summary_row(data: ReportData, result: BenchResult) -> dict[str, str]:
    latency = shown_latency(result)
    scored = rates(data.results, result)
    scored["delta"] += _interval(data, result)
    return {
        "engine": result.engine,
        **scored,
        "RTFx": format_rtfx(latency.rtfx) if latency else "-",
        "p50 ms": format_ms(latency.p50_ms) if latency else "-",
        "p95 ms": format_ms(latency.p95_ms) if latency else "-",
        "p99 ms": format_ms(latency.p99_ms) if latency else "-",
        "size": format_size(result.size_bytes),
        "measured on": measured_on(result),
        "note": result.note,
    }


def _interval(data: ReportData, result: BenchResult) -> str:
    bounds = data.intervals.get(result.engine)
    return f" [{format_delta(bounds[0])}, {format_delta(bounds[1])}]" if bounds else ""
