"""Inline SVG pictures of the report. Colours are CSS classes of the page, so light and dark come from one drawing."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from trtasr.report.table import format_ms, reference_first
from trtasr.values import BenchResult, Latency, TensorScale

WIDTH = 1080.0
WORST = 5


@dataclass(frozen=True)
class Axis:
    """A mapping from data to user units.

    Attributes:
        low: data value at `start`; high: data value at `end`.
        start: position in SVG user units.
        end: position in SVG user units.
        log: logarithmic; then low must be positive.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Position of `value`."""
        transform: Callable[[float], float] = math.log10 if self.log else float
        low, high = transform(self.low), transform(self.high)
        return self.start + (self.end - self.start) * (transform(value) - low) / (high - low)


def latency_bars(results: Sequence[BenchResult]) -> Markup:
    """Bars of the median with a whisker to p95, engines grouped by device and input shape; empty without a timing."""
    timed = [result for result in reference_first(results) if result.latencies]
    if not timed:
        return Markup("")
    colours = {result.engine: f"s{index % 4}" for index, result in enumerate(timed)}
    longest = max(latency.p95_ms for result in timed for latency in result.latencies)
    x = Axis(0.0, longest, 190.0, WIDTH - 170.0)
    bars, y = [], 30.0
    for title, group in _latency_groups(timed).items():
        bars.append(_text(176, y + 11 * len(group) + 3, title, "label end"))
        for engine, latency in group:
            bars.append(_latency_bar(engine, latency, y, x, colours[engine]))
            y += 22
        y += 16
    grid = [_vertical(x, tick, 24, y - 10, f"{tick:g} ms") for tick in _linear_ticks(0.0, longest)]
    return _svg(y + 14, "Latency by engine and audio length", [*_legend(colours, 190.0), *grid, *bars])


def sqnr_stems(tensors: Mapping[str, TensorScale]) -> Markup:
    """SQNR of each activation tensor in graph order, the worst numbered; empty when none was measured."""
    measured = [(name, scale.sqnr_db) for name, scale in tensors.items() if math.isfinite(scale.sqnr_db)]
    if not measured:
        return Markup("")
    values = [value for _, value in measured]
    floor, ceiling = 10 * math.floor(min(values) / 10), 10 * math.floor(max(values) / 10 + 1)
    x = Axis(-1.0, float(len(values)), 52.0, WIDTH - 12.0)
    y = Axis(float(min(floor, 10)), float(ceiling), 250.0, 16.0)
    ranks = {name: rank for rank, (name, _) in enumerate(sorted(measured, key=lambda pair: pair[1])[:WORST], start=1)}
    parts = [_horizontal(y, tick, 52, WIDTH - 12, f"{tick:g} dB") for tick in _linear_ticks(y.low, y.high, 10.0)]
    for index, (name, value) in enumerate(measured):
        parts.append(_stem(name, value, (x(index), y(value), y(y.low)), ranks.get(name)))
    parts.append(_text(52, 274, "input", "tick"))
    parts.append(_text(WIDTH - 12, 274, "output", "tick end"))
    parts.append(_text((52 + WIDTH - 12) / 2, 274, f"{len(measured)} activation tensors in graph order", "tick mid"))
    return _svg(284, "SQNR per activation tensor", parts)


def range_scatter(pairs: Sequence[tuple[str, float, float]]) -> Markup:
    """Range from synthetic features against range from real audio, log-log, with the factor-of-two band.

    Args:
        pairs: tensor, amax from real audio, amax from synthetic features; both positive.
    """
    if not pairs:
        return Markup("")
    values = [value for _, *point in pairs for value in point]
    low, high = min(values) / 1.4, max(values) * 1.4
    x, y = Axis(low, high, 64.0, 544.0, log=True), Axis(low, high, 496.0, 16.0, log=True)
    ticks = _log_ticks(low, high)
    parts = [_vertical(x, tick, 16, 496, f"{tick:g}") for tick in ticks]
    parts += [_horizontal(y, tick, 64, 544, f"{tick:g}") for tick in ticks]
    parts.append(_band(x, y, low, high))
    parts += [_point(name, x, y, real, made) for name, real, made in pairs]
    parts.append(_text(304, 538, "amax from real audio", "label mid"))
    parts.append(
        Markup('<g transform="rotate(-90 14 256)">{}</g>').format(
            _text(14, 256, "amax from synthetic features", "label mid")
        )
    )
    return _svg(548, "Activation ranges: synthetic features against real audio", parts, width=560.0)


def _point(name: str, x: Axis, y: Axis, real: float, made: float) -> Markup:
    colour = "s1" if 0.5 <= made / real <= 2.0 else "warn"
    return Markup(
        '<circle class="point {}" cx="{}" cy="{}" r="4"><title>{}: audio {:.3g}, synthetic {:.3g}</title></circle>'
    ).format(colour, _n(x(real)), _n(y(made)), name, real, made)


def _latency_groups(results: Sequence[BenchResult]) -> dict[str, list[tuple[str, Latency]]]:
    groups: dict[tuple[float, int, str], list[tuple[str, Latency]]] = {}
    for result in results:
        for latency in result.latencies:
            groups.setdefault((latency.audio_seconds, latency.batch, latency.device), []).append(
                (result.engine, latency)
            )
    devices = {device for _, _, device in groups}
    titles = {}
    for (seconds, batch, device), bars in sorted(groups.items()):
        batched = f", batch {batch}" if batch > 1 else ""
        named = f", {device[:12]}" if len(devices) > 1 else ""
        titles[f"{seconds:g} s of audio{batched}{named}"] = bars
    return titles


def _latency_bar(engine: str, latency: Latency, y: float, x: Axis, colour: str) -> Markup:
    end, whisker = x(latency.p50_ms), x(latency.p95_ms)
    label = f"{format_ms(latency.p50_ms)} / {format_ms(latency.p95_ms)} ms"
    return Markup(
        '<g><title>{}: p50 {:.2f} ms, p95 {:.2f} ms, p99 {:.2f} ms, {} runs, {}</title>'
        '<rect class="{}" x="{}" y="{}" width="{}" height="18" rx="2"/>'
        '<path class="whisker" d="M{} {}H{}M{} {}v8"/>{}</g>'
    ).format(
        engine, latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.runs, latency.device,
        colour, _n(x.start), _n(y), _n(max(1.0, end - x.start)),
        _n(end), _n(y + 9), _n(whisker), _n(whisker), _n(y + 5), _text(whisker + 8, y + 13, label, "value"),
    )  # fmt: skip


def _stem(name: str, value: float, at: tuple[float, float, float], rank: int | None) -> Markup:
    x, top, bottom = at
    colour = "warn" if rank else "s1"
    number = _text(x, top - 8, str(rank), "rank mid") if rank else Markup("")
    return Markup(
        '<g><title>{}: {:.1f} dB</title><path class="stem {}" d="M{} {}V{}"/>'
        '<circle class="{}" cx="{}" cy="{}" r="3"/>{}</g>'
    ).format(name, value, colour, _n(x), _n(bottom), _n(top), colour, _n(x), _n(top), number)


def _band(x: Axis, y: Axis, low: float, high: float) -> Markup:
    """The diagonal (equal ranges) and the area within a factor of two of it, clipped to the plot."""
    corners = [(low, low), (low, low * 2), (high / 2, high), (high, high), (high, high / 2), (low * 2, low)]
    if high <= low * 2:
        corners = [(low, low), (low, high), (high, high), (high, low)]
    points = " ".join(f"{_n(x(a))},{_n(y(b))}" for a, b in corners)
    return Markup('<polygon class="band" points="{}"/><path class="diagonal" d="M{} {}L{} {}"/>').format(
        points, _n(x(low)), _n(y(low)), _n(x(high)), _n(y(high))
    )


def _linear_ticks(low: float, high: float, step: float | None = None) -> list[float]:
    if step is None:
        rough = (high - low) / 6
        magnitude = 10 ** math.floor(math.log10(rough))
        step = next(magnitude * m for m in (1, 2, 5, 10) if magnitude * m >= rough)
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 steps within the limits; whole decades when these would crowd."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**d for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high]
    return ticks if len(ticks) <= 8 else [t for t in ticks if math.log10(t).is_integer()]


def _vertical(axis: Axis, tick: float, top: float, bottom: float, label: str) -> Markup:
    x = _n(axis(tick))
    return Markup('<path class="grid" d="M{} {}V{}"/>{}').format(
        x, _n(top), _n(bottom), _text(axis(tick), bottom + 16, label, "tick mid")
    )


def _horizontal(axis: Axis, tick: float, left: float, right: float, label: str) -> Markup:
    y = axis(tick)
    return Markup('<path class="grid" d="M{} {}H{}"/>{}').format(
        _n(left), _n(y), _n(right), _text(left - 6, y + 4, label, "tick end")
    )


def _legend(colours: Mapping[str, str], left: float) -> list[Markup]:
    parts, x = [], left
    for name, colour in colours.items():
        parts.append(Markup('<rect class="{}" x="{}" y="2" width="12" height="12" rx="2"/>').format(colour, _n(x)))
        parts.append(_text(x + 18, 12, name, "label"))
        x += 46 + 7.2 * len(name)
    parts.append(_text(x, 12, "bar: p50, whisker: p95", "tick"))
    return parts


def _text(x: float, y: float, text: str, style: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(style, _n(x), _n(y), text)


def _n(value: float) -> str:
    """A finite SVG number with one decimal."""
    if not math.isfinite(value):
        raise ValueError(f"a picture got the coordinate {value}")
    return f"{value:.1f}"


def _svg(height: float, title: str, parts: Sequence[Markup], width: float = WIDTH) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _n(width), _n(height), title, Markup("").join(parts)
    )
