"""Speed as the report shows it: percentiles per engine and input shape, bars, and WER against RTFx."""

from collections.abc import Sequence
from typing import NamedTuple

from trtasr.report.table import format_ms, format_rtfx, format_wer, reference_first
from trtasr.results import BenchResult, Latency, speedup


class LatencyRow(NamedTuple):
    """One engine at one input shape, in words; ``over`` columns say how many times faster it is than that baseline.

    Milliseconds of the encoder and per token are there for encoder-decoders only.
    """

    engine: str
    device: str
    shape: str
    p50: str
    p95: str
    p99: str
    runs: int
    rtfx: str
    over_fp32: float | None
    over_fp16: float | None
    encoder: str = ""
    token: str = ""


class Bar(NamedTuple):
    """A median with its tail to p95, both in percent of the longest bar of the group."""

    engine: str
    colour: str
    width: float
    tail: float
    label: str
    title: str


class BarGroup(NamedTuple):
    """Bars of one device and input shape: only these are to be compared."""

    title: str
    bars: tuple[Bar, ...]


class Point(NamedTuple):
    """One engine of the WER-against-RTFx picture; rtfx is None for an engine that was not timed, wer may be CER."""

    number: int
    engine: str
    shape: str
    rtfx: float | None
    wer: float
    colour: str


def device_words(latency: Latency) -> str:
    """Name of the device, with the threads on a CPU."""
    if not latency.threads:
        return latency.device
    return f"{latency.device}, {latency.threads} thread{'s'[: latency.threads != 1]}"


def latency_rows(results: Sequence[BenchResult]) -> list[LatencyRow]:
    """Every engine at every shape it was timed at, the same shapes together."""
    timed = [(result, latency) for result in reference_first(results) for latency in result.timings]
    timed.sort(key=lambda pair: pair[1].condition)
    return [latency_row(results, *pair) for pair in timed]


def latency_row(results: Sequence[BenchResult], result: BenchResult, latency: Latency) -> LatencyRow:
    """One engine at one shape, as a row of the table."""

    def over(precision: str) -> float | None:
        return None if result.precision == precision else speedup(results, latency, precision)

    return LatencyRow(
        result.engine,
        device_words(latency),
        latency.shape,
        format_ms(latency.p50_ms),
        format_ms(latency.p95_ms),
        format_ms(latency.p99_ms),
        latency.runs,
        format_rtfx(latency.rtfx),
        over("fp32"),
        None if result.precision == "fp32" else over("fp16"),
        format_ms(latency.encoder_ms) if latency.tokens else "",
        format_ms(latency.token_ms) if latency.tokens else "",
    )


def bar_groups(results: Sequence[BenchResult]) -> list[BarGroup]:
    """Medians as bars, one group per device and input shape, each to its own scale; empty without a timing."""
    groups: dict[tuple[str, int, int, float], list[tuple[BenchResult, Latency]]] = {}
    for result in reference_first(results):
        for latency in result.timings:
            groups.setdefault(latency.condition, []).append((result, latency))
    return [bar_group(groups[key]) for key in sorted(groups)]


def bar_group(pairs: Sequence[tuple[BenchResult, Latency]]) -> BarGroup:
    """The engines at one shape as bars, p50 with the tail to p95, as percent of the longest."""
    longest = max(latency.p95_ms for _, latency in pairs)
    bars = []
    for result, latency in pairs:
        label = f"{format_ms(latency.p50_ms)} / {format_ms(latency.p95_ms)} ms"
        title = (
            f"{result.engine}: p50 {latency.p50_ms:.2f} ms, p95 {latency.p95_ms:.2f} ms, "
            f"p99 {latency.p99_ms:.2f} ms, {latency.runs} runs"
        )
        tail = 100 * (latency.p95_ms - latency.p50_ms) / longest
        width = 100 * latency.p50_ms / longest
        bars.append(Bar(result.engine, result.precision, width, tail, label, title))
    first = pairs[0][1]
    return BarGroup(f"{first.shape} of audio, {device_words(first)}", tuple(bars))


def tradeoff(results: Sequence[BenchResult]) -> list[Point]:
    """WER against RTFx: each scored engine at the longest input of each batch size, numbered from 1."""
    points: list[Point] = []
    for result in reference_first(results):
        if result.wer is None:
            continue
        longest = {item.batch: item for item in sorted(result.latencies, key=lambda item: item.audio_seconds)}
        timed: list[tuple[str, float | None]] = [(longest[b].shape, longest[b].rtfx) for b in sorted(longest)]
        for shape, rtfx in timed or [("not timed here", None)]:
            points.append(Point(len(points) + 1, result.engine, shape, rtfx, result.wer.rate, result.precision))
    return points


def tradeoff_rows(points: Sequence[Point]) -> list[tuple[Point, str, str]]:
    """Each point with its RTFx and WER in words."""
    return [(point, "-" if point.rtfx is None else format_rtfx(point.rtfx), format_wer(point.wer)) for point in points]
