"""The pipeline: checkpoint -> ONNX -> scale table -> Q/DQ graphs -> engines -> measured report."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import onnx

from trtasr.bench.fidelity import LIMITS, NEAR
from trtasr.bundle import staged
from trtasr.files.scratch import scratch
from trtasr.files.workspace import writable
from trtasr.graph.products import normalized
from trtasr.network.network import Exported, Network
from trtasr.pipeline.budget import FIDELITY, Goal, Left, Trial, budget, leave_out, scaled_as_needed
from trtasr.pipeline.build import build, build_baselines, orders
from trtasr.pipeline.compare import compare_first
from trtasr.pipeline.controls import run_controls
from trtasr.pipeline.export import centered, export
from trtasr.pipeline.features import calibration_features
from trtasr.pipeline.fidelity import Probed, judged, probed
from trtasr.pipeline.gates import missed_fidelity, missed_gates
from trtasr.pipeline.integer import integer_only
from trtasr.pipeline.job import Job, Options, begin, budgeted, by_header, checkpoint_of, wired
from trtasr.pipeline.lock import calibration_settings, keep_other_table, locked, write_table
from trtasr.pipeline.measure import Subject, measure
from trtasr.pipeline.parity import prove_parity
from trtasr.pipeline.record import Evidence, record_of, write_record
from trtasr.pipeline.scales import make_table
from trtasr.recipe import Recipe
from trtasr.results import Control, Record
from trtasr.targets.target import Quantize, Target
from trtasr.values import CalibrationSet, ScaleTable

STAGES = (
    "read checkpoint",
    "read utterances",
    "export",
    "calibrate: scale table, correction",
    "center, prove parity",
    "integer-only graph, proved (networks of one graph)",
    "fidelity on probe signals, budget: layers left in floating point",
    "lower and build: Q/DQ graphs, engines",
    "FP16 and FP32 baselines (t4)",
    "measure WER and latency",
    "compare through Polygraphy",
    "calibration controls (with --controls)",
    "write records and report",
)

# Of the INT8 multiply-accumulates that may go back to floating point: to hold fidelity, and to come near FP32. Where
# tokens are generated, one that changes changes those behind it: logits alone, which come last, are 15 % of the work of
# Whisper tiny.en, and without them and as much again of others word disagreement falls from 2.6 to 0.5 %. Without
# layer norms nothing holds the activations, and none can be smoothed: 15 % of the work instead of a tenth brings the
# margin noise of QuartzNet15x5 on speech from 0.087 to 0.073 nat^2, its word disagreement from 1.08 to 0.92 %; by
# another seed it falls from 1.00 to 0.65 % (docs/ablation.md, What ranks layers as speech does).
MOST_LEFT, SPENT, SPENT_UNNORMALIZED, SPENT_GENERATING = 0.5, 0.1, 0.15, 0.2


def compile_recipe(recipe: Recipe, options: Options) -> Record:
    """Compile one recipe into a bundle and measure it.

    The bundle appears at ``options.out`` only when every stage has succeeded; a missed WER gate still leaves the
    bundle, marked FAILED.

    Returns:
        what was built and measured; ``problems`` is empty when every gate holds.

    Raises:
        TrtasrError: bad input (2), broken numbers (3), a missing library (4), a refused graph (5).
    """
    job = begin(recipe, options)
    recipe, settings = job.recipe, calibration_settings(job.recipe, job.checkpoint)
    with staged(options.out) as folder, scratch() as raw:
        exported = export(job.network, job.original, raw)
        parity = prove_parity(exported)
        features = cache(lambda method: calibration_features(method, recipe, exported))
        tables = locked(
            recipe,
            settings,
            None if options.recalibrate else options.calib,
            options.controls,
            lambda method, settings: make_table(exported, features(method), recipe.quantization, settings),
        )
        table = tables[recipe.calibration.method]
        graphs = centered(exported, table, folder)
        parity = prove_parity(graphs) if table.offsets else parity
        integer = integer_only(graphs, table)
        probes = probed(graphs, recipe.calibration)
        left = left_in_float(job, graphs, table, features, probes)
        given = orders(graphs, table, recipe, job.host, features)
        engines = [build(given, item.target, item.rules) for item in left]
        baselines = build_baselines(given, job.targets)
        subject = Subject(folder, job.network, recipe.evaluation, job.profile, given[0].gpu)
        measured = measure(subject, (*engines, *baselines), job.utterances)
        comparison = compare_first(graphs, engines[0], job.utterances, recipe)
        controls: tuple[Control, ...] = ()
        if options.controls:
            controls = run_controls(exported, tables, recipe, job.utterances, measured.results[0])
        harm = {item.target.name: item.harm for item in left}
        fidelity = judged(probes, recipe.quantization.fidelity, engines, folder, harm)
        problems = missed_gates(measured.results, recipe.evaluation) + missed_fidelity(fidelity, comparison)
        evidence = Evidence(comparison, parity, controls, integer, fidelity, problems)
        record = record_of(job, tables, measured, evidence)
        write_record(folder, record, job.checkpoint)
    return record


def rehearse(recipe: Recipe, options: Options) -> Job:
    """Read what `compile_recipe` would, of recordings the headers, and refuse what it would refuse before any work.

    Raises:
        TrtasrError: bad input (2) or a missing library (4).
    """
    job = begin(recipe, options, by_header)
    calibration_settings(job.recipe, job.checkpoint)
    return job


def left_in_float(
    job: Job, graphs: Exported, table: ScaleTable, features: Callable[[str], CalibrationSet], probes: Probed
) -> list[Left]:
    """For each target the layers to leave in floating point so that the recipe's budget and level of fidelity hold."""
    recipe, budgets = job.recipe, []
    if budgeted(recipe):
        examples = features(recipe.calibration.method).examples()
        budgets.append(budget(recipe, graphs, examples, job.utterances))
    harm: dict[tuple[Quantize, str], float] = {}
    trials = [Trial(graphs, table, recipe, target, probes.few, harm) for target in job.targets]
    level = recipe.quantization.fidelity
    if level == "fast" or recipe.engine.quantization == "implicit":
        return [leave_out(trial, budgets) for trial in trials]
    scaled = [scaled_as_needed(trial, partial(probes.used, limit=LIMITS["max"])) for trial in trials]
    spent = spendable(job.network, scaled[0].centered)
    return [leave_out(trial, [*budgets, *fidelity_goals(probes, level, trial.target, spent)]) for trial in scaled]


