"""FP32, Q/DQ and integer-only side by side: WER, log-probabilities, codes layer by layer, and the executor."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from tqdm import tqdm

from trtasr.bench.wer import bootstrap_delta
from trtasr.engine.compare import Feed, sqnr_db
from trtasr.engine.compare_integer import layer_steps, log_softmax
from trtasr.engine.faults import model_errors
from trtasr.engine.sessions import OrtRunner, load_model
from trtasr.errors import QualityError, UsageError
from trtasr.graph.integer import LOGITS_SCALE
from trtasr.graph.integer_proof import inspect_integer
from trtasr.pipeline.evaluate import feeds
from trtasr.pipeline.integer_graph import integer_files, longest_of
from trtasr.pipeline.measure import word_error_rate
from trtasr.pipeline.opened import Opened, compared_utterances, layered_target, open_engine
from trtasr.quant.integer import IntegerExecutor
from trtasr.results import Difference, IntegerComparison, IntegerRow, Prepared, WerResult
from trtasr.values import Array, FloatArray, IntArray

FP32, QDQ, TWIN, INTEGER = range(4)  # the rows
REPAIR = "compile the bundle again; if it stays, report the checkpoint and recipe"


def compare_integer(path: Path, manifest: Path | None, limit: int | None) -> IntegerComparison:
    """Compare a bundle's integer-only graph with its FP32 and Q/DQ graphs on speech.

    All four graphs run in ONNX Runtime, the integer-only one also in the executor, which holds the sums of
    convolutions and matrix products against their proved bounds. Log-probabilities and tokens are compared over valid
    frames, each utterance alone.

    Args:
        path: bundle.
        manifest: speech; None: the recipe's. With an utterance without transcript no WER is measured.
        limit: utterances at most; None: all.

    Raises:
        UsageError: an encoder-decoder, or a bundle without an integer-only graph; no speech to compare on.
        QualityError: NaN or infinity, another output length than FP32, a value that leaves its proved bound.
    """
    opened = open_engine(path)
    if opened.texts.generation:
        raise UsageError(
            f"{path}: an encoder-decoder; integer-only inference is for CTC models", "compare its layers with --layers"
        )
    integer, twin = integer_files(path)
    target = layered_target(path)
    graphs = {
        "fp32 (reference)": opened.graph("fp32"),
        f"Q/DQ {target}": opened.graph(target),
        "Q/DQ, every layer INT8": twin,
        "integer-only": integer,
    }
    items = compared_utterances(opened, target, manifest, sys.maxsize if limit is None else limit)
    with model_errors(f"{path}: integer-only against Q/DQ"):
        return compared(graphs, items, opened)


def compared(graphs: Mapping[str, Path], items: Sequence[Prepared], opened: Opened) -> IntegerComparison:
    """The same on prepared speech.

    Args:
        graphs: label -> graph, in the order of the rows.
        items: prepared speech, an utterance with a frame among it.
        opened: bundle.
    """
    wers = scored(list(graphs.values()), items, opened)
    tallies, same = tallied(list(graphs.values()), feeds(items))
    files = list(graphs.values())
    return IntegerComparison(
        rows=rows(list(graphs), wers, tallies),
        over=tuple(
            difference(label, wers[row], wers[INTEGER])
            for row, label in enumerate(graphs)
            if row in (QDQ, TWIN) and wers
        ),
        layers=layer_steps(files[FP32], files[TWIN], files[INTEGER], feeds(items)),
        elements=same.elements,
        unequal=same.unequal,
        utterances=len(feeds(items)),
        words=wers[FP32].words if wers else 0,
        measure=wers[FP32].measure if wers else "WER",
        normalizer=wers[FP32].normalizer if wers else "",
        frames=tallies[FP32].frames,
    )


def difference(label: str, other: WerResult, integer: WerResult) -> Difference:
    """WER of integer-only minus that of another graph."""
    return Difference(label, integer.rate - other.rate, bootstrap_delta(other, integer))


def scored(graphs: Sequence[Path], items: Sequence[Prepared], opened: Opened) -> list[WerResult]:
    """WER of each graph; none without a transcript of every utterance."""
    if not all(item.text for item in items):
        return []
    return [word_error_rate(opened.network, (graph,), items, opened.recipe.evaluation) for graph in graphs]


@dataclass
class Tally:
    """Log-probabilities of one graph against FP32, summed over utterances.

    Attributes:
        signal: energy of FP32's; noise: of the difference.
        same: frames with FP32's token; frames: valid ones.
    """

    signal: float = 0.0
    noise: float = 0.0
    same: int = 0
    frames: int = 0

    def add(self, exact: FloatArray, found: FloatArray, tokens: IntArray) -> None:
        """Count one utterance in.

        Args:
            exact: FP32's log-probabilities [T', V + 1].
            found: this graph's log-probabilities, likewise.
            tokens: its most likely token of each frame, [T'].
        """
        self.signal += float(np.square(exact, dtype=np.float64).sum())
        self.noise += float(np.square(exact.astype(np.float64) - found).sum())
        self.same += int(np.count_nonzero(exact.argmax(axis=-1) == tokens))
        self.frames += len(exact)


@dataclass
class Equality:
    """The executor against ONNX Runtime: integers that both computed, and how many of them differ."""

    elements: int = 0
    unequal: int = 0

    def add(self, first: tuple[Array, Array], second: tuple[Array, Array]) -> None:
        """Count logits and output lengths of one utterance in; a wrong output length counts as one more difference."""
        self.elements += first[0].size
        self.unequal += sum(unequal(*pair) for pair in zip(first, second, strict=True))


def unequal(first: Array, second: Array) -> int:
    """How many integers differ; all of them where the shapes do."""
    if first.shape != second.shape:
        return max(first.size, second.size)
    return int(np.count_nonzero(first != second))


def tallied(graphs: Sequence[Path], inputs: Sequence[Feed]) -> tuple[list[Tally], Equality]:
    """Run all four graphs and the executor on one utterance after another.

    Raises:
        QualityError: NaN or infinity, another output length than FP32, a value that leaves its proved bound.
    """
    runs, same, found = [OrtRunner(graph) for graph in graphs], Equality(), [Tally() for _ in graphs]
    model = load_model(graphs[INTEGER])
    execute, scale = executor(model), logits_scale(model)
    for features, lengths in tqdm(inputs, "executor", disable=None, unit="utt"):
        outputs = [run(features, lengths) for run in runs]
        same.add(execute(features, lengths), outputs[INTEGER])
        valid = [valid_frames(graph, output, outputs[FP32][1]) for graph, output in zip(graphs, outputs, strict=True)]
        exact = valid[FP32]
        for index, (tally, values) in enumerate(zip(found, valid, strict=True)):
            reals = log_softmax(values, scale) if index == INTEGER else values
            tally.add(exact, reals, values.argmax(axis=-1))
    return found, same


def valid_frames(graph: Path, output: tuple[Array, Array], lengths: IntArray) -> Array:
    """Outputs [T', V + 1] of one utterance at the FP32 graph's output length.

    Raises:
        QualityError: NaN or infinity, or another output length.
    """
    if not np.array_equal(output[1], lengths):
        raise QualityError(f"{graph}: gives another output length than the FP32 graph", REPAIR)
    values: Array = output[0][0, : int(lengths[0])]
    if not np.isfinite(values).all():
        raise QualityError(f"{graph}: its output holds NaN or infinity", REPAIR)
    return values


def executor(model: onnx.ModelProto) -> IntegerExecutor:
    """The executor of an integer-only graph, with the proved bounds of its convolutions and matrix products."""
    proof = inspect_integer(model, longest_of(model))
    return IntegerExecutor(model, {item.node: item.bound for item in proof.accumulators})


def logits_scale(model: onnx.ModelProto) -> float:
    """Real value of one in the logits of an integer-only graph."""
    return float(next(item.value for item in model.metadata_props if item.key == LOGITS_SCALE))


def rows(labels: Iterable[str], wers: Sequence[WerResult], tallies: Sequence[Tally]) -> tuple[IntegerRow, ...]:
    """One row per graph, FP32 first; without WER results their columns are NaN and None."""
    found = []
    for index, (label, tally) in enumerate(zip(labels, tallies, strict=True)):
        wer = wers[index].rate if wers else float("nan")
        delta = wer - wers[FP32].rate if wers else float("nan")
        interval = bootstrap_delta(wers[FP32], wers[index]) if wers and index != FP32 else None
        found.append(
            IntegerRow(label, wer, delta, interval, sqnr_db(tally.signal, tally.noise), tally.same / tally.frames)
        )
    return tuple(found)
