"""The calibration stage: features by the recipe's method, ranges over them, and the scale table as a lock file."""

import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
from torch import nn

from trtasr.audio.features import FrontendConfig
from trtasr.audio.manifest import read_manifest
from trtasr.bundle import sha256_file, write_json
from trtasr.checkpoint.nemo import Checkpoint
from trtasr.engine.cache import format_cache
from trtasr.engine.run import observe
from trtasr.errors import RecipeError, UsageError
from trtasr.evaluate import prepare
from trtasr.graph.center import center, centerable
from trtasr.graph.tensors import activation_tensors, weight_tensors
from trtasr.quant.centering import centering, collect_channels
from trtasr.quant.ranges import collect
from trtasr.quant.scales import scale_table, table_from_json, table_to_json
from trtasr.quant.synthesize import SynthesisSettings, synthesize
from trtasr.recipe import Calibration, Quantization, Recipe
from trtasr.values import CalibrationSet, FloatArray, ScaleTable

logger = logging.getLogger(__name__)

TABLE_FORMAT = 1
AUDIO_UTTERANCES = 64  # the real-audio control uses at most this many


def calibration_settings(recipe: Recipe, checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything the table depends on; a committed table is reused only when all of it is equal.

    For calibration by audio that includes the hash of the manifest (not of the recordings it names).
    """
    source = audio_manifest(recipe) if recipe.calibration.method == "audio" else None
    return {
        "audio_manifest_sha256": sha256_file(source) if source and source.is_file() else "",
        "format": TABLE_FORMAT,
        "checkpoint_sha256": checkpoint.sha256,
        "calibration": asdict(recipe.calibration) | {"manifest": ""},
        "quantization": asdict(recipe.quantization) | {"exclude": []},
    }


def committed_table(folder: Path, name: str, settings: Mapping[str, Any]) -> ScaleTable | None:
    """The table in ``calib/<name>.json`` when it was made with exactly these settings, else None."""
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    table = read_table(path)
    stale = [key for key, value in settings.items() if table.settings.get(key) != value]
    if stale:
        logger.info("%s was made with other settings (%s): calibrating anew", path, ", ".join(stale))
        return None
    return table


def read_table(path: Path) -> ScaleTable:
    """Read a scale table file.

    Raises:
        UsageError: not JSON. QualityError: a broken table.
    """
    try:
        return table_from_json(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a scale table ({error})", "remake it with `make calib`") from error


def write_table(folder: Path, name: str, table: ScaleTable) -> tuple[Path, Path]:
    """Write ``<name>.json`` and the same scales as a TensorRT calibration cache, ``<name>.cache``, never by halves."""
    table_path, cache_path = folder / f"{name}.json", folder / f"{name}.cache"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".calib-") as scratch:
        made = Path(scratch)
        write_json(made / table_path.name, table_to_json(table))
        (made / cache_path.name).write_text(cache_text(table), encoding="utf-8")
        (made / table_path.name).replace(table_path)
        (made / cache_path.name).replace(cache_path)
    return table_path, cache_path


def writable(folder: Path) -> Path:
    """The folder, created if need be.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder):
            return folder
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror})", "choose another folder") from error


def cache_text(table: ScaleTable) -> str:
    """The activation scales of a table in TensorRT's calibration cache format."""
    return format_cache({name: entry.scale for name, entry in table.activations.items()})


def calibration_features(method: str, recipe: Recipe, checkpoint: Checkpoint, model: nn.Module) -> CalibrationSet:
    """Features by method: ``synthetic`` needs no data, ``noise`` and ``audio`` are its controls."""
    frontend = checkpoint.frontend
    if method == "synthetic":
        return synthesize(model, mel_rows(frontend), synthesis_settings(recipe.calibration, frontend))
    if method == "noise":
        return noise(recipe.calibration, frontend)
    return audio(recipe, frontend)


def synthesis_settings(calibration: Calibration, frontend: FrontendConfig) -> SynthesisSettings:
    """The recipe's synthesis section with seconds turned into frames."""
    return SynthesisSettings(
        batches=calibration.batches, batch_size=calibration.batch_size, steps=calibration.steps,
        frames=max(1, round(calibration.seconds * frontend.frames_per_second)),
        learning_rate=calibration.learning_rate, seed=calibration.seed, bfloat16=calibration.bfloat16)  # fmt: skip


def noise(calibration: Calibration, frontend: FrontendConfig) -> CalibrationSet:
    """Gaussian noise of mean 0 and standard deviation 1: what normalized features look like to a naive tool."""
    generator = np.random.default_rng(calibration.seed)
    frames = max(1, round(calibration.seconds * frontend.frames_per_second))
    shape = (calibration.batch_size, mel_rows(frontend), frames)
    batches = [generator.standard_normal(shape, np.float32) for _ in range(calibration.batches)]
    lengths = np.full(calibration.batch_size, frames, np.int64)
    return CalibrationSet(tuple(batches), (lengths,) * len(batches), "noise", calibration.seed)


def audio(recipe: Recipe, frontend: FrontendConfig) -> CalibrationSet:
    """Real speech: the first utterances of the calibration manifest, else of the evaluation manifest.

    Raises:
        RecipeError: neither manifest is given. AudioError: a broken manifest or recording.
    """
    manifest = audio_manifest(recipe)
    if manifest is None:
        raise RecipeError("calibration by audio: no manifest", "give one with --set calibration.manifest=FILE")
    items = prepare(read_manifest(manifest, require_text=False)[:AUDIO_UTTERANCES], frontend)
    batches = tuple(item.features[None] for item in items)
    return CalibrationSet(batches, tuple(np.array([item.frames], np.int64) for item in items), "audio")


def audio_manifest(recipe: Recipe) -> Path | None:
    """Manifest of the audio control: the calibration section's, else the evaluation's, else none."""
    name = recipe.calibration.manifest or recipe.evaluation.manifest
    return Path(name) if name else None


def mel_rows(frontend: FrontendConfig) -> int:
    """Rows of the feature matrix: mel bins times spliced frames."""
    return frontend.features * frontend.frame_splicing


def table_from_features(exported: Path, features: CalibrationSet, quantization: Quantization,
                        settings: Mapping[str, Any]) -> ScaleTable:  # fmt: skip
    """Run the exported graph over the features: center its one-sided channels, then scale every observed range."""
    graph = onnx.load(exported)
    offsets: dict[str, FloatArray] = {}
    fixed: dict[str, float] = {}
    if quantization.center:
        carriers = centerable(graph)
        channels = collect_channels(observe(exported, tuple(carriers), features)) if carriers else {}
        for name, found in channels.items():
            offsets[name], amax = centering(found, quantization.headroom)
            fixed |= dict.fromkeys(carriers[name], amax) if offsets[name].any() else {}
        offsets = {name: offset for name, offset in offsets.items() if offset.any()}
        graph = center(graph, offsets)
    histograms = collect(observe(graph.SerializeToString(), activation_tensors(graph), features))
    table = scale_table(histograms, weight_arrays(graph), quantization.ranges, quantization.headroom, fixed)
    return replace(table, offsets=offsets, settings=settings)


def weight_arrays(graph: onnx.ModelProto) -> dict[str, tuple[FloatArray, int]]:
    """Initializer name -> (float32 weight, output-channel axis) of every weighted node."""
    stored = {tensor.name: tensor for tensor in graph.graph.initializer}
    return {w.name: (onnx.numpy_helper.to_array(stored[w.name]), w.axis) for w in weight_tensors(graph)}
