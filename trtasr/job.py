"""What every compile begins with: the checkpoint, its module, the targets, the speech to measure on."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from trtasr.audio.manifest import read_manifest
from trtasr.audio.read import MIXED, Reading
from trtasr.bench.wer import Prepared
from trtasr.calibrate import calibration_settings, committed_table
from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.checkpoint.read import read_checkpoint
from trtasr.controls import METHODS
from trtasr.engine.build_tensorrt import Host
from trtasr.engine.profile import Profile
from trtasr.errors import AudioError, CheckpointError, RecipeError, UsageError
from trtasr.evaluate import prepare
from trtasr.lower import resolve_targets
from trtasr.lower_pair import longest_frames
from trtasr.models.load import build_model
from trtasr.pair_run import refuse_above
from trtasr.recipe import Recipe
from trtasr.targets import Target
from trtasr.values import ScaleTable

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Job:
    """A compile that has read its inputs.

    Attributes:
        recipe: resolved.
        options: of this run.
        targets: of the recipe; host: GPU and TensorRT of this machine, None where the targets need none.
        checkpoint: as read; model: its module, eval-only.
        utterances: features of the evaluation manifest; empty without one.
        started: `time.monotonic` of the beginning.
    """

    recipe: Recipe
    options: Options
    targets: Sequence[Target]
    host: Host | None
    checkpoint: Checkpoint
    model: nn.Module
    utterances: Sequence[Prepared]
    started: float


def begin(recipe: Recipe, options: Options) -> Job:
    """Read everything a compile needs, before anything is made.

    Raises:
        MissingError: a target without its builder. CheckpointError, AudioError, UsageError: bad input.
    """
    started = time.monotonic()
    targets, host = resolve_targets(recipe.engine)
    checkpoint = checkpoint_of(recipe)
    model = model_of(checkpoint)
    utterances = read_utterances(recipe, checkpoint, options)
    return Job(recipe, options, targets, host, checkpoint, model, utterances, started)


def checkpoint_of(recipe: Recipe) -> Checkpoint:
    """The checkpoint of a recipe, with the recipe's rules of generation.

    Raises:
        CheckpointError: it cannot be read. RecipeError: rules of generation for a model that generates nothing.
    """
    checkpoint, rate = read_checkpoint(Path(recipe.checkpoint)), recipe.generation.tokens_per_second
    if not rate:
        return checkpoint
    if checkpoint.generation is None:
        raise RecipeError(f"generation.tokens_per_second = {rate:g}: a CTC model generates no tokens", "leave it out")
    return replace(checkpoint, generation=replace(checkpoint.generation, tokens_per_second=rate))


def model_of(checkpoint: Checkpoint) -> nn.Module:
    """The module of a checkpoint, eval-only.

    Raises:
        CheckpointError: configuration and weights do not fit; names the file.
    """
    try:
        return build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error.problem}", error.repair) from error


def fitting(job: Job, accepted: Profile) -> None:
    """Refuse utterances that a plan could not run, before anything is built.

    Args:
        job: with utterances and a batch.
        accepted: shapes of the plan, of an encoder-decoder those of the encoder.

    Raises:
        AudioError: an utterance too short or too long. RecipeError: more utterances per run than the plan takes.
    """
    engine, batch = job.recipe.engine, job.recipe.evaluation.batch
    (_, _, shortest), _, (_, _, longest) = accepted.shapes()["features"]
    for item in job.utterances:
        if not shortest <= item.features.shape[1] <= longest:
            raise AudioError(f"{item.audio_filepath}: {item.duration:.2f} s, but the engine takes "
                             f"{engine.min_seconds:g} to {engine.max_seconds:g} s",
                             "leave it out, or widen engine.min_seconds or engine.max_seconds")  # fmt: skip
    if not engine.min_batch <= batch <= engine.max_batch:
        raise RecipeError(f"evaluation.batch = {batch}: the engine takes {engine.min_batch} to {engine.max_batch} "
                          "utterances", "change evaluation.batch or engine.max_batch")  # fmt: skip


def read_utterances(recipe: Recipe, checkpoint: Checkpoint, options: Options) -> Sequence[Prepared]:
    """Features of the evaluation manifest; empty without one.

    Raises:
        AudioError: a broken manifest or recording. UsageError: controls without a manifest.
    """
    if recipe.evaluation.manifest:
        return prepare(read_manifest(Path(recipe.evaluation.manifest)), checkpoint.frontend, reading_for(checkpoint))
    if options.controls:
        raise UsageError("--controls compares WER and needs speech", "add --manifest FILE")
    logger.warning("no manifest: WER is not measured; add --manifest FILE")
    return []


def reading_for(checkpoint: Checkpoint) -> Reading:
    """How speech is read for a checkpoint: an encoder-decoder's is refused where it is longer than the model hears."""
    if checkpoint.generation is None:
        return MIXED
    return Reading(refuse=refuse_above(checkpoint.frontend, longest_frames(checkpoint)))


def scale_tables(job: Job, make: Callable[[str, Mapping[str, Any]], ScaleTable]) -> dict[str, ScaleTable]:
    """Scale table of the recipe's calibration method, and of the controls when they are asked for.

    A committed table made with the same checkpoint and settings is used as it is.

    Args:
        job: recipe, options and checkpoint.
        make: calibration method and the settings to be noted -> a table.
    """
    recipe, options = job.recipe, job.options
    settings = calibration_settings(recipe, job.checkpoint)
    tables = {}
    for method in METHODS if options.controls else (recipe.calibration.method,):
        ours = method == recipe.calibration.method
        table = committed_table(options.calib, recipe.name, settings) if ours and not options.recalibrate else None
        tables[method] = make(method, settings if ours else {}) if table is None else table
    return tables
