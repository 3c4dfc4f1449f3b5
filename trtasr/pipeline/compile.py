"""The pipeline: checkpoint -> ONNX -> scale table -> Q/DQ graphs -> engines -> measured report."""

import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from trtasr.bundle import check_replaceable, staged
from trtasr.engine.sessions import utterances as single_utterances
from trtasr.files.scratch import scratch
from trtasr.graph.center import center
from trtasr.graph.check import assert_parity, run_graph
from trtasr.graph.export import export_onnx, fold_batchnorm
from trtasr.graph.fits import check_fits
from trtasr.pipeline.budget import Trial, budgeted, within_budget
from trtasr.pipeline.calibrate import (
    calibration_features,
    calibration_settings,
    table_from_features,
    writable,
    write_table,
)
from trtasr.pipeline.calibrate_pair import pair_table
from trtasr.pipeline.compile_pair import compile_pair, exported_pair, refuse
from trtasr.pipeline.controls import run_controls
from trtasr.pipeline.gpu import benchmarked
from trtasr.pipeline.integer_graph import write_integer
from trtasr.pipeline.job import (
    Job,
    Options,
    begin,
    by_header,
    checkpoint_of,
    fitting,
    keep_other_table,
    model_of,
    scale_tables,
)
from trtasr.pipeline.lower import FP32, Plant, build_baselines, lower_and_build, profile, save
from trtasr.pipeline.measure import compare_first, measure, timed_engines
from trtasr.pipeline.pair_features import pair_features
from trtasr.pipeline.record import Record, write_record
from trtasr.recipe import Recipe
from trtasr.targets import Target
from trtasr.values import CalibrationSet, ScaleTable

logger = logging.getLogger(__name__)

Features = Callable[[str], CalibrationSet]  # calibration method -> features, made once
PARITY = 1e-4  # largest difference of log-probabilities between the module in float64 and the FP32 graph
PARITY_FACTOR = 4  # ... or this times torch's own float32 rounding, where that is more,
LARGEST_PARITY = 1e-3  # but never more than this
STAGES = (
    "read checkpoint",
    "read utterances",
    "export",
    "calibrate: scale table, correction",
    "center (CTC), prove parity",
    "integer-only graph, proved (CTC)",
    "budget: layers left in floating point (CTC, with --min-sqnr or --max-wer-drop)",
    "lower and build: Q/DQ graphs, engines",
    "FP16 and FP32 baselines (t4)",
    "measure WER and latency",
    "compare through Polygraphy",
    "calibration controls (with --controls)",
    "write records and report",
)


@dataclass(frozen=True)
class Calibrated:
    """A scale table and where it was written.

    Attributes:
        table: scales, and corrected weights if there are any.
        path: of the table; cache: of the same scales for TensorRT.
        seconds: by stage: ``export``, ``features``, ``scales`` (ranges, corrections).
    """

    table: ScaleTable
    path: Path
    cache: Path
    seconds: Mapping[str, float]


def compile_recipe(recipe: Recipe, options: Options) -> Record:
    """Compile one recipe into a bundle and measure it.

    The bundle appears at ``options.out`` only when every stage has succeeded; a missed WER gate still leaves the
    bundle, marked FAILED.

    Returns:
        what was built and measured; ``problems`` is empty when every gate holds.

    Raises:
        TrtasrError: bad input (2), broken numbers (3), a missing library (4), a refused graph (5).
    """
    check_replaceable(options.out)
    budgeted(recipe)  # refuse one that cannot be kept before any work
    job = begin(recipe, options)
    return compile_pair(job) if job.checkpoint.generation else compile_ctc(job)


def rehearse(recipe: Recipe, options: Options) -> Job:
    """Read what `compile_recipe` would, of recordings the headers, and refuse what it would refuse before any work.

    Raises:
        TrtasrError: bad input (2) or a missing library (4).
    """
    check_replaceable(options.out)
    budgeted(recipe)
    job = begin(recipe, options, by_header)
    calibration_settings(job.recipe, job.checkpoint)
    refuse(job) if job.checkpoint.generation else refuse_ctc(job)
    return job


def refuse_ctc(job: Job) -> None:
    """Refuse what a plan with the recipe's shapes could not run, before anything is built.

    Raises:
        AudioError: an utterance too short or too long. RecipeError: more utterances per run than the plan takes, or no
            benchmarked shape fits.
    """
    if job.host:
        config = job.checkpoint.frontend
        accepted = profile(job.recipe.engine, config.frames_per_second, config.rows)
        benchmarked(job.recipe.evaluation, accepted)
        fitting(job, accepted)


