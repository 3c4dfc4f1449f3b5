"""From what the steps found to results: the file that is sent back, a table, and whether the first variant passes."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from trtasr.pipeline.acceptance.findings import DONE, Findings, Outcome, step_json
from trtasr.pipeline.acceptance.steps import BASELINES, REFERENCE, REFERENCE_WER, VARIANTS, Step, planned
from trtasr.pipeline.gates import mean_ratio, missed_gates, speedups
from trtasr.pipeline.measure import compared
from trtasr.pipeline.record import bench_json, engine_json
from trtasr.recipe import Evaluation
from trtasr.report.table import align, measure_of, rate_delta, reference_rate
from trtasr.results import BenchResult, Engine, Latency, LayerRow, WerResult, kernel_counts, plain
from trtasr.targets import T4

PASSED, FAILED, INCOMPLETE = "PASSED", "FAILED", "INCOMPLETE"
DECIDING = ("variant", "latency", "WER", "comparison")  # kinds of steps without which nothing has passed


def layers_json(layers: Iterable[LayerRow]) -> dict[str, Any]:
    """A layer table, how many layers there are of each class (Reformat, Shuffle ...), and of each kind of kernel."""
    rows = list(layers)
    classes = dict(Counter(row.kind for row in rows).most_common())
    return {"layers": plain(rows), "layer_classes": classes, "kernels": kernel_counts(rows)}


@dataclass(frozen=True)
class View:
    """The findings of a run, read as results.

    Attributes:
        findings: of its steps.
        evaluation: the recipe's section, with the gates.
    """

    findings: Findings
    evaluation: Evaluation

    @property
    def steps(self) -> list[Step]:
        """All steps of the run."""
        return planned(bool(self.evaluation.manifest))

    def of(self, subject: str) -> dict[str, Outcome]:
        """Steps of a trial, a baseline or a variant, by the last part of their names, as far as they were run."""
        outcomes, steps = self.findings.outcomes, [step for step in self.steps if step.subject == subject]
        return {step.name.rpartition(": ")[2]: outcomes[step.name] for step in steps if step.name in outcomes}

    def found(self, subject: str, step: str) -> dict[str, Any]:
        """What a step found; nothing where it was not run."""
        outcome = self.of(subject).get(step)
        return outcome.found if outcome else {}

    def engine(self, subject: str) -> Engine | None:
        """What was built; None where nothing was."""
        found = self.found(subject, "build")
        return msgspec.convert(found["engine"], Engine) if "engine" in found else None

    def wer(self, subject: str) -> WerResult | None:
        """How well it recognizes; None where that was not measured."""
        found = self.found(subject, "WER").get("wer")
        return msgspec.convert(found, WerResult) if found else None

    def row(self, subject: str, variant: str) -> BenchResult | None:
        """Speed and WER of a baseline or a variant, its speed from the run of a variant where that has it."""
        engine = self.engine(subject)
        if engine is None:
            return None
        speed = {**self.speed(subject), **self.speed(variant)}
        note = self.found(subject, "WER").get("note", "")
        return BenchResult(
            engine.label,
            engine.target,
            engine.size_bytes,
            speed.get(engine.target, ()),
            self.wer(subject),
            note,
            engine.precision,
            engine.absent,
        )

    def speed(self, subject: str) -> dict[str, tuple[Latency, ...]]:
        """Target -> latencies that the step of a subject measured."""
        return msgspec.convert(self.found(subject, "latency").get("latencies", {}), dict[str, tuple[Latency, ...]])

    def results(self, variant: str) -> tuple[BenchResult, ...]:
        """FP32 first, then the baselines, then the variant, as far as they are there."""
        size = self.found(REFERENCE, "WER").get("size_bytes", 0)
        reference = BenchResult("fp32 (reference)", REFERENCE, size, (), self.wer(REFERENCE), precision="fp32")
        rows = [self.row(subject, variant) for subject in (*BASELINES, variant)]
        return compared([reference, *(row for row in rows if row)])

    def problems(self, variant: str) -> list[str]:
        """Missed gates in words."""
        outcomes = self.of(variant).values()
        told = [problem for outcome in outcomes for problem in outcome.found.get("problems", ())]
        return [*missed_gates(self.results(variant), self.evaluation), *told]

    def errors(self, variant: str) -> list[str]:
        """Steps that failed, and why."""
        return [f"{name}: {item.error.problem}" for name, item in self.of(variant).items() if item.error]

    def outcome(self, variant: str) -> str:
        """``PASSED``, ``FAILED``, or ``INCOMPLETE`` as long as nothing has failed and steps are missing."""
        names = [step.name for step in self.steps if step.subject == variant and step.kind in DECIDING]
        names += [REFERENCE_WER] * bool(self.evaluation.manifest)
        states = [self.findings.outcomes[name].state for name in names if name in self.findings.outcomes]
        if self.problems(variant) or any(state != DONE for state in states):
            return FAILED
        return PASSED if len(states) == len(names) else INCOMPLETE


def result_json(view: View, head: Mapping[str, Any]) -> dict[str, Any]:
    """All findings as JSON types.

    Args:
        view: of the findings.
        head: what the run is about.
    """
    first, trials = next(iter(VARIANTS)), [step for step in view.steps if step.kind == "trial"]
    return {
        **head,
        "outcome": view.outcome(first),
        "missing": [step.name for step in view.steps if not view.findings.settled(step)],
        "trials": [{"name": step.subject, **told(view.findings.outcomes.get(step.name))} for step in trials],
        "prepared": told(view.findings.outcomes.get("prepare")),
        "baselines": [subject_json(view, name) for name in BASELINES],
        "variants": [variant_json(view, name) for name in VARIANTS],
        "steps": [step_json(step, view.findings) for step in view.steps],
    }


def told(outcome: Outcome | None) -> dict[str, Any]:
    """What a step found, and why it ended if it failed."""
    return {"error": plain(outcome.error), **outcome.found} if outcome else {}


def subject_json(view: View, subject: str) -> dict[str, Any]:
    """What was built for a baseline or a variant: its facts, layers and kernels."""
    engine = view.engine(subject)
    seconds = sum(outcome.seconds for outcome in view.of(subject).values())
    found: dict[str, Any] = {"name": subject, "seconds": round(seconds, 1), "error": "; ".join(view.errors(subject))}
    if engine is None:
        return found
    row = view.row(subject, subject)
    return {
        **found,
        "engine": engine_json(engine),
        "fallback": [item.node for item in engine.decisions if item.rule == "fallback"],
        **layers_json(engine.layers),
        **view.found(subject, "layer times"),
        "bench": [bench_json(row)] if row else [],
        "gpu": view.found(subject, "latency").get("gpu", []),
    }


def variant_json(view: View, name: str) -> dict[str, Any]:
    """One variant's findings: what a baseline has, its gates, and what was compared with FP32."""
    return {
        **subject_json(view, name),
        "outcome": view.outcome(name),
        "problems": view.problems(name),
        "bench": [bench_json(row) for row in view.results(name)],
        "fidelity": view.found(name, "build").get("fidelity"),
        "comparison": view.found(name, "comparison").get("comparison"),
        "layer_sqnr_db": view.found(name, "layer SQNR").get("layer_sqnr_db", {}),
    }


