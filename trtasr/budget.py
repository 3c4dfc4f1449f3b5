"""Mixed precision under a budget: the layers that hurt most stay in floating point until the budget holds."""

import glob
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from tqdm import tqdm

from trtasr.bench.wer import Prepared
from trtasr.checkpoint.nemo import Checkpoint
from trtasr.controls import quantized_graph, usable_wer
from trtasr.engine.compare import layer_sqnr, ort_observer
from trtasr.errors import UsageError
from trtasr.evaluate import word_error_rate
from trtasr.graph.qdq import decide
from trtasr.recipe import Recipe
from trtasr.targets import TARGETS
from trtasr.values import FloatArray, IntArray, ScaleTable

logger = logging.getLogger(__name__)

OUTPUT = ("log_probs",)
RANKED_ON = 4  # utterances that a layer's damage is measured on


@dataclass(frozen=True)
class Trial:
    """What candidate graphs are made from and judged by.

    Attributes:
        exported: FP32 graph, not centered.
        table: scales and corrected weights.
        recipe: its budget and exclusions.
        feeds: calibration features, utterance by utterance.
    """

    exported: Path
    table: ScaleTable
    recipe: Recipe
    feeds: Sequence[tuple[FloatArray, IntArray]] = ()

    @property
    def budgeted(self) -> bool:
        """True when the recipe has a budget."""
        return self.recipe.evaluation.min_sqnr > 0 or self.recipe.evaluation.mixed


def within_budget(trial: Trial, utterances: list[Prepared], checkpoint: Checkpoint) -> tuple[str, ...]:
    """Names of the layers to leave in floating point so that the recipe's budget holds.

    Layers are ranked by the damage each does alone to the log-probabilities on calibration features; no audio takes
    part in that. The fewest of the worst ones are left out, found by bisection, as more layers left out do no harm.

    Raises:
        UsageError: a budget on WER without speech to measure it on.
    """
    evaluation = trial.recipe.evaluation
    if evaluation.mixed and not utterances:
        raise UsageError("--max-wer-drop measures WER and needs speech", "add --manifest FILE, or use --min-sqnr")
    limit = evaluation.max_wer_increase
    if evaluation.mixed:
        limit += word_error_rate(trial.exported, utterances, checkpoint.vocabulary, evaluation.batch).wer

    def holds(left: Sequence[str]) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            graph = written(trial, left, Path(folder))
            sqnr = sqnr_of(trial, graph, trial.feeds)
            wer = usable_wer(graph, utterances, checkpoint, evaluation.batch) if evaluation.mixed else None
        shown = "-" if wer is None else f"{wer:.2f}"
        logger.info("%d layers in floating point: %.1f dB, WER %s", len(left), sqnr, shown)
        return sqnr >= evaluation.min_sqnr and (not evaluation.mixed or (wer is not None and wer <= limit + 1e-9))

    ranked = ranked_layers(trial) if not holds(()) else []
    left = tuple(ranked[: fewest(len(ranked), lambda count: holds(ranked[:count]))])
    if left:
        logger.warning("left in floating point to keep the budget: %s", ", ".join(left))
    return left


def fewest(most: int, holds: Callable[[int], bool]) -> int:
    """Smallest count in 0..most for which a monotone condition holds; `most` is taken to hold, 0 not to."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def ranked_layers(trial: Trial) -> list[str]:
    """Quantized layers by the SQNR of the log-probabilities when each alone is INT8, the worst first."""
    rules, exclude = TARGETS["t4-rtx"].rules, trial.recipe.quantization.exclude
    names = [item.node for item in decide(onnx.load(trial.exported), rules, exclude) if item.quantized]
    damage = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in tqdm(names, desc="sensitivity", unit="layer", disable=None):
            graph = written(trial, [other for other in names if other != name], Path(folder))
            damage[name] = sqnr_of(trial, graph, trial.feeds[:RANKED_ON])
    return sorted(names, key=damage.__getitem__)


def written(trial: Trial, left: Sequence[str], folder: Path) -> Path:
    """The Q/DQ graph without the layers `left`, as a file."""
    patterns = [*trial.recipe.quantization.exclude, *map(glob.escape, left)]
    onnx.save(quantized_graph(onnx.load(trial.exported), trial.table, patterns), folder / "trial.onnx")
    return folder / "trial.onnx"


def sqnr_of(trial: Trial, graph: Path, feeds: Sequence[tuple[FloatArray, IntArray]]) -> float:
    """SQNR of the log-probabilities in dB, against FP32."""
    pair = ort_observer(trial.exported, OUTPUT), ort_observer(graph, OUTPUT)
    return layer_sqnr(*pair, OUTPUT, feeds)["log_probs"]
