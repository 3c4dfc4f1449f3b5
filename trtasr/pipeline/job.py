"""What every compile begins with: the checkpoint, its module, the targets, the speech to measure on."""

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import nn

from trtasr.audio.frontend import Frontend
from trtasr.audio.manifest import ManifestEntry, read_manifests
from trtasr.audio.prepare import prepare
from trtasr.audio.read import Reading, audio_seconds
from trtasr.bundle import check_replaceable, open_bundle
from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.checkpoint.read import read_checkpoint
from trtasr.engine.build_tensorrt import Host
from trtasr.engine.profile import Profile
from trtasr.errors import AudioError, BundleError, CheckpointError, MissingError, RecipeError, UsageError
from trtasr.graph.passes import check_dump
from trtasr.models.load import build_model
from trtasr.network.families import network_of, original_of
from trtasr.network.limits import benchmarked, refuse_above, refuse_benchmarks
from trtasr.network.network import Described, Network, Original, accepted
from trtasr.recipe import Change, EngineShapes, Recipe, change
from trtasr.results import Prepared
from trtasr.targets import AUTO, T4, Target, resolve

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
        checkpoint: as read.
        network: wired graphs; original: the checkpoint's module behind them.
        utterances: features of the evaluation sets; empty without a manifest.
        started: `time.monotonic` of the beginning.
    """

    recipe: Recipe
    options: Options
    targets: Sequence[Target]
    host: Host | None
    checkpoint: Checkpoint
    network: Network
    original: Original
    utterances: Sequence[Prepared]
    started: float

    @property
    def profile(self) -> Profile:
        """Feature shapes that the plans accept."""
        return accepted(self.recipe.engine, self.network.described)


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
    check_replaceable(options.out)
    check_dump(options.out)
    budgeted(recipe)
    targets, host = resolve(recipe.engine)
    checkpoint = checkpoint_of(recipe)
    if not options.replace:
        keep_other_bundle(options.out, checkpoint)
    recipe = shaped(recipe, options.shapes, checkpoint.frontend)
    network, original = wired(checkpoint)
    utterances = read_utterances(recipe, network.described, options, listen)
    job = Job(recipe, options, targets, host, checkpoint, network, original, utterances, started)
    refuse(job)
    return job


def budgeted(recipe: Recipe) -> bool:
    """True when the recipe has a budget.

    Raises:
        UsageError: a budget on WER without speech to measure it on. RecipeError: one for implicit quantization.
    """
    evaluation = recipe.evaluation
    if evaluation.mixed and not evaluation.manifest:
        raise UsageError("--max-wer-drop measures WER and needs speech", "add --manifest FILE, or use --min-sqnr")
    wanted = evaluation.min_sqnr > 0 or evaluation.mixed
    if wanted and recipe.engine.quantization == "implicit":
        raise RecipeError(
            "a budget (--min-sqnr, --max-wer-drop) needs explicit quantization: with a calibrator it is "
            "TensorRT that chooses the layers",
            "leave out --quantization implicit",
        )
    return wanted


def wired(checkpoint: Checkpoint) -> tuple[Network, Original]:
    """The network of a checkpoint, and the module behind it.

    Raises:
        CheckpointError: configuration and weights do not fit; names the file.
    """
    network = network_of(
        Described(
            checkpoint.family, checkpoint.frontend, checkpoint.tokenizer, checkpoint.generation, checkpoint.most_frames
        )
    )
    return network, original_of(model_of(checkpoint), network)


def refuse(job: Job) -> None:
    """Refuse what cannot end well, before any work.

    Raises:
        RecipeError: a calibrator or a plan without masks for a network of several graphs, a benchmark longer than the
            model hears, more utterances per run than the plan takes, or no benchmarked shape that fits. AudioError: an
            utterance too short or too long for the plans.
    """
    recipe, described = job.recipe, job.network.described
    if recipe.engine.quantization == "implicit" and len(job.network.parts) > 1:
        raise RecipeError(
            "engine.quantization = 'implicit': encoder-decoders are quantized explicitly only", "leave it out"
        )
    if any(target.unmasked for target in job.targets) and len(job.network.parts) > 1:
        raise RecipeError("engine.unmasked_plan: encoder-decoders have no such plan", "leave it out")
    refuse_benchmarks(described, recipe.evaluation.bench_seconds)
    say_limits(job)
    if job.host:
        benchmarked(recipe.evaluation, job.profile, described.frontend)
        refuse_misfits(job)


def refuse_layer_times(engine: EngineShapes) -> None:
    """Refuse ``--exportProfile`` where no layer will be timed.

    Raises:
        UsageError: another target than ``t4``. MissingError: no T4 host.
    """
    if engine.target not in (AUTO, T4.name):
        raise UsageError(
            f"--exportProfile times the layers of a t4 engine, not of {engine.target}",
            "leave it out, or use --target t4",
        )
    if resolve(engine)[1] is None:
        raise MissingError(
            "--exportProfile times the layers of a t4 engine, and there is no T4 host here",
            "leave it out, or add --target t4 on a host with a GPU",
        )


def say_limits(job: Job) -> None:
    """Say where the recipe's lengths are not those of the engine."""
    described, most = job.network.described, job.recipe.engine.max_seconds
    limit = described.most_frames / described.frontend.frames_per_second
    if padded := getattr(described.frontend, "pad_seconds", 0):
        logger.info("every utterance is padded to %g s: engine.min_, opt_, max_seconds are unused", padded)
    elif most > limit:
        logger.info("engine.max_seconds = %g: the model hears at most %g s, and so does the engine", most, limit)


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


def model_of(checkpoint: Checkpoint) -> nn.Module:
    """The module of a checkpoint, eval-only.

    Raises:
        CheckpointError: configuration and weights do not fit; names the file.
    """
    try:
        return build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error.problem}", error.repair) from error


def refuse_misfits(job: Job) -> None:
    """Refuse utterances that a plan could not run, before anything is built.

    Raises:
        AudioError: an utterance too short or too long. RecipeError: more utterances per run than the plan takes.
    """
    engine, batch = job.recipe.engine, job.recipe.evaluation.batch
    (_, _, shortest), _, (_, _, longest) = job.profile.shapes()["features"]
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
        padded = int(getattr(config, "pad_seconds", 0) * config.frames_per_second)
        nothing = np.broadcast_to(np.float32(0), (config.rows, max(frames, padded, 1)))
        found.append(Prepared(str(entry.audio_filepath), seconds, entry.text, nothing, frames, entry.dataset))
    return found


def read_utterances(
    recipe: Recipe, described: Described, options: Options, listen: Listen = prepare
) -> Sequence[Prepared]:
    """Features of the evaluation sets; empty without a manifest.

    Raises:
        AudioError: a broken manifest or recording. UsageError: controls without a manifest.
    """
    if recipe.evaluation.manifest:
        entries = read_manifests([*map(Path, recipe.evaluation.manifest)])
        return listen(entries, described.frontend, Reading(refuse=refuse_above(described)))
    if options.controls:
        raise UsageError("--controls compares WER and needs speech", "add --manifest FILE")
    logger.warning("no manifest: WER is not measured; add --manifest FILE")
    return []
