"""Plain-text tables for the terminal. Nothing is computed here beyond differences, shares and counts."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from trtasr.results import BenchResult, Control, Engine, Latency, LayerRow, WerResult

REFERENCE = "fp32"
NAME_WIDTH = 48


def format_size(size_bytes: int) -> str:
    """Megabytes (10^6 bytes) with one decimal, ``75.5 MB``."""
    return f"{size_bytes / 1e6:.1f} MB"


def format_delta(points: float | None) -> str:
    """Signed WER difference with two decimals, never ``-0.00``; ``-`` for None."""
    return "-" if points is None else f"{round(points, 2) + 0.0:+.2f}"


def format_wer(wer: float | None) -> str:
    """WER or CER in percent with two decimals; ``-`` for None."""
    return "-" if wer is None else f"{wer:.2f}"


def format_ms(milliseconds: float) -> str:
    """Milliseconds: two decimals below 10, one above."""
    return f"{milliseconds:.{2 if milliseconds < 10 else 1}f}"


def format_rtfx(rtfx: float) -> str:
    """RTFx: one decimal below 100, none above."""
    return f"{rtfx:.{1 if rtfx < 100 else 0}f}"


def measure_of(results: Sequence[BenchResult]) -> str:
    """What is judged: ``WER``, or ``CER`` where the references have no spaces between words."""
    return next((result.wer.measure for result in results if result.wer), "WER")


def reference_rate(results: Sequence[BenchResult]) -> float | None:
    """WER (or CER, where that is judged) of the FP32 row; None when it was not measured."""
    return next((r.wer.rate for r in results if r.target == REFERENCE and r.wer), None)


def rate_delta(result: BenchResult, baseline: float | None) -> float | None:
    """A row's rate minus that of FP32 in points; None for the FP32 row itself or where either is missing."""
    if baseline is None or result.wer is None or result.target == REFERENCE:
        return None
    return result.wer.rate - baseline


def rates(results: Sequence[BenchResult], result: BenchResult) -> dict[str, str]:
    """The judged rate of a row, its difference to FP32, and the other rate, by column."""
    measure = measure_of(results)
    other = "CER" if measure == "WER" else "WER"
    found = {"WER": result.wer.wer, "CER": result.wer.cer} if result.wer else {}
    delta = format_delta(rate_delta(result, reference_rate(results)))
    return {f"{measure} %": format_wer(found.get(measure)), "delta": delta, f"{other} %": format_wer(found.get(other))}


def shown_latency(result: BenchResult) -> Latency | None:
    """The latency a one-line summary shows: the longest benchmarked input; None where nothing was timed."""
    return max(result.latencies, key=lambda latency: latency.audio_seconds, default=None)


def measured_on(result: BenchResult) -> str:
    """``cpu`` or the GPU's name; for an engine that was not timed, which device is missing."""
    latency = shown_latency(result)
    if latency is None:
        return f"({result.absent})"
    return "cpu" if latency.threads else latency.device


def reference_first(results: Sequence[BenchResult]) -> list[BenchResult]:
    """The FP32 row first, the others in their order."""
    return sorted(results, key=lambda result: result.target != REFERENCE)


def summary_table(results: Sequence[BenchResult]) -> str:
    """Engines beside each other: size, device, latency, RTFx, WER, the difference to FP32, and CER.

    Without spaces between words the difference is that of CER, which then comes first. A cell that was not measured
    shows ``-``. The lines below the table say what was timed and scored.
    """
    rows = [["engine", "size", "measured on", "p50 / p95 ms", "RTFx", *rates(results, results[0]), ""]]
    for result in reference_first(results):
        latency = shown_latency(result)
        rows.append(
            [
                result.engine,
                format_size(result.size_bytes),
                measured_on(result),
                f"{format_ms(latency.p50_ms)} / {format_ms(latency.p95_ms)}" if latency else "-",
                format_rtfx(latency.rtfx) if latency else "-",
                *rates(results, result).values(),
                f"({result.note})" if result.note else "",
            ]
        )
    return "\n".join([align(rows, right={1, 3, 4, 5, 6, 7}), *conditions(results)])


