"""Mixed precision under a budget: the layers that hurt most stay in floating point until the budget holds."""

import glob
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx
from tqdm import tqdm

from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.engine.compare import output_sqnr
from trtasr.errors import RecipeError, UsageError
from trtasr.files.scratch import scratch
from trtasr.network.pair_run import texts_of
from trtasr.pipeline.controls import usable_rate
from trtasr.pipeline.evaluate import log_probs, word_error_rate
from trtasr.recipe import Recipe
from trtasr.results import Prepared
from trtasr.targets import Target
from trtasr.targets.place import Placed, place
from trtasr.values import FloatArray, IntArray, ScaleTable

logger = logging.getLogger(__name__)

RANKED_ON = 4  # utterances that a layer's damage is measured on


@dataclass(frozen=True)
class Trial:
    """What candidate graphs of one target are made from and judged by.

    Attributes:
        path: FP32 graph, centered.
        table: scales and corrected weights.
        recipe: its budget and exclusions.
        target: whose graph is judged, as ONNX Runtime runs it.
        feeds: calibration features, utterance by utterance.
    """

    path: Path
    table: ScaleTable
    recipe: Recipe
    target: Target
    feeds: Sequence[tuple[FloatArray, IntArray]]

    @cached_property
    def centered(self) -> onnx.ModelProto:
        """The FP32 graph."""
        return onnx.load(self.path)

    @cached_property
    def reference(self) -> list[FloatArray]:
        """Its log-probabilities of every utterance."""
        return log_probs(self.path, self.feeds)

    def placed(self, left: Sequence[str]) -> Placed:
        """The target's graph without the layers `left`."""
        return place(
            self.centered, self.table, self.target, [*self.recipe.quantization.exclude, *map(glob.escape, left)]
        )


def budgeted(recipe: Recipe) -> bool:
    """True when the recipe has a budget.

    Raises:
        UsageError: a budget on WER without speech to measure it on. RecipeError: one for implicit quantization.
    """
    evaluation = recipe.evaluation
    if evaluation.mixed and not evaluation.manifest:
        raise UsageError("--max-wer-drop measures WER and needs speech", "add --manifest FILE, or use --min-sqnr")
    wanted = evaluation.min_sqnr > 0 or evaluation.mixed
    if wanted and recipe.engine.quantization == "implicit":
        raise RecipeError(
            "a budget (--min-sqnr, --max-wer-drop) needs explicit quantization: with a calibrator it is "
            "TensorRT that chooses the layers",
            "leave out --quantization implicit",
        )
    return wanted


def within_budget(trial: Trial, utterances: Sequence[Prepared], checkpoint: Checkpoint) -> tuple[str, ...]:
    """Names of the layers to leave in floating point so that the recipe's budget holds for one target.

    Layers are ranked by the damage each does alone to the log-probabilities on calibration features; no audio takes
    part in that. The fewest of the worst ones are left out, found by bisection, as more layers left out do no harm;
    with all of them left out the graph is the FP32 one, which keeps every budget.
    """
    evaluation = trial.recipe.evaluation
    limit = evaluation.max_wer_increase
    if evaluation.mixed:
        limit += word_error_rate(trial.path, utterances, texts_of(checkpoint), evaluation).rate

    def holds(left: Sequence[str]) -> bool:
        with scratch() as folder:
            graph = written(trial, left, folder)
            sqnr = output_sqnr(trial.reference, log_probs(graph, trial.feeds))
            wer = usable_rate(graph, utterances, checkpoint, evaluation) if evaluation.mixed else None
        shown = "-" if wer is None else f"{wer:.2f} %"
        logger.info("%s, %d layers in floating point: %.1f dB, WER %s", trial.target.name, len(left), sqnr, shown)
        return sqnr >= evaluation.min_sqnr and (not evaluation.mixed or (wer is not None and wer <= limit + 1e-9))

    if holds(()):
        return ()
    ranked = ranked_layers(trial)
    left = tuple(ranked[: fewest(len(ranked), lambda count: holds(ranked[:count]))])
    logger.warning("%s: left in floating point to keep the budget: %s", trial.target.name, ", ".join(left))
    return left


def fewest(most: int, holds: Callable[[int], bool]) -> int:
    """Smallest count in 0..most for which a monotone condition holds; it holds for `most` and not for 0."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def ranked_layers(trial: Trial) -> list[str]:
    """Quantized layers by the SQNR of the log-probabilities when each alone is INT8, the worst first."""
    names = [item.node for item in trial.placed(()).decisions if item.quantized]
    damage = {}
    with scratch() as folder:
        for name in tqdm(names, desc=f"sensitivity {trial.target.name}", unit="layer", disable=None):
            graph = written(trial, [other for other in names if other != name], folder)
            found = log_probs(graph, trial.feeds[:RANKED_ON])
            damage[name] = output_sqnr(trial.reference[:RANKED_ON], found)
    return sorted(names, key=damage.__getitem__)


def written(trial: Trial, left: Sequence[str], folder: Path) -> Path:
    """The target's graph without the layers `left`, as a file."""
    onnx.save(trial.placed(left).model, folder / "trial.onnx")
    return folder / "trial.onnx"
