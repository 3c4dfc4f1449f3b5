"""The pipeline: checkpoint -> ONNX -> scale table -> Q/DQ graphs -> engines -> measured report."""

import copy
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from trtasr.audio.manifest import read_manifest
from trtasr.bench.wer import Prepared
from trtasr.bundle import check_replaceable, staged
from trtasr.calibrate import (
    calibration_features,
    calibration_settings,
    committed_table,
    mel_rows,
    table_from_features,
    writable,
    write_table,
)
from trtasr.checkpoint.nemo import Checkpoint, read_nemo
from trtasr.controls import METHODS, run_controls
from trtasr.engine.compare import compare
from trtasr.errors import UsageError
from trtasr.evaluate import feeds, latencies, prepare, word_error_rate
from trtasr.graph.center import center
from trtasr.graph.check import assert_parity, run_graph
from trtasr.graph.export import export_onnx, fold_batchnorm
from trtasr.lower import FP32, Lowered, build_engine, lower, resolve_targets, save
from trtasr.models.load import build_model
from trtasr.quant.synthesize import speech_shaped_noise
from trtasr.recipe import Recipe
from trtasr.records import Record, write_record
from trtasr.values import BenchResult, Comparison, Engine, ScaleTable

logger = logging.getLogger(__name__)

PARITY = 1e-4  # largest difference of log-probabilities between the module in float64 and the FP32 graph
PARITY_FACTOR = 4  # ... or this times torch's own float32 rounding, where that is more,
LARGEST_PARITY = 1e-3  # but never more than this
COMPARED_UTTERANCES = 8
BENCHMARKED = {"fp32", "cpu"}  # what can be timed on a machine without a T4
STAGES = ("read checkpoint", "read utterances", "export", "calibrate: scale table", "center, prove parity",
          "lower: Q/DQ and target graphs", "build engines", "measure WER and latency", "compare through Polygraphy",
          "calibration controls (with --controls)", "write records and report")  # fmt: skip
NOTES = {"t4-rtx": "Q/DQ graph, ONNX Runtime"}


@dataclass(frozen=True)
class Options:
    """How to compile, beyond the recipe.

    Attributes:
        out: bundle folder.
        calib: folder of committed scale tables.
        controls: also calibrate by noise and by real audio, and show all three.
        recalibrate: ignore the committed table.
    """

    out: Path
    calib: Path = Path("calib")
    controls: bool = False
    recalibrate: bool = False


def compile_recipe(recipe: Recipe, options: Options) -> Record:
    """Compile one recipe into a bundle and measure it.

    The bundle appears at ``options.out`` only when every stage has succeeded; a missed WER gate still leaves the
    bundle, marked FAILED.

    Returns:
        what was built and measured; ``problems`` is empty when every gate holds.

    Raises:
        TrtasrError: bad input (2), broken numbers (3), a missing library (4), a refused graph (5).
    """
    started = time.monotonic()
    check_replaceable(options.out)
    targets = resolve_targets(recipe.engine.target)
    checkpoint = read_nemo(Path(recipe.checkpoint))
    model = build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    utterances = read_utterances(recipe, checkpoint, options)
    with staged(options.out) as folder, tempfile.TemporaryDirectory() as scratch:
        exported = Path(scratch) / FP32
        export_onnx(fold_batchnorm(model), exported, mel_rows(checkpoint.frontend))
        tables = scale_tables(recipe, options, checkpoint, model, exported)
        table = tables[recipe.calibration.method]
        save(center(onnx.load(exported), table.offsets), folder / FP32)
        parity = prove_parity(model, folder / FP32, mel_rows(checkpoint.frontend))
        lowered = [lower(folder, table, target, recipe.quantization.exclude) for target in targets]
        engines = [build_engine(folder, x, recipe.engine, checkpoint.frontend.frames_per_second) for x in lowered]
        results = measure(folder, recipe, checkpoint, lowered, engines, utterances)
        comparison = compare_first(folder, lowered[0], utterances, checkpoint)
        controls = run_controls(exported, tables, recipe, utterances, checkpoint) if options.controls else ()
        record = Record(recipe, checkpoint, tables, tuple(lowered), tuple(engines), tuple(results), comparison,
                        controls, parity, time.monotonic() - started)  # fmt: skip
        write_record(folder, record)
    return record


def read_utterances(recipe: Recipe, checkpoint: Checkpoint, options: Options) -> list[Prepared]:
    """Features of the evaluation manifest; empty without one.

    Raises:
        AudioError: a broken manifest or recording. UsageError: controls without a manifest.
    """
    if recipe.evaluation.manifest:
        return prepare(read_manifest(Path(recipe.evaluation.manifest)), checkpoint.frontend)
    if options.controls:
        raise UsageError("--controls compares WER and needs speech", "add --manifest FILE")
    logger.warning("no manifest: WER is not measured; add --manifest FILE")
    return []