def conditions(results: Sequence[BenchResult]) -> list[str]:
    """What was timed and what was scored, one line per distinct condition."""
    lines = []
    for result in results:
        if latency := shown_latency(result):
            threads = f", {latency.threads} thread{'s'[: latency.threads != 1]}" if latency.threads else ""
            lines.append(
                f"latency: {latency.shape} of audio, batch {latency.batch}{threads}, "
                f"{latency.runs} runs, {latency.device}"
            )
        if result.wer:
            lines.append(scored_line(result.wer))
    return sorted(dict.fromkeys(lines), key=lambda line: not line.startswith("latency"))


def scored_line(found: WerResult) -> str:
    """What WER and CER were counted on, and with which normalizer."""
    unspaced = "" if found.spaced else "; written without spaces between words: CER is judged"
    return (
        f"WER and CER: {len(found.utterances)} utterances, {found.words} words, {found.characters} characters, "
        f"batch {found.batch}, normalizer {found.normalizer}{unspaced}"
    )


def generation_lines(results: Sequence[BenchResult]) -> list[str]:
    """``int8 cpu: encoder 9.81 ms, 0.21 ms per token (60 tokens)`` of each encoder-decoder at its longest input."""
    lines = []
    for result in reference_first(results):
        latency = shown_latency(result)
        if latency and latency.tokens:
            lines.append(f"{result.engine}: {generation_words(latency)}")
    return lines


def generation_words(latency: Latency) -> str:
    """What encoder and decoder take of a latency."""
    return (
        f"encoder {format_ms(latency.encoder_ms)} ms, {format_ms(latency.token_ms)} ms per token "
        f"({latency.tokens} tokens)"
    )


def coverage_line(target: str, layers: Sequence[LayerRow]) -> str:
    """``t4-rtx: 94 of 171 layers INT8 (90.7 % of MACs)``; only layers with weights count."""
    weighted = [layer for layer in layers if layer.macs]
    int8 = [layer for layer in weighted if layer.int8]
    share = 100 * sum(layer.macs for layer in int8) / max(1, sum(layer.macs for layer in weighted))
    return f"{target}: {len(int8)} of {len(weighted)} layers INT8 ({share:.1f} % of MACs)"


def decision_summary(engine: Engine) -> str:
    """Which quantizable nodes were left alone and by which rule, the most frequent first.

    Returns:
        For instance ``kept FP16: 77 depthwise (no INT8 kernel on sm_75)``, or ``all INT8``; in front of it ``dynamic
        scales`` where the INT8 layers have such, with their number where some have not.
    """
    kept = Counter(decision.rule for decision in engine.decisions if not decision.quantized)
    words = [f"{n} {rule}" + in_parentheses(engine.reasons.get(rule, "")) for rule, n in kept.most_common()]
    return dynamic_words(engine) + (f"kept {engine.rest}: {', '.join(words)}" if kept else "all INT8")


def dynamic_words(engine: Engine) -> str:
    """``dynamic scales in 20 of 24; ``; nothing of static scales."""
    if engine.activation_scales != "dynamic":
        return ""
    int8, dynamic = sum(decision.quantized for decision in engine.decisions), len(engine.dynamic)
    return f"dynamic scales in {dynamic} of {int8}; " if 0 < dynamic < int8 else "dynamic scales; "


