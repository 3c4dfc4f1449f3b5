"""What every compile begins with: the checkpoint, its module, the targets, the speech to measure on."""

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from trtasr.audio.frontend import Frontend
from trtasr.audio.manifest import ManifestEntry, read_manifest
from trtasr.audio.prepare import prepare
from trtasr.audio.read import MIXED, Reading, audio_seconds
from trtasr.bundle import open_bundle
from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.checkpoint.read import read_checkpoint
from trtasr.engine.build_tensorrt import Host
from trtasr.engine.profile import Profile
from trtasr.errors import AudioError, BundleError, CheckpointError, QualityError, RecipeError, UsageError
from trtasr.files.look import is_file, is_there
from trtasr.models.load import build_model
from trtasr.network.pair_run import refuse_above
from trtasr.pipeline.calibrate import WEIGHTS, calibration_settings, committed_table, read_scales
from trtasr.pipeline.controls import METHODS
from trtasr.pipeline.lower import resolve_targets
from trtasr.pipeline.lower_pair import longest_frames
from trtasr.recipe import Change, Recipe, change
from trtasr.results import Prepared
from trtasr.targets import Target
from trtasr.values import ScaleTable

logger = logging.getLogger(__name__)

Listen = Callable[[Iterable[ManifestEntry], Frontend, Reading], Sequence[Prepared]]


@dataclass(frozen=True)
class Options:
    """How to compile, beyond the recipe.

    Attributes:
        out: bundle folder.
        calib: folder of committed scale tables.
        controls: also calibrate by noise and by real audio, and show all three.
        recalibrate: ignore the committed table.
        replace: what another checkpoint was compiled or calibrated into may be replaced: the user named the folder.
        shapes: ``min``, ``opt`` and ``max`` -> batch, feature rows and frames, as trtexec's flags give them.
    """

    out: Path
    calib: Path = Path("calib")
    controls: bool = False
    recalibrate: bool = False
    replace: bool = True
    shapes: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)


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


def begin(recipe: Recipe, options: Options, listen: Listen = prepare) -> Job:
    """Read everything a compile needs, before anything is made.

    Args:
        recipe: resolved.
        options: of this run.
        listen: utterances of a manifest -> their features.

    Raises:
        MissingError: a target without its builder. CheckpointError, AudioError, UsageError: bad input.
    """
    started = time.monotonic()
    targets, host = resolve_targets(recipe.engine)
    checkpoint = checkpoint_of(recipe)
    if not options.replace:
        keep_other_bundle(options.out, checkpoint)
    recipe = shaped(recipe, options.shapes, checkpoint.frontend)
    model = model_of(checkpoint)
    utterances = read_utterances(recipe, checkpoint, options, listen)
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


def keep_other_bundle(out: Path, checkpoint: Checkpoint) -> None:
    """Refuse to replace the bundle of another model: neither this checkpoint nor one that lay in the same place.

    Raises:
        UsageError: ``out`` holds one.
    """
    try:
        held = open_bundle(out).sidecar
    except BundleError:
        return  # whether what is there may be replaced is decided where it is written
    source = str(held.recipe.get("checkpoint"))
    here = os.path.realpath(checkpoint.path)
    again = "\0" not in source and here in {os.path.realpath(base / source) for base in (Path(), out)}
    if held.checkpoint.sha256 != checkpoint.sha256 and not again:
        raise UsageError(
            f"{out}: holds an engine made from another checkpoint, {source:.200}",
            f"give this one another folder (-o FOLDER) or name (--set name=NAME); -o {out} replaces it",
        )


def keep_other_table(folder: Path, name: str, checkpoint: Checkpoint) -> None:
    """Refuse to replace the committed scale table of another checkpoint, or files that are no such table.

    Raises:
        UsageError: they are in the folder.
    """
    path = folder / f"{name}.json"
    try:
        mine = is_file(path) and read_scales(path)[1].settings.get("checkpoint_sha256") == checkpoint.sha256
    except (UsageError, QualityError):
        mine = False
    if not mine and any(is_there(path.with_suffix(suffix)) for suffix in (".json", ".cache", WEIGHTS)):
        raise UsageError(
            f"{path}: is not a scale table of this checkpoint, {checkpoint.path}",
            f"choose another folder (--calib-dir FOLDER); --calib-dir {folder} replaces it",
        )


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
            raise AudioError(
                f"{item.audio_filepath}: {item.duration:.2f} s, but the engine takes "
                f"{engine.min_seconds:g} to {engine.max_seconds:g} s",
                "leave it out, or widen engine.min_seconds or engine.max_seconds",
            )
    if not engine.min_batch <= batch <= engine.max_batch:
        raise RecipeError(
            f"evaluation.batch = {batch}: the engine takes {engine.min_batch} to {engine.max_batch} utterances",
            "change evaluation.batch or engine.max_batch",
        )


def shaped(recipe: Recipe, shapes: Mapping[str, tuple[int, int, int]], config: Frontend) -> Recipe:
    """The recipe with the shapes of trtexec's flags, in the model's own rows and frames.

    Raises:
        RecipeError: other feature rows than the model's, a shape out of bounds, or not in order.
    """
    changes = []
    for which, (batch, rows, frames) in shapes.items():
        flag = f"--{which}Shapes"
        if rows != config.rows:
            raise RecipeError(
                f"{flag}: {rows} feature rows, but the model takes {config.rows}",
                f"write features:{batch}x{config.rows}x{frames}",
            )
        seconds = frames / config.frames_per_second
        changes += [Change(flag, f"engine.{which}_batch", batch), Change(flag, f"engine.{which}_seconds", seconds)]
    return change(recipe, changes)


def by_header(entries: Iterable[ManifestEntry], config: Frontend, reading: Reading) -> list[Prepared]:
    """Utterances as long as their headers say, with features that take no memory and hold nothing.

    Raises:
        AudioError: naming a file that is no audio, or too long.
    """
    found = []
    for entry in entries:
        offset, duration = entry.segment
        rest = max(audio_seconds(entry.audio_filepath) - offset, 0.0)
        seconds = rest if duration is None else min(duration, rest)
        if reading.refuse:
            reading.refuse(entry.audio_filepath, seconds)
        frames = int(seconds * config.frames_per_second)
        nothing = np.broadcast_to(np.float32(0), (config.rows, max(frames, 1)))
        found.append(Prepared(str(entry.audio_filepath), seconds, entry.text, nothing, frames))
    return found


def read_utterances(
    recipe: Recipe, checkpoint: Checkpoint, options: Options, listen: Listen = prepare
) -> Sequence[Prepared]:
    """Features of the evaluation manifest; empty without one.

    Raises:
        AudioError: a broken manifest or recording. UsageError: controls without a manifest.
    """
    if recipe.evaluation.manifest:
        entries = read_manifest(Path(recipe.evaluation.manifest))
        return listen(entries, checkpoint.frontend, reading_for(checkpoint))
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
