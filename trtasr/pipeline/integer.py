"""The integer-only graph of a network: written beside the engines, proved, and compared with FP32 and Q/DQ."""

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from tqdm import tqdm

from trtasr.audio.prepare import examples
from trtasr.bench.agreement import Scores
from trtasr.bench.paired import bootstrap_delta
from trtasr.engine.faults import model_errors
from trtasr.engine.sessions import OrtRunner, load_model
from trtasr.errors import QualityError, TrtasrError, UsageError
from trtasr.graph.check import write_checked
from trtasr.graph.integer import LOGITS_SCALE, LONGEST_FRAMES, integerize
from trtasr.graph.integer_proof import inspect_integer, prove
from trtasr.network.network import Exported
from trtasr.pipeline.compare import compared_utterances
from trtasr.pipeline.integer_codes import layer_steps, log_softmax
from trtasr.pipeline.measure import word_error_rate
from trtasr.pipeline.opened import Opened, layered_target, open_engine
from trtasr.quant.integer import IntegerExecutor
from trtasr.results import Difference, IntegerComparison, IntegerGraph, IntegerRow, Prepared, Proof, WerResult
from trtasr.targets.integer import INTEGER
from trtasr.targets.place import place
from trtasr.values import Array, Example, IntArray, ScaleTable

logger = logging.getLogger(__name__)

GRAPH = "model.integer.onnx"
REFERENCE = "model.integer.qdq.onnx"
FRAMES_PER_PRODUCT = 2**16  # of graphs without self-attention, which never sum over time
REPAIR = "compile the bundle again; if it stays, report the checkpoint and recipe"


def integer_only(graphs: Exported, table: ScaleTable) -> IntegerGraph | None:
    """Write the integer-only graph of a network of one part, and its fake-quantized twin, beside its FP32 graph.

    Excluded layers are INT8 here too: a graph with a floating-point layer would not be integer-only.

    Args:
        graphs: FP32, centered, in the bundle.
        table: scales, offsets and corrected weights.

    Returns:
        None for a network of several parts; with a warning, where an operator has no integer form or the proof fails.
    """
    source, *others = graphs.files
    if others:
        return None
    try:
        placed = place(onnx.load(source), table, INTEGER, [])
        graph = integerize(placed.fp32, table)
        proof = prove(graph, longest_of(graph))
    except TrtasrError as error:  # the engines do not need it
        logger.warning("no integer-only graph: %s", error.problem)
        return None
    write_checked(graph, source.with_name(GRAPH))
    write_checked(placed.model, source.with_name(REFERENCE))
    return IntegerGraph(GRAPH, REFERENCE, source.with_name(GRAPH).stat().st_size, proof)


def longest_of(graph: onnx.ModelProto) -> int:
    """Longest dynamic axis of an integer-only graph: frames of self-attention where it has one.

    Raises:
        QualityError: the file gives no positive number.
    """
    facts = {item.key: item.value for item in graph.metadata_props}
    found = facts.get(LONGEST_FRAMES, str(FRAMES_PER_PRODUCT))
    if not found.isdecimal() or int(found) < 1:
        raise QualityError(f"metadata {LONGEST_FRAMES}: {found!r:.40} is no number of frames", "compile again")
    return int(found)


def prove_bundle(path: Path) -> Proof:
    """Prove a bundle's integer-only graph again, from the file.

    Raises:
        UsageError: the bundle has none. BundleError: no bundle there, or a changed file. QualityError: no proof.
    """
    file = integer_files(open_engine(path))[0]
    graph = load_model(file)
    with model_errors(file):
        return prove(graph, longest_of(graph))


def integer_files(opened: Opened) -> tuple[Path, Path]:
    """The integer-only graph of a bundle and its Q/DQ reference, checked.

    Raises:
        UsageError: the bundle has none.
    """
    held = opened.bundle.sidecar.integer
    if not held:
        raise UsageError(
            f"{opened.bundle.path}: has no integer-only graph",
            "it is made for CTC models (QuartzNet, Jasper, Conformer); compile again",
        )
    graph, reference = opened.files((held.graph, held.reference))
    return graph, reference


