"""What the run consists of, in order: the first questions, the baselines, then one variant after another."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trtasr.graph.trials import TRIALS
from trtasr.recipe import Recipe, from_dict, to_dict
from trtasr.targets import T4

# Changes of the recipe's engine section. The first variant decides whether the run passes; a further one is a line.
VARIANTS: Mapping[str, dict[str, Any]] = {
    "explicit": {},
    "explicit, 1-D": {"one_dimensional": True},
    "explicit, depthwise too": {"quantize_depthwise": True},
    "explicit, chains": {"chains": "on"},
    "explicit, without masks": {"unmasked_plan": True},
    "implicit, our scales": {"quantization": "implicit", "calibrator": "table"},
    "implicit, TensorRT's ranges": {"quantization": "implicit", "calibrator": "entropy"},
}
BASELINES = tuple(target.name for target in T4.baselines)
REFERENCE, BASE, STEPS = "fp32", "baselines", "steps"  # the FP32 graphs; folders below the run's
PREPARE, REFERENCE_WER = "prepare", "fp32: WER"


@dataclass(frozen=True)
class Step:
    """One process.

    Attributes:
        name: of the step.
        kind: what it does, as `trtasr.pipeline.acceptance.step.KINDS` names it.
        subject: a trial, a baseline, a variant, or the FP32 graphs.
        needs: steps without whose findings it is left out.
        uses: steps whose findings it takes where there are any.
    """

    name: str
    kind: str
    subject: str = ""
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """What a step's process is told.

    Attributes:
        kind, subject: of the step.
        recipe: with the changes of the variant.
        out: folder of the run; calib: of committed scale tables; folder: of the step, for evidence.
        given: names of steps -> what they found.
    """

    kind: str
    subject: str
    recipe: Recipe
    out: Path
    calib: Path
    folder: Path
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> Path:
        """Folder of the subject's graphs and plans."""
        return self.out / (BASE if self.subject in (REFERENCE, *BASELINES) else slug(self.subject))

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        paths = {name: str(getattr(self, name)) for name in ("out", "calib", "folder")}
        return {
            "kind": self.kind,
            "subject": self.subject,
            "recipe": to_dict(self.recipe),
            "given": dict(self.given),
            **paths,
        }


def request_of(data: Mapping[str, Any]) -> Request:
    """The request of `Request.to_json`."""
    recipe = from_dict(Recipe, data["recipe"], "the step's recipe")
    out, calib, folder = (Path(data[name]) for name in ("out", "calib", "folder"))
    return Request(data["kind"], data["subject"], recipe, out, calib, folder, data["given"])


def slug(name: str) -> str:
    """A name as that of a folder."""
    return re.sub(r"[^\w.]+", "-", name.replace("'", "")).strip("-")


def recipe_of(recipe: Recipe, subject: str = "") -> Recipe:
    """The recipe that a step is about: for ``t4``, with the changes of a variant."""
    return replace(recipe, engine=replace(recipe.engine, target=T4.name, **VARIANTS.get(subject, {})))


def planned(speech: bool) -> list[Step]:
    """All steps, in the order in which they run.

    Args:
        speech: there are utterances to measure WER on.
    """
    steps = [Step(f"trial: {name}", "trial", name) for name in TRIALS]
    steps.append(Step(PREPARE, PREPARE))
    if speech:
        steps.append(Step(REFERENCE_WER, "WER", REFERENCE, (PREPARE,)))
    steps += [Step(f"{name}: build", "baseline", name, (PREPARE,)) for name in BASELINES]
    for name in BASELINES:
        steps += measured(name, speech)
    for name in VARIANTS:
        steps += [Step(f"{name}: build", "variant", name, (PREPARE,)), *measured(name, speech), *examined(name, speech)]
    return steps


def measured(subject: str, speech: bool) -> Iterator[Step]:
    """Speed of a plan, a variant's in turns with those of the baselines; and its WER."""
    built = (f"{subject}: build",)
    others = () if subject in BASELINES else tuple(f"{name}: build" for name in BASELINES)
    yield Step(f"{subject}: latency", "latency", subject, built, others)
    if speech:
        yield Step(f"{subject}: WER", "WER", subject, built)


def examined(variant: str, speech: bool) -> Iterator[Step]:
    """What else is asked of a variant's plan."""
    built = (f"{variant}: build",)
    yield Step(f"{variant}: comparison", "comparison", variant, built)
    yield Step(f"{variant}: layer times", "layer times", variant, built)
    if speech and VARIANTS[variant].get("quantization") != "implicit":
        yield Step(f"{variant}: layer SQNR", "layer SQNR", variant, built)
    others = (
        PREPARE,
        REFERENCE_WER,
        *(f"{name}: {what}" for name in BASELINES for what in ("build", "latency", "WER")),
    )
    own = tuple(f"{variant}: {what}" for what in ("latency", "WER", "layer times"))
    yield Step(f"{variant}: bundle", "bundle", variant, (*built, f"{variant}: comparison"), (*others, *own))
