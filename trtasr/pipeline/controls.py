"""The calibration controls: the recipe's table beside those that random noise and real audio give."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from trtasr.audio.prepare import examples
from trtasr.bench.agreement import output_sqnr
from trtasr.bench.paired import word_disagreement
from trtasr.files.scratch import scratch
from trtasr.graph.center import center
from trtasr.graph.check import write_checked
from trtasr.graph.corrected import with_corrections
from trtasr.graph.own_part import own_part, own_patterns
from trtasr.network.network import Exported, Files, dictated, outputs
from trtasr.pipeline.measure import usable_result
from trtasr.recipe import LABELS, Recipe
from trtasr.results import BenchResult, Control, Prepared
from trtasr.targets import TARGETS
from trtasr.targets.place import place
from trtasr.values import ScaleTable

SQNR_UTTERANCES = 16


def run_controls(
    exported: Exported,
    tables: Mapping[str, ScaleTable],
    recipe: Recipe,
    utterances: Sequence[Prepared],
    fp32: BenchResult,
) -> tuple[Control, ...]:
    """Quantize the FP32 graphs with each table and measure WER, disagreement and SQNR on the same utterances.

    The graphs are the Q/DQ graphs of ``t4-rtx`` with static scales, which are what calibrations differ in, whatever
    targets are built and however they get their scales; a control whose transcripts are useless has no WER, and that is
    a result.

    Args:
        exported: FP32 graphs, not centered.
        tables: calibration method -> scale table.
        recipe: its excluded nodes and batch size.
        utterances: evaluation set.
        fp32: what full precision makes of it.
    """
    assert fp32.wer, "controls need speech"
    network, rows = exported.network, []
    said = dictated(network, exported.files, examples(utterances[:SQNR_UTTERANCES]))
    exact = outputs(network, exported.files, said)
    for method in LABELS:
        with scratch() as folder:
            files = quantized(exported, tables[method], recipe.quantization.exclude, folder)
            heard = usable_result(network, files, utterances, recipe.evaluation)
            sqnr = output_sqnr(exact, outputs(network, files, said))
        apart = word_disagreement(fp32.wer, heard) if heard else None
        rows.append(Control(recipe.label(method), heard.rate if heard else None, apart, sqnr))
    return tuple(rows)


def quantized(exported: Exported, table: ScaleTable, exclude: Sequence[str], folder: Path) -> Files:
    """The Q/DQ graphs of ``t4-rtx`` for any table, written to a folder."""
    files = exported.network.files(folder, "qdq.onnx")
    names = [onnx.load(file, load_external_data=False) for file in exported.files]
    for source, patterns, file in zip(exported.files, own_patterns(exclude, names), files, strict=True):
        write_checked(quantized_graph(onnx.load(source), table, patterns), file)
    return files


def quantized_graph(exported: onnx.ModelProto, table: ScaleTable, exclude: Sequence[str]) -> onnx.ModelProto:
    """The Q/DQ graph of ``t4-rtx``, scales static, for any table: centered, corrected, quantized.

    A table without activations is one of weights alone (`weight_only` of the recipe): its graph has no Q/DQ, but the
    table's weights.

    Args:
        exported: FP32 graph, not centered.
        table: scales, offsets and corrected weights, of this graph and others.
        exclude: patterns of nodes that stay float.
    """
    centered = center(exported, own_part(table, exported).offsets)
    own = own_part(table, centered)  # centering gives layers biases of their own
    if not own.activations:
        return with_corrections(centered, own, [node.name for node in centered.graph.node])
    return place(centered, own, TARGETS["t4-rtx"], exclude).model