def layer_table(layers: Sequence[LayerRow], show_all: bool = False) -> str:
    """Engine layers in execution order with operand types, share of MACs and the ONNX nodes behind them.

    Args:
        layers: the layer table of one engine.
        show_all: also show layers without weights, and names in full.
    """
    shown = [layer for layer in layers if layer.macs or show_all]
    total = max(1, sum(layer.macs for layer in layers))
    rows = [["layer", "type", "operands", "output", "INT8", "MACs %", "ONNX nodes"]]
    for layer in shown:
        share = f"{100 * layer.macs / total:.2f}" if layer.macs else "-"
        rows.append(
            [
                clipped(layer.name, show_all),
                layer.kind,
                " x ".join(layer.operands) or "-",
                ", ".join(layer.outputs) or "-",
                "yes" if layer.int8 else "-",
                share,
                nodes_cell(layer.onnx_nodes, show_all),
            ]
        )
    lines = [align(rows, right={5})]
    if hidden := len(layers) - len(shown):
        lines.append(f"({hidden} layer{'s'[: hidden != 1]} without weights not shown)")
    return "\n".join(lines)


def controls_table(controls: Sequence[Control], results: Sequence[BenchResult]) -> str:
    """The data-free claim beside its controls: calibration, WER (or CER), difference to FP32 and disagreement, SQNR.

    Args:
        controls: one per calibration.
        results: with the FP32 row that they are compared with.
    """
    heads = ["calibration (static scales)", f"{measure_of(results)} %", "delta", "disagreement %", "SQNR dB"]
    return align([heads, *control_rows(controls, results)], right={1, 2, 3, 4})


def control_rows(controls: Sequence[Control], results: Sequence[BenchResult]) -> list[list[str]]:
    """The cells of that table; ``-`` without transcripts."""
    baseline, rows = reference_rate(results), []
    for control in controls:
        delta = None if baseline is None or control.wer is None else control.wer - baseline
        figures = [format_wer(control.wer), format_delta(delta), format_wer(control.disagreement)]
        rows.append([control.label, *figures, format_db(control.sqnr_db)])
    return rows


def sqnr_table(layers: Mapping[str, float], target: str) -> str:
    """SQNR of each layer's output in graph order, and the lowest one in words; infinite SQNR shows as ``exact``."""
    rows = [["layer output", "SQNR dB"]]
    rows += [[name, f"{value:.1f}" if math.isfinite(value) else "exact"] for name, value in layers.items()]
    if not layers:
        return f"fp32 and {target} share no tensor names: nothing to compare by layer"
    lowest = min(layers, key=lambda name: layers[name])
    return f"{align(rows, right={1})}\nlowest: {lowest}, {layers[lowest]:.1f} dB ({target} against fp32)"


def format_db(decibels: float) -> str:
    """Decibels with one decimal; ``-`` for NaN (not measured)."""
    return "-" if math.isnan(decibels) else f"{decibels:.1f}"


def last_line(outcome: str, seconds: float, values: Mapping[str, str | float]) -> str:
    """The machine-readable last line: ``PASSED | 84 s | engine=... | wer_fp32=13.19``.

    Args:
        outcome: ``PASSED`` or ``FAILED``.
        seconds: wall time of the command.
        values: keys and values in order; floats are shown with two decimals.
    """
    pairs = [f"{key}={value:.2f}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items()]
    return " | ".join([outcome, f"{seconds:.0f} s", *pairs])


def align(rows: Sequence[Sequence[str]], right: set[int]) -> str:
    """Columns two blanks apart, those in `right` flush right; no trailing blanks."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def in_parentheses(text: str) -> str:
    """A remark behind a line; empty for none."""
    return f" ({text})" if text else ""


def clipped(name: str, full: bool) -> str:
    """Long names lose their middle: the end tells layers apart."""
    if full or len(name) <= NAME_WIDTH:
        return name
    return f"{name[:16]}...{name[-(NAME_WIDTH - 19) :]}"


def nodes_cell(names: Sequence[str], full: bool) -> str:
    """Node names; unless all are asked for, the first and how many more."""
    if full or len(names) <= 1:
        return ", ".join(clipped(name, full) for name in names) or "-"
    return f"{clipped(names[0], full)} +{len(names) - 1}"
