"""Mixed precision under a budget: the layers that hurt most stay in floating point until the budget holds."""

import glob
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx
from tqdm import tqdm

from trtasr.bench.agreement import output_sqnr
from trtasr.files.scratch import scratch
from trtasr.graph.check import write_checked
from trtasr.graph.own_part import own_part, own_patterns
from trtasr.network.network import Exported, Files, outputs
from trtasr.pipeline.measure import usable_rate, word_error_rate
from trtasr.recipe import Recipe
from trtasr.results import Prepared
from trtasr.targets import Target
from trtasr.targets.place import Placed, place
from trtasr.values import Example, FloatArray, ScaleTable

logger = logging.getLogger(__name__)

RANKED_ON = 4  # utterances that a layer's damage is measured on


@dataclass(frozen=True)
class Trial:
    """What candidate graphs of one target are made from and judged by.

    Attributes:
        exported: FP32 graphs, centered.
        table: scales and corrected weights.
        recipe: its budget and exclusions.
        target: whose graphs are judged, as ONNX Runtime runs them.
        examples: calibration features, utterance by utterance.
    """

    exported: Exported
    table: ScaleTable
    recipe: Recipe
    target: Target
    examples: Sequence[Example]

    @cached_property
    def centered(self) -> list[onnx.ModelProto]:
        """The FP32 graphs."""
        return [onnx.load(file) for file in self.exported.files]

    @cached_property
    def tables(self) -> list[ScaleTable]:
        """The part of the table that belongs to each graph."""
        return [own_part(self.table, model) for model in self.centered]

    @cached_property
    def reference(self) -> list[FloatArray]:
        """The FP32 output of every utterance."""
        return outputs(self.exported.network, self.exported.files, self.examples)

    def placed(self, left: Sequence[str]) -> list[Placed]:
        """The target's graphs without the layers `left`."""
        patterns = own_patterns([*self.recipe.quantization.exclude, *map(glob.escape, left)], self.centered)
        parts = zip(self.centered, self.tables, patterns, strict=True)
        return [place(model, table, self.target, own) for model, table, own in parts]

    def written(self, left: Sequence[str], folder: Path) -> Files:
        """The same as files."""
        files = self.exported.network.files(folder, "onnx")
        for placed, file in zip(self.placed(left), files, strict=True):
            write_checked(placed.model, file)
        return files


def within_budget(trial: Trial, utterances: Sequence[Prepared]) -> tuple[str, ...]:
    """Names of the layers to leave in floating point so that the recipe's budget holds for one target.

    Layers of all parts are ranked by the damage each does alone to the output (log-probabilities, logits) on
    calibration features; no audio takes part in that. The fewest of the worst ones are left out, found by bisection, as
    more layers left out do no harm; with all of them left out the graphs are the FP32 ones, which keep every budget.
    """
    evaluation, network = trial.recipe.evaluation, trial.exported.network
    limit = evaluation.max_wer_increase
    if evaluation.mixed:
        limit += word_error_rate(network, trial.exported.files, utterances, evaluation).rate

    def holds(left: Sequence[str]) -> bool:
        with scratch() as folder:
            files = trial.written(left, folder)
            sqnr = output_sqnr(trial.reference, outputs(network, files, trial.examples))
            wer = usable_rate(network, files, utterances, evaluation) if evaluation.mixed else None
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
    """Quantized layers by the SQNR of the output when each alone is INT8, the worst first."""
    names = [item.node for placed in trial.placed(()) for item in placed.decisions if item.quantized]
    network, damage = trial.exported.network, {}
    with scratch() as folder:
        for name in tqdm(names, desc=f"sensitivity {trial.target.name}", unit="layer", disable=None):
            files = trial.written([other for other in names if other != name], folder)
            found = outputs(network, files, trial.examples[:RANKED_ON])
            damage[name] = output_sqnr(trial.reference[:RANKED_ON], found)
    return sorted(names, key=damage.__getitem__)
