"""Calibration controls: the same pipeline calibrated by noise, by synthetic features and by real audio."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.engine.compare import layer_sqnr, ort_observer, output_sqnr
from trtasr.errors import QualityError
from trtasr.files.scratch import scratch
from trtasr.graph.center import center
from trtasr.graph.corrected import with_corrections
from trtasr.graph.edit import store
from trtasr.graph.own_part import own_part
from trtasr.network.pair_run import texts_of
from trtasr.pipeline.calibrate_pair import PairGraphs
from trtasr.pipeline.evaluate import feeds, word_error_rate
from trtasr.pipeline.lower_pair import split_excludes
from trtasr.pipeline.pair_speech import pair_logits, spoken_tokens
from trtasr.recipe import Evaluation, Recipe
from trtasr.results import Control, Prepared
from trtasr.targets import TARGETS
from trtasr.targets.place import place
from trtasr.values import ScaleTable

logger = logging.getLogger(__name__)

METHODS = ("noise", "synthetic", "audio")
LABELS = {"noise": "random noise", "synthetic": "synthetic (data-free)", "audio": "real audio"}
SQNR_UTTERANCES = 16
OUTPUT = ["log_probs"]


def run_controls(
    exported: Path,
    tables: Mapping[str, ScaleTable],
    recipe: Recipe,
    utterances: Sequence[Prepared],
    checkpoint: Checkpoint,
) -> tuple[Control, ...]:
    """Quantize the FP32 graph with each table and measure WER and SQNR on the same utterances.

    The graph is the Q/DQ graph of ``t4-rtx``, whatever targets are built; a control whose transcripts are useless has
    no WER, and that is a result.

    Args:
        exported: FP32 graph, not centered.
        tables: calibration method -> scale table.
        recipe: its excluded nodes and batch size.
        utterances: evaluation set.
        checkpoint: its vocabulary decodes the transcripts.
    """
    fp32 = onnx.load(exported)
    rows = []
    with scratch() as folder:
        for method in METHODS:
            graph = folder / f"{method}.onnx"
            table = tables[method]
            onnx.save(quantized_graph(fp32, table, recipe.quantization.exclude), graph)
            wer = usable_rate(graph, utterances, checkpoint, recipe.evaluation)
            pair = ort_observer(exported, OUTPUT), ort_observer(graph, OUTPUT)
            sqnr = layer_sqnr(*pair, OUTPUT, feeds(utterances[:SQNR_UTTERANCES]))["log_probs"]
            rows.append(Control(label(method, recipe), wer, sqnr))
    return tuple(rows)


def run_pair_controls(
    graphs: PairGraphs,
    tables: Mapping[str, ScaleTable],
    utterances: Sequence[Prepared],
    recipe: Recipe,
    checkpoint: Checkpoint,
) -> tuple[Control, ...]:
    """The same for an encoder-decoder; the SQNR is that of the logits on the tokens FP32 generates.

    Args:
        graphs: FP32.
        tables: calibration method -> scale table of both graphs.
        utterances: evaluation set.
        recipe: its excluded nodes and batch size.
        checkpoint: its vocabulary and rules.
    """
    rows = []
    spoken = spoken_tokens(graphs.encoder, feeds(utterances[:SQNR_UTTERANCES]), texts_of(checkpoint))
    exact = pair_logits(graphs.encoder, spoken)
    with scratch() as folder:
        for method in METHODS:
            quantized = quantized_pair(graphs, tables[method], recipe.quantization.exclude, folder / method)
            wer = usable_rate(quantized.encoder, utterances, checkpoint, recipe.evaluation)
            rows.append(Control(label(method, recipe), wer, output_sqnr(exact, pair_logits(quantized.encoder, spoken))))
    return tuple(rows)


def quantized_pair(graphs: PairGraphs, table: ScaleTable, exclude: Sequence[str], folder: Path) -> PairGraphs:
    """Both Q/DQ graphs of ``t4-rtx`` for any table, written to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = graphs.encoder, graphs.decoder
    for path, patterns in zip(paths, split_excludes(exclude, paths), strict=True):
        model = onnx.load(path)
        store(quantized_graph(model, own_part(table, model), patterns), folder / path.name)
    return PairGraphs(folder / paths[0].name, folder / paths[1].name)


def quantized_graph(exported: onnx.ModelProto, table: ScaleTable, exclude: Sequence[str]) -> onnx.ModelProto:
    """The Q/DQ graph of ``t4-rtx`` for any table: centered, corrected, quantized.

    A table without activations is one of weights alone (`weight_only` of the recipe): its graph has no Q/DQ, but the
    table's weights.

    Args:
        exported: FP32 graph, not centered.
        table: scales, offsets and corrected weights.
        exclude: patterns of nodes that stay float.
    """
    centered = center(exported, table.offsets)
    if not table.activations:
        return with_corrections(centered, table, [node.name for node in centered.graph.node])
    return place(centered, table, TARGETS["t4-rtx"], exclude).model


def usable_rate(
    graph: Path, utterances: Sequence[Prepared], checkpoint: Checkpoint, settings: Evaluation
) -> float | None:
    """WER (CER without spaces between words) in percent; None for transcripts all empty or the same, and for NaN."""
    try:
        return word_error_rate(graph, utterances, texts_of(checkpoint), settings).rate
    except QualityError as error:
        logger.warning("control: %s", error.problem)
        return None


def label(method: str, recipe: Recipe) -> str:
    """The calibration method in words; says when real audio is the evaluation set itself."""
    if method == "audio" and not recipe.calibration.manifest:
        return f"{LABELS[method]} (the evaluation set itself)"
    return LABELS[method]
