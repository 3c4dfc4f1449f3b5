"""Plain-text and JSON forms of integer-only inference: its proof, and how it compares with FP32 and Q/DQ."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from trtasr.report.table import align, format_db, format_delta, format_wer
from trtasr.results import Accumulator, IntegerComparison, IntegerRow, LayerSteps, Proof, plain

SHOWN = 12  # rows of a table that is not shown whole
LONG = 63  # bits of an int64
FEW = 4  # names that a sentence lists
WIDTH = 110  # of a wrapped paragraph


def proof_text(proof: Proof, show_all: bool) -> str:
    """The proof: float tensors (there should be none), boundary, operators, and how far each sum is from overflow.

    Args:
        proof: of an integer-only graph.
        show_all: every accumulator instead of those with the least headroom.
    """
    operators = ", ".join(f"{count}\xa0{name}" for name, count in proof.operators.items())  # no line ends in a count
    paragraph = textwrap.fill(f"operators: {operators}", WIDTH, subsequent_indent="  ").replace("\xa0", " ")
    lines = [f"float tensors between the quantized input and the logits: {len(proof.floats)} of {proof.tensors}"]
    if proof.floats:
        lines.append(f"not integer: {few(proof.floats)}")
    lines += [f"quantized at: {', '.join(proof.boundary) or '-'}", paragraph, ""]
    if sums := [item for item in proof.accumulators if show_all or item.capacity < LONG]:
        lines += [
            "sums, the least headroom first; no input makes one larger than its bound:",
            *accumulator_lines(sums, show_all),
        ]
    if len(sums) < len(proof.accumulators):
        longer = [item for item in proof.accumulators if item.capacity >= LONG]
        lines.append(
            f"{len(longer)} sums in int64, of attention and layer norms: at most "
            f"{max(item.bits for item in longer)} of {LONG} bits (--all)"
        )
    lines.append(f"premises: lengths below 2^31, no axis that is summed over longer than {proof.longest}")
    lines.append(f"largest value of any other int32 or int64 tensor: {proof.widest} bits")
    return "\n".join(lines)


def accumulator_lines(accumulators: Sequence[Accumulator], show_all: bool) -> list[str]:
    """Table of sums: bound as a power of two and as a number, bits of the type, bits that no input reaches."""
    worst = sorted(accumulators, key=lambda item: item.capacity - bits_of(item.bound))
    shown = worst if show_all else worst[:SHOWN]
    rows = [["node", "operator", "products", "bound", "", "bits", "headroom"]]
    for item in shown:
        power = f"2^{bits_of(item.bound):.1f}" if item.bound else "-"
        rows.append(
            [item.node, item.op, str(item.products), power, str(item.bound), str(item.capacity), str(item.headroom)]
        )
    return [align(rows, right={2, 3, 4, 5, 6}), *hidden_line(len(worst) - len(shown))]


def proof_view(proof: Proof) -> dict[str, Any]:
    """What the HTML report shows of a proof: counts, and the sums with the least headroom."""
    worst = sorted(proof.accumulators, key=lambda item: item.capacity - bits_of(item.bound))
    worst = [item for item in worst if item.capacity < LONG]
    return {"floats": len(proof.floats), "tensors": proof.tensors, "sums": worst[:SHOWN]}


def integer_text(found: IntegerComparison, show_all: bool) -> str:
    """FP32, Q/DQ and integer-only side by side, the executor's verdict, and the codes layer by layer.

    Args:
        found: the comparison.
        show_all: every layer in graph order instead of those with the largest difference.
    """
    words = f"{found.words} words, normalizer {found.normalizer}" if found.words else "no transcripts"
    lines = [row_table(found.rows, found.measure), f"{found.utterances} utterances, {words}, {found.frames} frames"]
    lines += [
        f"integer-only against {item.graph}: {format_delta(item.points)} points of {found.measure}, 95 % "
        f"interval {format_interval(item.interval)}"
        for item in found.over
    ]
    lines += [
        f"executor against ONNX Runtime: {found.unequal} of {found.elements} logits differ "
        f"({found.utterances} utterances)",
        "",
        "8-bit codes that layers with weights read, integer-only against the Q/DQ graph with every layer in INT8",
        "(own: the layers before were given that graph's codes):",
        *layer_lines(found.layers, show_all),
        steps_sentence(found.layers),
    ]
    return "\n".join(lines)


def row_table(rows: Sequence[IntegerRow], measure: str = "WER") -> str:
    """One line per graph; the first is what the others are compared with."""
    cells = [["graph", f"{measure} %", "delta", "95 % interval", "SQNR dB", "tokens %"]]
    for index, row in enumerate(rows):
        compared = [
            format_delta(known_or_none(row.delta)),
            format_interval(row.interval),
            decibels(row.sqnr_db),
            f"{100 * row.token_agreement:.2f}",
        ]
        cells.append([row.graph, format_wer(known_or_none(row.wer)), *(compared if index else ["-"] * 4)])
    return align(cells, right={1, 2, 3, 4, 5})


def layer_lines(layers: Sequence[LayerSteps], show_all: bool) -> list[str]:
    """Table of layers: SQNR against FP32, codes that differ and by how many steps."""
    worst = sorted(layers, key=lambda layer: (-layer.largest, -percent_of(layer.differing, layer.codes)))
    shown = layers if show_all else worst[:SHOWN]
    rows = [["tensor", "Q/DQ dB", "integer dB", "differ %", "steps", "own %", "own steps"]]
    for layer in shown:
        rows.append(
            [
                layer.tensor,
                decibels(layer.qdq_sqnr_db),
                decibels(layer.integer_sqnr_db),
                f"{percent_of(layer.differing, layer.codes):.2f}",
                str(layer.largest),
                f"{percent_of(layer.own_differing, layer.codes):.3f}",
                str(layer.own_largest),
            ]
        )
    return [align(rows, right={1, 2, 3, 4, 5, 6}), *hidden_line(len(layers) - len(shown))]


def steps_sentence(layers: Sequence[LayerSteps]) -> str:
    """Which layers differ by more than one step: by themselves, and when differences add up."""
    own = [f"{layer.tensor} ({layer.own_largest})" for layer in layers if layer.own_largest > 1]
    first = (
        f"more than one step by themselves: {', '.join(own)}" if own else ("no layer adds more than one step by itself")
    )
    summed = [layer for layer in layers if layer.largest > 1]
    names = [f"{layer.tensor} ({layer.largest})" for layer in summed]
    if not summed:
        return f"{first}; none differs by more than one when differences add up"
    where = (
        f": {', '.join(names)}"
        if len(names) <= FEW
        else (f", first {names[0]}, at most {max(layer.largest for layer in summed)}")
    )
    return f"{first}; {len(summed)} of {len(layers)} differ by more than one when differences add up{where}"


def format_interval(interval: tuple[float, float] | None) -> str:
    """``-0.10 .. +0.20``; ``-`` for None."""
    return " .. ".join(map(format_delta, interval)) if interval else "-"


def decibels(value: float) -> str:
    """Decibels with one decimal; ``exact`` for no noise at all."""
    return "exact" if value == math.inf else format_db(value)


def proof_json(proof: Proof) -> dict[str, Any]:
    """The proof as plain values, with bits and headroom of every accumulator."""
    sums = [plain(item) | {"bits": item.bits, "headroom": item.headroom} for item in proof.accumulators]
    return {**plain(proof), "integer_only": proof.integer_only, "accumulators": sums}


def known_or_none(value: float) -> float | None:
    """None for NaN."""
    return None if math.isnan(value) else value


def percent_of(part: int, whole: int) -> float:
    """Percent."""
    return 100 * part / max(1, whole)


def bits_of(value: int) -> float:
    """The base-2 logarithm of a magnitude; 0 for 0."""
    return math.log2(value) if value else 0.0


def hidden_line(hidden: int) -> list[str]:
    """A line that says how many rows are not shown; none when all are."""
    return [f"... and {hidden} more (--all)"] if hidden > 0 else []


def few(names: Sequence[str]) -> str:
    """The first names, and how many there are besides."""
    rest = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + rest