def compile_ctc(job: Job) -> Record:
    """Compile a network that is one graph; see `compile_recipe`."""
    refuse_ctc(job)
    recipe, options, host, checkpoint = job.recipe, job.options, job.host, job.checkpoint
    model, utterances = job.model, job.utterances
    with staged(options.out) as folder, scratch() as aside:
        exported = aside / FP32
        export_onnx(fold_batchnorm(model), exported, checkpoint.frontend.rows)
        made = cache(lambda method: calibration_features(method, recipe, checkpoint, model))
        tables = scale_tables(
            job, lambda method, settings: table_from_features(exported, made(method), recipe.quantization, settings)
        )
        table, graph = tables[recipe.calibration.method], onnx.load(exported)
        check_fits(table, [graph])
        save(center(graph, table.offsets), folder / FP32)
        parity = prove_parity(model, folder / FP32, checkpoint.frontend.rows)
        integer = write_integer(folder, folder / FP32, table)
        left = {
            trial.target.name: within_budget(trial, utterances, checkpoint)
            for trial in trials(recipe, folder / FP32, table, job.targets, made)
        }
        plant = Plant(
            folder, table, recipe, checkpoint.frontend.frames_per_second, host, own_ranges_features(recipe, made), left
        )
        lowered, engines = zip(*[lower_and_build(plant, target) for target in job.targets], strict=True)
        baselines = build_baselines(plant) if host else ()
        measured = measure(plant, checkpoint, lowered, (*engines, *baselines), utterances)
        comparison = compare_first(plant, lowered[0], engines[0], utterances)
        controls = run_controls(exported, tables, recipe, utterances, checkpoint) if options.controls else ()
        record = Record(
            recipe,
            checkpoint,
            tables,
            lowered,
            timed_engines((*engines, *baselines), measured),
            measured,
            comparison,
            controls,
            parity,
            time.monotonic() - job.started,
            integer,
        )
        write_record(folder, record, options.out)
    return record


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
    exact, torch32, graph = (
        np.concatenate([x[item, :count] for item, count in enumerate(frames.tolist())])
        for x in (log_probs.numpy(), single.numpy(), found["log_probs"])
    )
    rounding, found_difference = float(np.abs(torch32 - exact).max()), float(np.abs(graph - exact).max())
    assert_parity(
        {"log_probs": exact}, {"log_probs": graph}, max(PARITY, min(PARITY_FACTOR * rounding, LARGEST_PARITY))
    )
    if found_difference > PARITY:
        logger.warning(
            "FP32 graph is off by %.1e in log-probability (torch in float32: %.1e): this network amplifies "
            "float32 rounding",
            found_difference,
            rounding,
        )
    return found_difference


def calibrate_recipe(recipe: Recipe, options: Options) -> Calibrated:
    """Make the recipe's scale table anew and write it to the calibration folder, as JSON and as a TensorRT cache."""
    folder = writable(options.calib)
    started = time.monotonic()
    checkpoint = checkpoint_of(recipe)
    if not options.replace:
        keep_other_table(folder, recipe.name, checkpoint)
    model = model_of(checkpoint)
    settings = calibration_settings(recipe, checkpoint)
    with scratch() as aside:
        if checkpoint.generation:
            graphs = exported_pair(model, checkpoint, aside)
            ready = time.monotonic()
            features = pair_features(recipe.calibration.method, recipe, checkpoint, graphs)
            made = time.monotonic()
            table = pair_table(graphs, features, recipe.quantization, settings)
        else:
            exported = aside / FP32
            export_onnx(fold_batchnorm(model), exported, checkpoint.frontend.rows)
            ready = time.monotonic()
            features = calibration_features(recipe.calibration.method, recipe, checkpoint, model)
            made = time.monotonic()
            table = table_from_features(exported, features, recipe.quantization, settings)
    seconds = {"export": ready - started, "features": made - ready, "scales": time.monotonic() - made}
    return Calibrated(table, *write_table(folder, recipe.name, table), seconds)


def trials(recipe: Recipe, path: Path, table: ScaleTable, targets: Sequence[Target], made: Features) -> list[Trial]:
    """What each target's layers are left in floating point by; none without a budget."""
    if not budgeted(recipe):
        return []
    feeds = tuple((feed["features"], feed["lengths"]) for feed in single_utterances(made(recipe.calibration.method)))
    return [Trial(path, table, recipe, target, feeds) for target in targets]


def own_ranges_features(recipe: Recipe, made: Features) -> CalibrationSet | None:
    """Calibration features for a TensorRT calibrator that takes its own ranges from them; None where none does."""
    if recipe.engine.quantization != "implicit" or recipe.engine.calibrator == "table":
        return None
    return made(recipe.calibration.method)
