"""What every compile begins with: the checkpoint, its module, the targets, the speech to measure on."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from trtasr.audio.manifest import read_manifest
from trtasr.bench.wer import Prepared
from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.checkpoint.read import read_checkpoint
from trtasr.engine.build_tensorrt import Host
from trtasr.errors import UsageError
from trtasr.evaluate import prepare
from trtasr.lower import resolve_targets
from trtasr.models.load import build_model
from trtasr.recipe import Recipe
from trtasr.targets import Target

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
    utterances: list[Prepared]
    started: float


def begin(recipe: Recipe, options: Options) -> Job:
    """Read everything a compile needs, before anything is made.

    Raises:
        MissingError: a target without its builder. CheckpointError, AudioError, UsageError: bad input.
    """
    started = time.monotonic()
    targets, host = resolve_targets(recipe.engine)
    checkpoint = read_checkpoint(Path(recipe.checkpoint))
    model = build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    utterances = read_utterances(recipe, checkpoint, options)
    return Job(recipe, options, targets, host, checkpoint, model, utterances, started)


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