def prove_parity(model: nn.Module, path: Path, rows: int) -> float:
    """Prove that the FP32 graph, batch norm folded and channels centered, computes what the checkpoint computes.

    The reference is the unfolded module in float64. The graph may be off by 1e-4, or by `PARITY_FACTOR` times what
    torch itself is off in float32 where the network amplifies rounding more than that.

    Returns:
        largest difference of the log-probabilities of a mixed-length batch, over valid frames.

    Raises:
        QualityError: it is larger, or output lengths differ.
    """
    generator = torch.Generator().manual_seed(0)
    features, lengths = torch.randn(2, rows, 217, generator=generator), torch.tensor([217, 96])
    with torch.no_grad():
        log_probs, frames = copy.deepcopy(model).double()(features.double(), lengths)
        single, _ = model(features, lengths)
    found = run_graph(path, {"features": features.numpy(), "lengths": lengths.numpy()})
    assert_parity({"output_lengths": frames.numpy()}, {"output_lengths": found["output_lengths"]}, 0)
    exact, torch32, graph = (np.concatenate([x[item, :count] for item, count in enumerate(frames.tolist())])
                             for x in (log_probs.numpy(), single.numpy(), found["log_probs"]))  # fmt: skip
    rounding, found_difference = float(np.abs(torch32 - exact).max()), float(np.abs(graph - exact).max())
    assert_parity({"log_probs": exact}, {"log_probs": graph},
                  max(PARITY, min(PARITY_FACTOR * rounding, LARGEST_PARITY)))  # fmt: skip
    if found_difference > PARITY:
        logger.warning("FP32 graph is off by %.1e in log-probability (torch in float32: %.1e): this network amplifies "
                       "float32 rounding", found_difference, rounding)  # fmt: skip
    return found_difference


def scale_tables(recipe: Recipe, options: Options, checkpoint: Checkpoint, model: nn.Module,
                 exported: Path) -> dict[str, ScaleTable]:  # fmt: skip
    """Scale table of the recipe's calibration method, and of the controls when they are asked for.

    A committed table made with the same checkpoint and settings is used as it is.
    """
    settings = calibration_settings(recipe, checkpoint)
    tables = {}
    for method in METHODS if options.controls else (recipe.calibration.method,):
        ours = method == recipe.calibration.method
        table = committed_table(options.calib, recipe.name, settings) if ours and not options.recalibrate else None
        if table is None:
            features = calibration_features(method, recipe, checkpoint, model)
            table = table_from_features(exported, features, recipe.quantization, settings if ours else {})
        tables[method] = table
    return tables


def calibrate_recipe(recipe: Recipe, options: Options) -> tuple[ScaleTable, Path, Path]:
    """Make the recipe's scale table anew and write it to the calibration folder, as JSON and as a TensorRT cache.

    Returns:
        the table and the two files.
    """
    folder = writable(options.calib)
    checkpoint = read_nemo(Path(recipe.checkpoint))
    model = build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    with tempfile.TemporaryDirectory() as scratch:
        exported = Path(scratch) / FP32
        export_onnx(fold_batchnorm(model), exported, mel_rows(checkpoint.frontend))
        features = calibration_features(recipe.calibration.method, recipe, checkpoint, model)
        settings = calibration_settings(recipe, checkpoint)
        table = table_from_features(exported, features, recipe.quantization, settings)
    return table, *write_table(folder, recipe.name, table)


def measure(folder: Path, recipe: Recipe, checkpoint: Checkpoint, lowered: Sequence[Lowered],
            engines: Sequence[Engine], utterances: list[Prepared]) -> list[BenchResult]:  # fmt: skip
    """WER of every engine's graph and latency of those this machine can run, from one run.

    The WER of a T4 plan is that of its Q/DQ graph in ONNX Runtime; no latency is given for a device that is not here.
    """
    graphs = {"fp32": FP32, **{item.target: item.reference for item in lowered}}
    sizes = {"fp32": (folder / FP32).stat().st_size, **{engine.target: engine.size_bytes for engine in engines}}
    here = {target: folder / graph for target, graph in graphs.items() if target in BENCHMARKED}
    speed = latencies(here, checkpoint.frontend, recipe.evaluation, mel_rows(checkpoint.frontend))
    results = []
    for target, graph in graphs.items():
        wer = None
        if utterances:
            wer = word_error_rate(folder / graph, utterances, checkpoint.vocabulary, recipe.evaluation.batch)
        label = "fp32 (reference)" if target == "fp32" else f"int8 {target}"
        results.append(BenchResult(label, target, sizes[target], speed.get(target, ()), wer,
                                   NOTES.get(target, "") if wer else ""))  # fmt: skip
    return results


def compare_first(folder: Path, lowered: Lowered, utterances: Sequence[Prepared], checkpoint: Checkpoint) -> Comparison:
    """Polygraphy comparison of FP32 with the first target's graph: on speech, else on speech-shaped noise."""
    pairs, kind = feeds(utterances[:COMPARED_UTTERANCES]), "audio"
    if not pairs:
        shape = (2, mel_rows(checkpoint.frontend), round(5 * checkpoint.frontend.frames_per_second))
        made = speech_shaped_noise(shape, torch.Generator().manual_seed(0)).numpy()
        pairs, kind = [(made, np.full(2, shape[2], np.int64))], "synthetic"
    return compare(folder / FP32, folder / lowered.reference, pairs, folder, ("fp32", f"int8-{lowered.target}"), kind)
