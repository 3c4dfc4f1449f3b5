"""One self-contained HTML page about one compiled bundle: no server, no network, light and dark, printable."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

import jinja2
import jiwer

from trtasr.report import svg
from trtasr.report.table import (
    REFERENCE,
    ControlRow,
    conditions,
    coverage_line,
    decision_summary,
    format_db,
    format_delta,
    format_ms,
    format_rtfx,
    format_size,
    format_wer,
    measured_on,
    reference_first,
    reference_wer,
    shown_latency,
    wer_delta,
)
from trtasr.values import BenchResult, Comparison, Decision, Engine, Latency, ScaleTable, Utterance

WORST_ROWS = 12
WORST_GAPS = 8
WORST_UTTERANCES = 8


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows.

    Attributes:
        name: of the bundle; family: of the model, for instance ``jasper``.
        targets: engines built.
        device: machine the measurements were made on.
        seed: of the calibration.
        versions: library -> version.
        results: one row per engine.
        scales: the scale table in use.
        engines: built engines with their layer tables.
        decisions: target -> one decision per quantizable node.
        reasons: rule -> the reason in words.
        intervals: row label -> 95 % interval of its WER difference to FP32, in points.
        comparisons: Polygraphy comparisons.
        controls: calibration controls; empty when they were not asked for.
        audio_scales: scale table from real audio; None when that control was not run.
        settings: the resolved recipe (JSON types).
        commands: command lines that reproduce the bundle.
    """

    name: str
    family: str
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


class Card(NamedTuple):
    """One headline figure with the line below it; tone is ``good``, ``bad`` or empty."""

    title: str
    value: str
    detail: str
    tone: str = ""


class Word(NamedTuple):
    """A run of words of an aligned transcript; mark is ``equal``, ``substitute``, ``insert`` or ``delete``."""

    text: str
    mark: str


