"""One self-contained HTML page about one compiled bundle: no server, no network, light and dark, printable."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2

from trtasr.report import svg
from trtasr.report.difference_view import difference_rows, format_interval
from trtasr.report.error_view import activation_rows, corrections, range_gaps, range_note, range_pairs, weight_rows
from trtasr.report.fidelity_view import fidelity_rows
from trtasr.report.integer_view import proof_view
from trtasr.report.layer_view import engine_view, lints, skipped
from trtasr.report.speed_view import bar_groups, latency_rows, tradeoff, tradeoff_rows
from trtasr.report.table import (
    REFERENCE,
    conditions,
    control_rows,
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
from trtasr.results import BenchResult, Record, speedup

WORST_ROWS = 12


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


def render(record: Record) -> str:
    """The page as one HTML string; every string of `record` is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trtasr", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.j2").render(
        record=record,
        chips=chips(record),
        cards=[*wer_cards(record), *size_cards(record.results), *speed_cards(record.results)],
        summary=[summary_row(record, result) for result in reference_first(record.results)],
        conditions=conditions(record.results),
        measure=measure_of(record.results),
        differences=difference_rows(record.results),
        files=files_of(record),
        settings=indented(record.recipe),
        mistakes=[view for result in record.results if (view := mistakes(record.results, result))],
        **speed_part(record.results),
        **layers_part(record),
        **error_part(record),
    )


def speed_part(results: Sequence[BenchResult]) -> dict[str, Any]:
    """What the section about speed shows: rows, bars, and the picture of accuracy against speed."""
    points = tradeoff(results)
    timed = any(point.rtfx is not None for point in points)
    return {
        "latency": latency_rows(results),
        "bars": bar_groups(results),
        "points": tradeoff_rows(points) if timed else [],
        "tradeoff_svg": svg.tradeoff_scatter(points, measure_of(results)),
    }


def layers_part(record: Record) -> dict[str, Any]:
    """What the section about layers shows: each engine, what was left out and why, FP16's limits, the integer proof."""
    return {
        "engines": [engine_view(engine) for engine in record.engines if engine.layers],
        "skipped": skipped(record.engines),
        "lints": lints(record.engines),
        "integer": proof_view(record.integer.proof) if record.integer else None,
    }


def error_part(record: Record) -> dict[str, Any]:
    """What the section about quantization error shows: pictures, tables of scales, corrections, controls."""
    pairs = range_pairs(record.table, record.audio_table)
    return {
        "sqnr_svg": svg.sqnr_stems(record.table.activations),
        "scatter_svg": svg.range_scatter(pairs),
        "scatter_note": range_note(pairs),
        "range_gaps": range_gaps(pairs),
        "activations": activation_rows(record.table),
        "weights": weight_rows(record.table),
        "worst": WORST_ROWS,
        "corrections": corrections(record.table),
        "controls": control_rows(record.controls, record.results),
        "fidelity": fidelity_rows(record.fidelity),
    }


def indented(value: Mapping[str, Any]) -> str:
    """JSON to read; empty for nothing."""
    return json.dumps(value, indent=2, default=str, ensure_ascii=False) if value else ""


def chips(record: Record) -> list[tuple[str, str]]:
    """Label and value of the facts below the headline."""
    return [
        ("model", record.architecture),
        ("targets", ", ".join(record.targets)),
        ("measured on", record.device),
        ("seed", str(record.recipe["calibration"]["seed"])),
        ("built", record.built.replace("T", " ").replace("Z", " UTC")),
    ]


def files_of(record: Record) -> list[File]:
    """The checkpoint, then the engines; an engine without a hash of its own is hashed in the bundle's sidecar."""
    files = [File("checkpoint", "", "", record.checkpoint["sha256"], "")]
    built = [(engine.target, part) for engine in record.engines for part in (*engine.parts, *engine.unmasked)]
    for target, part in built:
        facts = {key: value for key, value in part.details.items() if key != "sha256"}
        sha256 = str(part.details.get("sha256", "sha256 in bundle.json"))
        files.append(File(target, part.path, format_size(part.size_bytes), sha256, indented(facts)))
    return files


def wer_cards(record: Record) -> list[Card]:
    """A card for the WER (CER) of FP32 and of each INT8 engine."""
    baseline = reference_rate(record.results)
    cards = []
    for result in reference_first(record.results):
        if result.wer is None or (result.precision != "int8" and result.target != REFERENCE):
            continue
        delta, found = rate_delta(result, baseline), result.wer
        detail = f"{found.errors} errors in {found.words} words"
        if not found.spaced:
            detail = f"{found.character_errors} errors in {found.characters} characters"
        if delta is not None:
            detail = f"{format_delta(delta)} points to FP32{interval_of(result)}"
        cards.append(Card(f"{found.measure} {result.engine}", f"{format_wer(found.rate)} %", detail))
    return cards


def size_cards(results: Sequence[BenchResult]) -> list[Card]:
    """A card for the size of each INT8 engine."""
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


def speed_cards(results: Sequence[BenchResult]) -> list[Card]:
    """Cards for latency, RTFx and speedup of each INT8 engine that was timed."""
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


def summary_row(record: Record, result: BenchResult) -> dict[str, str]:
    """One engine's row of the summary, column -> text."""
    latency = shown_latency(result)
    scored = rates(record.results, result)
    scored["delta"] += interval_of(result)
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


def interval_of(result: BenchResult) -> str:
    """The bootstrap interval of a WER difference, in brackets; empty where there is none."""
    return f" {format_interval(result.differences[0])}" if result.differences else ""
