"""Inline SVG pictures of the report. Colours are CSS classes of the page, so light and dark come from one drawing."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from trtasr.report.error_view import RangePair
from trtasr.report.speed_view import Point
from trtasr.values import TensorScale

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


def tradeoff_scatter(points: Sequence[Point], measure: str = "WER") -> Markup:
    """WER (or CER) against RTFx (logarithmic), one numbered point each; engines not timed stand left of the axis.

    Args:
        points: RTFx positive or None; rates in percent. Empty without a timed point.
        measure: name of the rates.
    """
    speeds = [point.rtfx for point in points if point.rtfx is not None]
    if not speeds:
        return Markup("")
    gutter = 84.0 if len(speeds) < len(points) else 0.0
    rates = [point.wer for point in points]
    middle, half = (min(rates) + max(rates)) / 2, max(0.3, 0.65 * (max(rates) - min(rates)))
    x = Axis(min(speeds) / 1.6, max(speeds) * 1.6, 64.0 + gutter, 544.0, log=True)
    y = Axis(max(0.0, middle - half), middle + half, 330.0, 16.0)
    parts = [vertical_line(x, tick, 16, 330, f"{tick:g}") for tick in log_ticks(x.low, x.high)]
    parts += [horizontal_line(y, tick, 64, 544, f"{tick:g}") for tick in linear_ticks(y.low, y.high)]
    parts.append(placed_text((x.start + 544) / 2, 370, "RTFx: seconds of audio per second of work", "label mid"))
    parts.append(upright_label(14, 173, f"{measure} in %"))
    if gutter:
        parts.append(Markup('<path class="diagonal" d="M{} 16V330"/>').format(decimal(x.start)))
        parts.append(placed_text(64 + gutter / 2, 346, "not timed", "tick mid"))
    places = [(x(p.rtfx) if p.rtfx is not None else 64 + gutter / 2, y(p.wer)) for p in points]
    return picture(380, f"{measure} against RTFx", [*parts, *numbered(points, places)], width=560.0)


def numbered(points: Sequence[Point], places: Sequence[tuple[float, float]]) -> list[Markup]:
    """Points with their numbers, each at the first of four corners that is still free."""
    taken, parts = list(places), []
    for point, (cx, cy) in zip(points, places, strict=True):
        corners = [(cx + dx, cy + dy) for dx, dy in ((13, -11), (13, 13), (-13, -11), (-13, 13))]
        free = (c for c in corners if all(math.dist(c, other) > 13 for other in taken))
        spot = next(free, corners[0])
        taken.append(spot)
        parts.append(numbered_dot(point, cx, cy, placed_text(spot[0], spot[1] + 4, str(point.number), "rank mid")))
    return parts


def numbered_dot(point: Point, cx: float, cy: float, number: Markup) -> Markup:
    """A point, hollow where it has no speed, with its number and a title."""
    hollow = "" if point.rtfx else " hollow"
    return Markup('<g><title>{}: {}, {:.2f} %</title><circle class="dot {}{}" cx="{}" cy="{}" r="6"/>{}</g>').format(
        point.engine, point.shape, point.wer, point.colour, hollow, decimal(cx), decimal(cy), number
    )


def sqnr_stems(tensors: Mapping[str, TensorScale]) -> Markup:
    """SQNR of each activation tensor in graph order, the worst numbered; empty when none was measured."""
    measured = [(name, scale.sqnr_db) for name, scale in tensors.items() if math.isfinite(scale.sqnr_db)]
    if not measured:
        return Markup("")
    values = [value for _, value in measured]
    floor, ceiling = 10 * math.floor(min(values) / 10), 10 * math.floor(max(values) / 10 + 1)
    x = Axis(-1.0, float(len(values)), 52.0, WIDTH - 12.0)
    y = Axis(float(min(floor, 10)), float(ceiling), 250.0, 16.0)
    worst = sorted(range(len(values)), key=values.__getitem__)[:WORST]
    spots = free_spots([(x(index), y(values[index]) - 8) for index in worst])
    numbers = [placed_text(*spot, str(rank), "rank mid") for rank, spot in enumerate(spots, start=1)]
    parts = [horizontal_line(y, tick, 52, WIDTH - 12, f"{tick:g} dB") for tick in linear_ticks(y.low, y.high, 10.0)]
    for index, (name, value) in enumerate(measured):
        parts.append(stem(name, value, (x(index), y(value), y(y.low)), "warn" if index in worst else "s1"))
    parts += numbers
    parts.append(placed_text(52, 274, "input", "tick"))
    parts.append(placed_text(WIDTH - 12, 274, "output", "tick end"))
    parts.append(
        placed_text((52 + WIDTH - 12) / 2, 274, f"{len(measured)} activation tensors in graph order", "tick mid")
    )
    return picture(284, "SQNR per activation tensor", parts)


def range_scatter(pairs: Sequence[RangePair]) -> Markup:
    """Range from synthetic features against range from real audio, log-log, with the factor-of-two band.

    Args:
        pairs: tensor, amax from real audio, amax from synthetic features; both positive.
    """
    if not pairs:
        return Markup("")
    values = [value for _, *point in pairs for value in point]
    low, high = min(values) / 1.4, max(values) * 1.4
    x, y = Axis(low, high, 64.0, 544.0, log=True), Axis(low, high, 496.0, 16.0, log=True)
    ticks = log_ticks(low, high)
    parts = [vertical_line(x, tick, 16, 496, f"{tick:g}") for tick in ticks]
    parts += [horizontal_line(y, tick, 64, 544, f"{tick:g}") for tick in ticks]
    parts.append(band(x, y, low, high))
    parts += [range_dot(name, x, y, real, made) for name, real, made in pairs]
    parts.append(placed_text(304, 538, "amax from real audio", "label mid"))
    parts.append(upright_label(14, 256, "amax from synthetic features"))
    return picture(548, "Activation ranges: synthetic features against real audio", parts, width=560.0)


def range_dot(name: str, x: Axis, y: Axis, real: float, made: float) -> Markup:
    """A tensor's range from audio against that from synthetic features; coloured where they are far apart."""
    colour = "s1" if 0.5 <= made / real <= 2.0 else "warn"
    return Markup(
        '<circle class="point {}" cx="{}" cy="{}" r="4"><title>{}: audio {:.3g}, synthetic {:.3g}</title></circle>'
    ).format(colour, decimal(x(real)), decimal(y(made)), name, real, made)