def compare_integer(path: Path, manifests: Sequence[Path], limit: int | None) -> IntegerComparison:
    """Compare a bundle's integer-only graph with its FP32 and Q/DQ graphs on speech.

    All four graphs run in ONNX Runtime, the integer-only one also in the executor, which holds the sums of
    convolutions and matrix products against their proved bounds. Log-probabilities and tokens are compared over valid
    frames, each utterance alone.

    Args:
        path: bundle.
        manifests: speech; empty: the recipe's. With an utterance without transcript no WER is measured.
        limit: utterances at most; None: all.

    Raises:
        UsageError: a network of several parts, or a bundle without an integer-only graph; no speech to compare on.
        QualityError: NaN or infinity, another output length than FP32, a value that leaves its proved bound.
    """
    opened = open_engine(path)
    if len(opened.network.parts) > 1:
        raise UsageError(
            f"{path}: a network of several graphs; integer-only inference is for CTC models",
            "compare its layers with --layers",
        )
    integer, twin = integer_files(opened)
    target = layered_target(path)
    graphs = {
        "fp32 (reference)": opened.graphs("fp32")[0],
        f"Q/DQ {target}": opened.graphs(target)[0],
        "Q/DQ, every layer INT8": twin,
        "integer-only": integer,
    }
    items = compared_utterances(opened, target, manifests, sys.maxsize if limit is None else limit)
    with model_errors(f"{path}: integer-only against Q/DQ"):
        return compared(graphs, items, opened)


def compared(graphs: Mapping[str, Path], items: Sequence[Prepared], opened: Opened) -> IntegerComparison:
    """The same on prepared speech.

    Args:
        graphs: label -> graph: FP32, Q/DQ, Q/DQ with every layer in INT8, integer-only.
        items: prepared speech, an utterance with a frame among it.
        opened: bundle.
    """
    files, utterances = list(graphs.values()), examples(items)
    wers = scored(files, items, opened)
    found, same = against_fp32(files, utterances)
    return IntegerComparison(
        rows=rows(list(graphs), wers, found),
        over=tuple(
            Difference(label, wers[-1].rate - other.rate, bootstrap_delta(other, wers[-1]))
            for label, other in list(zip(graphs, wers, strict=False))[1:-1]
        ),
        layers=layer_steps(files[0], files[2], files[3], utterances),
        elements=same.elements,
        unequal=same.unequal,
        utterances=len(utterances),
        words=wers[0].words if wers else 0,
        measure=wers[0].measure if wers else "WER",
        normalizer=wers[0].normalizer if wers else "",
        frames=found[0].positions,
    )


def scored(graphs: Sequence[Path], items: Sequence[Prepared], opened: Opened) -> list[WerResult]:
    """WER of each graph; none without a transcript of every utterance."""
    if not all(item.text for item in items):
        return []
    settings = opened.recipe.evaluation
    return [word_error_rate(opened.network, [graph], items, settings) for graph in graphs]


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


def against_fp32(graphs: Sequence[Path], utterances: Iterable[Example]) -> tuple[list[Scores], Equality]:
    """Run all four graphs and the executor on one utterance after another.

    Raises:
        QualityError: NaN or infinity, another output length than FP32, a value that leaves its proved bound.
    """
    runs, same, found = [OrtRunner(graph) for graph in graphs], Equality(), [Scores() for _ in graphs]
    model = load_model(graphs[-1])
    execute, scale = executor(model), logits_scale(model)
    for item in tqdm(utterances, "executor", disable=None, unit="utt"):
        outputs = [run(item.features, item.lengths) for run in runs]
        same.add(execute(item.features, item.lengths), outputs[-1])
        *reals, logits = (
            valid_frames(graph, output, outputs[0][1]) for graph, output in zip(graphs, outputs, strict=True)
        )
        for total, values in zip(found[:-1], reals, strict=True):
            total.add(reals[0], values)
        found[-1].add(reals[0], log_softmax(logits, scale), logits.argmax(axis=-1))
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


def rows(labels: Iterable[str], wers: Sequence[WerResult], found: Sequence[Scores]) -> tuple[IntegerRow, ...]:
    """One row per graph, FP32 first; without WER results their columns are NaN and None."""
    made = []
    for index, (label, total) in enumerate(zip(labels, found, strict=True)):
        wer = wers[index].rate if wers else float("nan")
        delta = wer - wers[0].rate if wers else float("nan")
        interval = bootstrap_delta(wers[0], wers[index]) if wers and index else None
        made.append(IntegerRow(label, wer, delta, interval, total.sqnr_db, total.token_agreement))
    return tuple(made)