def render(data: ReportData) -> str:
    """The page as one HTML string; every string of `data` is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trtasr", "report"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    pairs = _range_pairs(data)
    return environment.get_template("report.html.j2").render(
        data=data,
        chips=_chips(data),
        cards=[*_wer_cards(data), *_size_cards(data.results), *_speed_cards(data.results)],
        summary=[_summary_row(data, result) for result in reference_first(data.results)],
        conditions=conditions(data.results),
        controls=[
            (r.calibration, format_wer(r.wer), format_delta(r.delta), format_db(r.sqnr_db)) for r in data.controls
        ],
        latency_svg=svg.latency_bars(data.results),
        sqnr_svg=svg.sqnr_stems(data.scales.activations),
        scatter_svg=svg.range_scatter(pairs),
        scatter_note=_scatter_note(pairs),
        range_gaps=_range_gaps(pairs),
        worst_activations=_worst_activations(data.scales),
        worst_weights=_worst_weights(data.scales),
        alphas=_alphas(data.scales),
        engines=[_engine_view(data, engine) for engine in data.engines if engine.layers],
        mistakes=[view for result in data.results if (view := _mistakes(data, result))],
        settings=json.dumps(data.settings, indent=2, default=str, ensure_ascii=False) if data.settings else "",
    )


def _chips(data: ReportData) -> list[tuple[str, str]]:
    fixed = [("family", data.family), ("targets", ", ".join(data.targets)), ("measured on", data.device)]
    return [*fixed, ("seed", str(data.seed)), *data.versions.items()]


def _wer_cards(data: ReportData) -> list[Card]:
    baseline = reference_wer(data.results)
    cards = []
    for result in reference_first(data.results):
        if result.wer is None:
            continue
        delta = wer_delta(result, baseline)
        detail = f"{result.wer.errors} errors in {result.wer.words} words"
        if delta is not None:
            detail = f"{format_delta(delta)} points to FP32{_interval(data, result)}"
        cards.append(Card(f"WER {result.engine}", f"{format_wer(result.wer.wer)} %", detail))
    return cards


def _size_cards(results: Sequence[BenchResult]) -> list[Card]:
    reference = next((r for r in results if r.target == REFERENCE), None)
    cards = []
    for result in results:
        if result.target == REFERENCE:
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
        if latency is None or result.target == REFERENCE:
            continue
        shape = f"{latency.audio_seconds:g} s of audio, batch {latency.batch}, on {measured_on(result)}"
        cards.append(Card(f"Latency {result.engine}", f"{format_ms(latency.p50_ms)} ms", f"median; {shape}"))
        cards.append(Card(f"RTFx {result.engine}", format_rtfx(latency.rtfx), "seconds of audio per second of work"))
        if (ratio := _speedup(results, latency)) is not None:
            tone = "good" if ratio > 1 else "bad"
            cards.append(
                Card(f"Speedup {result.engine}", f"{ratio:.2f} x", "median FP32 / INT8, same device and shape", tone)
            )
    return cards


def _speedup(results: Sequence[BenchResult], latency: Latency) -> float | None:
    """FP32 median over this median; None unless FP32 was timed on the same device, threads and shape."""

    def condition(timed: Latency) -> tuple[float, int, int, str]:
        return timed.audio_seconds, timed.batch, timed.threads, timed.device

    references = [timed for r in results if r.target == REFERENCE for timed in r.latencies]
    same = next((timed for timed in references if condition(timed) == condition(latency)), None)
    return same.p50_ms / latency.p50_ms if same else None


def _summary_row(data: ReportData, result: BenchResult) -> dict[str, str]:
    latency = shown_latency(result)
    return {
        "engine": result.engine,
        "size": format_size(result.size_bytes),
        "measured on": measured_on(result),
        "p50 ms": format_ms(latency.p50_ms) if latency else "-",
        "p95 ms": format_ms(latency.p95_ms) if latency else "-",
        "p99 ms": format_ms(latency.p99_ms) if latency else "-",
        "RTFx": format_rtfx(latency.rtfx) if latency else "-",
        "WER %": format_wer(result.wer.wer if result.wer else None),
        "delta": format_delta(wer_delta(result, reference_wer(data.results))) + _interval(data, result),
        "note": result.note,
    }


def _interval(data: ReportData, result: BenchResult) -> str:
    bounds = data.intervals.get(result.engine)
    return f" [{format_delta(bounds[0])}, {format_delta(bounds[1])}]" if bounds else ""


def _range_pairs(data: ReportData) -> list[tuple[str, float, float]]:
    """Tensor, range from real audio, range from the features in use."""
    audio = data.audio_scales.activations if data.audio_scales else {}
    return [(name, audio[name].amax, s.amax) for name, s in data.scales.activations.items() if name in audio]


def _scatter_note(pairs: Sequence[tuple[str, float, float]]) -> str:
    if not pairs:
        return ""
    ratios = [made / real for _, real, made in pairs]
    close = sum(0.5 <= ratio <= 2.0 for ratio in ratios)
    return f"{close} of {len(ratios)} ranges lie within a factor of 2; median ratio {median(ratios):.2f}."


def _range_gaps(pairs: Sequence[tuple[str, float, float]]) -> list[tuple[str, ...]]:
    """The tensors whose two ranges are furthest apart, as a ratio."""
    worst = sorted(pairs, key=lambda pair: abs(math.log(pair[2] / pair[1])), reverse=True)[:WORST_GAPS]
    return [(name, f"{real:.4g}", f"{made:.4g}", f"{made / real:.2f}") for name, real, made in worst]


def _worst_activations(scales: ScaleTable) -> list[tuple[str, ...]]:
    measured = [(name, s) for name, s in scales.activations.items() if math.isfinite(s.sqnr_db)]
    worst = sorted(measured, key=lambda pair: pair[1].sqnr_db)[:WORST_ROWS]
    return [(name, format_db(s.sqnr_db), f"{s.amax:.4g}", s.method) for name, s in worst]


def _worst_weights(scales: ScaleTable) -> list[tuple[str, ...]]:
    measured = [(name, w) for name, w in scales.weights.items() if math.isfinite(w.sqnr_db)]
    worst = sorted(measured, key=lambda pair: pair[1].sqnr_db)[:WORST_ROWS]
    return [(name, format_db(w.sqnr_db), str(len(w.scales)), str(len(w.floored) or "-")) for name, w in worst]


def _alphas(scales: ScaleTable) -> str:
    values = list(scales.alphas.values())
    if not values:
        return ""
    return (
        f"corrected layers: {len(values)}, strength {min(values):.2f} to {max(values):.2f}, median {median(values):.2f}"
    )


def _engine_view(data: ReportData, engine: Engine) -> dict[str, Any]:
    """Heading, share of MACs and rows of one engine's layer table."""
    decisions = data.decisions.get(engine.target, ())
    rules = {d.node: d.rule for d in decisions if not d.quantized}
    total = max(1, sum(layer.macs for layer in engine.layers))
    kept_in = "FP32" if engine.target == "cpu" else "FP16"
    rows = []
    for layer in engine.layers:
        kept = dict.fromkeys(rules[node] for node in layer.onnx_nodes if node in rules)
        rows.append({
            "name": layer.name,
            "kind": layer.kind,
            "operands": " x ".join(layer.operands),
            "outputs": ", ".join(layer.outputs),
            "nodes": layer.onnx_nodes,
            "share": 100 * layer.macs / total,
            "int8": layer.int8,
            "rule": "; ".join(f"{rule}: {data.reasons[rule]}" if rule in data.reasons else rule for rule in kept),
        })  # fmt: skip
    return {
        "target": engine.target,
        "coverage": coverage_line(engine.target, engine.layers),
        "kept": decision_summary(decisions, kept_in, data.reasons) if decisions else "",
        "int8_share": 100 * sum(layer.macs for layer in engine.layers if layer.int8) / total,
        "kept_in": kept_in,
        "rows": rows,
    }