def free_spots(spots: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The spots, each raised until it is clear of those before it."""
    free: list[tuple[float, float]] = []
    for x, wanted in spots:
        y = wanted
        while any(abs(x - other[0]) < 10 and abs(y - other[1]) < 14 for other in free):
            y -= 7
        free.append((x, y))
    return free


def stem(name: str, value: float, at: tuple[float, float, float], colour: str) -> Markup:
    """A vertical line from the axis with a dot at its end."""
    x, top, bottom = at
    return Markup(
        '<g><title>{}: {:.1f} dB</title><path class="stem {}" d="M{} {}V{}"/>'
        '<circle class="{}" cx="{}" cy="{}" r="3"/></g>'
    ).format(name, value, colour, decimal(x), decimal(bottom), decimal(top), colour, decimal(x), decimal(top))


def band(x: Axis, y: Axis, low: float, high: float) -> Markup:
    """The diagonal (equal ranges) and the area within a factor of two of it, clipped to the plot."""
    corners = [(low, low), (low, low * 2), (high / 2, high), (high, high), (high, high / 2), (low * 2, low)]
    if high <= low * 2:
        corners = [(low, low), (low, high), (high, high), (high, low)]
    points = " ".join(f"{decimal(x(a))},{decimal(y(b))}" for a, b in corners)
    return Markup('<polygon class="band" points="{}"/><path class="diagonal" d="M{} {}L{} {}"/>').format(
        points, decimal(x(low)), decimal(y(low)), decimal(x(high)), decimal(y(high))
    )


def linear_ticks(low: float, high: float, step: float | None = None) -> list[float]:
    """Multiples of a step within the limits; without one, of 1, 2 or 5 times a power of ten, about six of them."""
    if step is None:
        rough = (high - low) / 6
        magnitude = 10 ** math.floor(math.log10(rough))
        step = next(magnitude * m for m in (1, 2, 5, 10) if magnitude * m >= rough)
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 steps within the limits; whole decades when these would crowd."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**d for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high]
    return ticks if len(ticks) <= 6 else [t for t in ticks if math.log10(t).is_integer()]


def vertical_line(axis: Axis, tick: float, top: float, bottom: float, label: str) -> Markup:
    """A grid line with its label below."""
    x = decimal(axis(tick))
    return Markup('<path class="grid" d="M{} {}V{}"/>{}').format(
        x, decimal(top), decimal(bottom), placed_text(axis(tick), bottom + 16, label, "tick mid")
    )


def horizontal_line(axis: Axis, tick: float, left: float, right: float, label: str) -> Markup:
    """A grid line with its label to the left."""
    y = axis(tick)
    return Markup('<path class="grid" d="M{} {}H{}"/>{}').format(
        decimal(left), decimal(y), decimal(right), placed_text(left - 6, y + 4, label, "tick end")
    )


def placed_text(x: float, y: float, text: str, style: str) -> Markup:
    """Text at a place, in a class of the page's style."""
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(style, decimal(x), decimal(y), text)


def upright_label(x: float, y: float, text: str) -> Markup:
    """Centred text that reads upwards."""
    return Markup('<g transform="rotate(-90 {} {})">{}</g>').format(
        decimal(x), decimal(y), placed_text(x, y, text, "label mid")
    )


def decimal(value: float) -> str:
    """A finite SVG number with one decimal."""
    if not math.isfinite(value):
        raise ValueError(f"a picture got the coordinate {value}")
    return f"{value:.1f}"


def picture(height: float, title: str, parts: Sequence[Markup], width: float = WIDTH) -> Markup:
    """The whole picture, as wide as the page lets it be; the title is read to those who cannot see it."""
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        decimal(width), decimal(height), title, Markup("").join(parts)
    )
