"""Engine layers as the report shows them: precision shares, the layer table, what was kept out of INT8 and why."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from trtasr.report.table import coverage_line, decision_summary
from trtasr.results import Engine, Form, LayerRow, kernel_counts, kernel_kind

NO_WEIGHTS = "no weights"
COLOURS = {"INT8": "int8", "FP16": "fp16", "FP32": "fp32", "other": "other", NO_WEIGHTS: "glue"}
TYPES = {"FP32": {"float", "fp32", "float32"}, "FP16": {"half", "fp16", "float16"}}


class Share(NamedTuple):
    """A part of a stacked bar in percent; colour is its CSS class."""

    precision: str
    percent: float
    colour: str


class Row(NamedTuple):
    """One layer of the table: shares in percent; the rule that kept it out of INT8, and its reason in words."""

    name: str
    kind: str
    operands: str
    outputs: str
    int8: bool
    weighted: bool
    macs: float
    time: float
    kernel: str
    tactic: str
    nodes: tuple[str, ...]
    rule: str
    reason: str


class EngineView(NamedTuple):
    """One engine: heading, stacked bars and layer table; `timed` and `tactics` say whether it has those columns.

    `kernels` counts the layers by the kind of their kernel; empty where the builder tells no tactics. `forms` says what
    the builder has made of each form that was built; empty where there is but one.
    """

    target: str
    coverage: str
    kept: str
    macs: tuple[Share, ...]
    time: tuple[Share, ...]
    timed: bool
    tactics: bool
    kernels: str
    forms: tuple[str, ...]
    rows: tuple[Row, ...]


class Skipped(NamedTuple):
    """Nodes of one target that one rule kept out of INT8."""

    target: str
    rule: str
    reason: str
    nodes: tuple[str, ...]


class Lint(NamedTuple):
    """Layers of one target whose FP16 arithmetic comes near the format's limits."""

    target: str
    subnormal: tuple[str, ...]
    overflowing: tuple[str, ...]


def precision(layer: LayerRow) -> str:
    """``INT8``, ``FP32`` or ``FP16`` (the widest operand decides), ``other`` for a type that is none of these."""
    if layer.int8:
        return "INT8"
    operands = {operand.lower() for operand in layer.operands}
    return next((name for name, words in TYPES.items() if operands & words), "other")


def mac_shares(layers: Iterable[LayerRow]) -> tuple[Share, ...]:
    """Share of each precision in the multiply-accumulates of the layers with weights."""
    return shares((precision(layer), layer.macs) for layer in layers)


def time_shares(layers: Iterable[LayerRow]) -> tuple[Share, ...]:
    """Share of each precision in the engine's time; layers without weights apart. Empty where layers were not timed."""
    return shares((precision(layer) if layer.macs else NO_WEIGHTS, layer.time_share) for layer in layers)


def shares(amounts: Iterable[tuple[str, float]]) -> tuple[Share, ...]:
    """Percent of a sum by name, in the order of `COLOURS`."""
    sums: defaultdict[str, float] = defaultdict(float)
    for name, amount in amounts:
        sums[name] += amount
    total = sum(sums.values())
    return tuple(Share(name, 100 * sums[name] / total, colour) for name, colour in COLOURS.items() if sums[name])


def engine_view(engine: Engine) -> EngineView:
    """Everything the page shows of one engine's layers; nothing was decided about a baseline."""
    layers, decisions, reasons = engine.layers, engine.decisions, engine.reasons
    rules = {decision.node: decision.rule for decision in decisions if not decision.quantized}
    total = max(1, sum(layer.macs for layer in layers))
    return EngineView(
        target=engine.target,
        coverage=coverage_line(engine.target, layers),
        kept=decision_summary(engine) if decisions else "",
        macs=mac_shares(layers),
        time=time_shares(layers),
        timed=any(layer.time_share > 0 for layer in layers),
        tactics=any(layer.tactic for layer in layers),
        kernels=kernels(layers),
        forms=tuple(map(form_line, engine.forms)) if len(engine.forms) > 1 else (),
        rows=tuple(row_of(layer, total, rules, reasons) for layer in layers),
    )


def kernels(layers: Sequence[LayerRow]) -> str:
    """How many layers run which kind of kernel, in words; empty where no tactic is known."""
    if not any(layer.tactic for layer in layers):
        return ""
    return "kernels: " + ", ".join(f"{count} {kind}" for kind, count in kernel_counts(layers).items())


def form_line(form: Form) -> str:
    """One form of an engine that was built in several."""
    counts = form.counts
    return (
        f"{form.name}{' (this engine)' if form.chosen else ''}: {counts.kernels} kernels, {counts.int8} of them INT8, "
        f"{counts.written} of these INT8 to INT8; {counts.reformats} reformats, {counts.shuffles} shuffles, "
        f"{counts.pairs} Q/DQ kernels"
    )


def row_of(layer: LayerRow, total: int, rules: Mapping[str, str], reasons: Mapping[str, str]) -> Row:
    """One layer of an engine, as a row of the table.

    Args:
        layer: as the builder tells.
        total: multiply-accumulates of all layers.
        rules: ONNX node -> the rule that kept it out of INT8.
        reasons: rule -> its reason.
    """
    kept = dict.fromkeys(rules[node] for node in layer.onnx_nodes if node in rules) if layer.macs else {}
    return Row(
        name=layer.name,
        kind=layer.kind,
        operands=" x ".join(layer.operands),
        outputs=", ".join(layer.outputs),
        int8=layer.int8,
        weighted=bool(layer.macs),
        macs=100 * layer.macs / total,
        time=100 * layer.time_share,
        kernel=kernel_kind(layer),
        tactic=layer.tactic,
        nodes=layer.onnx_nodes,
        rule=", ".join(kept),
        reason="; ".join(reasons[rule] for rule in kept if rule in reasons),
    )


def skipped(engines: Iterable[Engine]) -> list[Skipped]:
    """Nodes that stayed out of INT8, by target and rule, the most frequent rule first."""
    found = []
    for engine in engines:
        rules: defaultdict[str, list[str]] = defaultdict(list)
        for decision in engine.decisions:
            if not decision.quantized:
                rules[decision.rule].append(decision.node)
        ordered = sorted(rules.items(), key=lambda pair: -len(pair[1]))
        found += [Skipped(engine.target, rule, engine.reasons.get(rule, ""), tuple(nodes)) for rule, nodes in ordered]
    return found


def lints(engines: Iterable[Engine]) -> list[Lint]:
    """FP16 lint per target that was examined, whether or not anything was found."""
    return [Lint(engine.target, engine.subnormal, engine.overflowing) for engine in engines if engine.linted]