def outcome_table(view: View) -> str:
    """One line per variant: WER (or CER), INT8 layers, speed over FP16 and FP32, or what went wrong."""
    measure = next((measure_of(view.results(name)) for name in VARIANTS if view.wer(name)), "WER")
    rows = [["variant", f"{measure} %", "delta", "INT8 layers", "x FP16", "x FP32", "lowest layer dB", ""]]
    rows += [table_row(view, name) for name in VARIANTS]
    return align(rows, right={1, 2, 3, 4, 5, 6})


def table_row(view: View, name: str) -> list[str]:
    """The cells of one variant; ``-`` for what is not known."""
    engine, results = view.engine(name), view.results(name)
    weighted = [layer for layer in engine.layers if layer.macs] if engine else []
    errors = [value for value in view.found(name, "layer SQNR").get("layer_sqnr_db", {}).values() if value is not None]
    return [
        name,
        *wer_cells(results),
        f"{sum(layer.int8 for layer in weighted)} of {len(weighted)}" if engine else "-",
        ratio_cell(results, "fp16"),
        ratio_cell(results, "fp32"),
        f"{min(errors):.1f}" if errors else "-",
        "; ".join([*view.problems(name), *(f"failed: {line.splitlines()[0]}" for line in view.errors(name))]),
    ]


def wer_cells(results: Sequence[BenchResult]) -> list[str]:
    """WER (CER where that is judged) of the INT8 plan and its difference to the FP32 graph."""
    for row in results:
        if row.target == T4.name and row.wer:
            delta = rate_delta(row, reference_rate(results))
            return [f"{row.wer.rate:.2f}", "-" if delta is None else f"{delta:+.2f}"]
    return ["-", "-"]


def ratio_cell(results: Sequence[BenchResult], over: str) -> str:
    """Geometric mean over all shapes of how many times INT8 is faster."""
    ratios = speedups(results, over)
    return f"{mean_ratio(ratios):.2f}" if ratios else "-"