def spendable(network: Network, models: Sequence[onnx.ModelProto]) -> float:
    """Share of the INT8 multiply-accumulates that `high` spends on coming near to FP32."""
    if network.described.generation:
        return SPENT_GENERATING
    return SPENT if any(map(normalized, models)) else SPENT_UNNORMALIZED


def fidelity_goals(probes: Probed, level: str, target: Target, spent: float) -> list[Goal]:
    """What a level asks for: its limit; `high` comes as near to FP32 as a share `spent` of the work buys.

    Static scales, which are faster on the CPU, are near enough at the limit of `max`: what they lose more is clipping.
    """
    near = NEAR if target.activation_scales == "dynamic" else LIMITS["max"]
    first = [Goal(FIDELITY, partial(probes.used, limit=near), spent, partial=True)] if level == "high" else []
    return [*first, Goal(FIDELITY, partial(probes.used, limit=LIMITS[level]), MOST_LEFT)]


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


def calibrate_recipe(recipe: Recipe, options: Options) -> Calibrated:
    """Make the recipe's scale table anew and write it to the calibration folder, as JSON and as a TensorRT cache."""
    folder = writable(options.calib)
    started = time.monotonic()
    checkpoint = checkpoint_of(recipe)
    if not options.replace:
        keep_other_table(folder, recipe.name, checkpoint)
    settings = calibration_settings(recipe, checkpoint)
    with scratch() as raw:
        exported = export(*wired(checkpoint), raw)
        ready = time.monotonic()
        features = calibration_features(recipe.calibration.method, recipe, exported)
        made = time.monotonic()
        table = make_table(exported, features, recipe.quantization, settings)
    seconds = {"export": ready - started, "features": made - ready, "scales": time.monotonic() - made}
    return Calibrated(table, *write_table(folder, recipe.name, table), seconds)