def _mistakes(data: ReportData, result: BenchResult) -> dict[str, Any] | None:
    """The utterances a quantized engine lost most on against FP32, then those with most errors."""
    reference = next((r.wer for r in data.results if r.target == REFERENCE and r.wer), None)
    if result.wer is None or result.target == REFERENCE:
        return None
    before = {u.audio_filepath: u for u in reference.utterances} if reference else {}
    rows = [_mistake(u, before.get(u.audio_filepath)) for u in result.wer.utterances]
    wrong = sorted((r for r in rows if r["errors"]), key=lambda r: (r["added"], r["errors"]), reverse=True)
    changed = sum(
        u.pred_text != before[u.audio_filepath].pred_text for u in result.wer.utterances if u.audio_filepath in before
    )
    count = len(result.wer.utterances)
    heading = f"{changed} of {count} transcripts differ from FP32" if reference else f"{count} utterances"
    return {"engine": result.engine, "heading": heading, "rows": wrong[:WORST_UTTERANCES]}


def _mistake(utterance: Utterance, fp32: Utterance | None) -> dict[str, Any]:
    counts = jiwer.process_words(utterance.text, utterance.pred_text)
    errors = counts.substitutions + counts.deletions + counts.insertions
    earlier = jiwer.process_words(fp32.text, fp32.pred_text) if fp32 else None
    fp32_errors = earlier.substitutions + earlier.deletions + earlier.insertions if earlier else errors
    return {
        "audio": utterance.audio_filepath,
        "duration": f"{utterance.duration:.1f} s",
        "errors": errors,
        "added": errors - fp32_errors,
        "text": utterance.text,
        "int8": _aligned(counts),
        "fp32": _aligned(earlier) if earlier else [],
    }


def _aligned(counts: Any) -> list[Word]:
    """A transcript as runs of right, wrong, additional and missing words, from jiwer's alignment."""
    words = []
    for chunk in counts.alignments[0]:
        missing = chunk.type == "delete"
        source = counts.references[0] if missing else counts.hypotheses[0]
        start, end = (chunk.ref_start_idx, chunk.ref_end_idx) if missing else (chunk.hyp_start_idx, chunk.hyp_end_idx)
        words.append(Word(" ".join(source[start:end]), chunk.type))
    return words
