"""The calibration stage: features by the recipe's method, ranges over them, and the scale table as a lock file."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import nn

from trtasr.audio.frontend import Frontend, frames_of
from trtasr.audio.manifest import read_manifest
from trtasr.audio.prepare import prepare
from trtasr.bundle import LARGEST_FILE
from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.engine.cache import format_cache
from trtasr.engine.sessions import observe, utterances
from trtasr.errors import RecipeError, UsageError
from trtasr.files.disk import writing
from trtasr.files.keep import sha256_file
from trtasr.files.look import is_file
from trtasr.files.read import MIB, Source, decoded
from trtasr.files.workspace import sweep, workspace
from trtasr.files.write import json_bytes, write_together
from trtasr.graph.center import center, centerable
from trtasr.graph.tensors import activation_tensors, weight_tensors
from trtasr.pipeline.correct import Corrected, Given, correct, group_ranks, vulnerabilities
from trtasr.quant.centering import centering, collect_channels
from trtasr.quant.ranges import collect
from trtasr.quant.scales import REMAKE, StoredTable, along, quantize_weight, scale_table, table_of, table_to_json
from trtasr.quant.synthesize import SynthesisSettings, synthesize
from trtasr.recipe import Calibration, Quantization, Recipe
from trtasr.values import CalibrationSet, FloatArray, ScaleTable, WeightScale

logger = logging.getLogger(__name__)

TABLE_FORMAT = 1
WEIGHTS = ".safetensors"  # corrected weights, beside the table
LARGEST_TABLE = 64 * MIB
REMAKE_BOTH = "remake both with `make calib`"
AUDIO_UTTERANCES = 64  # the real-audio control uses at most this many


@dataclass(frozen=True)
class StoredWeights:
    """Corrected weights that a scale table file names.

    Attributes:
        corrected: initializers, in order.
        corrected_sha256: of the file of their values; empty: there is none, as in a bundle.
    """

    corrected: tuple[str, ...] = ()
    corrected_sha256: str = ""


def calibration_settings(recipe: Recipe, checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything the table depends on; a committed table is reused only when all of it is equal.

    For calibration by audio that includes the hash of the manifest (not of the recordings it names).

    Raises:
        RecipeError: the recipe asks for quantized weights alone, of which no engine is made.
    """
    refuse_weight_only(recipe.quantization)
    source = audio_manifest(recipe) if recipe.calibration.method == "audio" else None
    exclude = list(recipe.quantization.exclude) if walked(recipe.quantization) else []  # as JSON has it
    return {
        "audio_manifest_sha256": sha256_file(source) if source and is_file(source) else "",
        "format": TABLE_FORMAT,
        "checkpoint_sha256": checkpoint.sha256,
        "calibration": asdict(recipe.calibration) | {"manifest": ""},
        "quantization": {key: value for key, value in asdict(recipe.quantization).items() if key != "weight_only"}
        | {"exclude": exclude},
    } | generated(checkpoint)


def generated(checkpoint: Checkpoint) -> dict[str, float]:
    """What limits the text that a decoder is calibrated on, beyond what the checkpoint's hash covers."""
    rate = checkpoint.generation.tokens_per_second if checkpoint.generation else 0.0
    return {"tokens_per_second": rate} if rate else {}


def refuse_weight_only(quantization: Quantization) -> None:
    """Refuse, for anything but a simulation, weights that are quantized in front of activations that are not.

    Raises:
        RecipeError: the recipe asks for them.
    """
    if quantization.weight_only:
        raise RecipeError(
            "quantization.weight_only = true: engines multiply INT8 weights with INT8 activations; "
            "weights alone are simulated by `trtasr ablation` only",
            "leave out quantization.weight_only, or run trtasr ablation",
        )


def committed_table(folder: Path, name: str, settings: Mapping[str, Any]) -> ScaleTable | None:
    """The table in ``calib/<name>.json`` when it was made with exactly these settings, else None.

    Settings come first: nothing about the weights of a table that is not used matters.

    Raises:
        UsageError: `read_table`.
    """
    sweep(folder)  # a `calibrate` that was killed in its last step is finished first
    path = folder / f"{name}.json"
    if not is_file(path):
        return None
    named, table = read_scales(path)
    stale = [key for key, value in settings.items() if table.settings.get(key) != value]
    if stale:
        logger.info("%s was made with other settings (%s): calibrating anew", path, ", ".join(stale))
        return None
    check_cache(path, table)
    return with_weights(path, named, table)


def check_cache(path: Path, table: ScaleTable) -> None:
    """Warn when the TensorRT cache beside a table holds other scales: nothing here reads it, others may."""
    cache = path.with_suffix(".cache")
    if is_file(cache) and Source(cache, UsageError, REMAKE_BOTH).content() != cache_text(table).encode():
        logger.warning("%s: does not hold the scales of %s; %s", cache, path.name, REMAKE_BOTH)


def read_table(path: Path) -> ScaleTable:
    """Read a scale table file, and the corrected weights beside it if it names any.

    Raises:
        UsageError: no scale table, or the file of weights is missing, broken or of another table.
    """
    return with_weights(path, *read_scales(path))


def read_scales(path: Path) -> tuple[StoredWeights, ScaleTable]:
    """What a scale table file says about its corrected weights, and the table, which still lacks them.

    Raises:
        UsageError: no scale table.
    """
    source = Source(path, UsageError, REMAKE, LARGEST_TABLE)
    content = source.content()
    try:
        return decoded(content, StoredWeights, source), table_of(decoded(content, StoredTable, source))
    except UsageError as error:
        raise UsageError(f"{path}: not a scale table ({error.problem})", REMAKE) from error


def with_weights(path: Path, named: StoredWeights, table: ScaleTable) -> ScaleTable:
    """The table with the corrected weights that its file names.

    Raises:
        UsageError: the table has no file of weights, as in a bundle, or it is missing, broken or of another table.
    """
    weights = path.with_suffix(WEIGHTS)
    if not named.corrected:
        return table
    if not named.corrected_sha256:
        raise UsageError(
            f"{path}: names corrected weights, but no file that holds them (like scales.json of a "
            "bundle, whose quantized models hold them)",
            REMAKE_BOTH,
        )
    source = Source(weights, UsageError, REMAKE_BOTH, LARGEST_FILE)
    if not weights.is_file() or source.sha256() != named.corrected_sha256:
        raise UsageError(f"{weights}: missing, or not the weights of {path.name}", REMAKE_BOTH)
    found = read_weights(weights, table)
    if tuple(sorted(found)) != named.corrected:
        raise UsageError(f"{weights}: does not hold the initializers that {path.name} names", REMAKE_BOTH)
    return replace(table, corrected=found)


def read_weights(path: Path, table: ScaleTable) -> dict[str, FloatArray]:
    """Corrected initializers: INT8 codes times the table's scales, and biases.

    Raises:
        UsageError: not a file of such arrays.
    """
    try:
        stored = load_file(path)
        return {name: corrected_values(name, values, table.weights.get(name)) for name, values in stored.items()}
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UsageError(f"{path}: not a file of corrected weights ({error})", REMAKE_BOTH) from error


def corrected_values(name: str, stored: npt.NDArray[Any], entry: WeightScale | None) -> FloatArray:
    """float32 values of a stored array: a weight's codes times its scales, or a bias as it is.

    Args:
        name: of the initializer.
        stored: INT8 codes of a weight, float32 [O] of a bias.
        entry: scales, if the table has them: it is a weight then.

    Raises:
        ValueError: neither.
    """
    if entry is None:
        if stored.dtype != np.float32 or stored.ndim != 1 or not np.isfinite(stored).all():
            raise ValueError(f"{name}: no weight of the table, and no finite float32 bias")
        return stored
    if stored.dtype != np.int8 or entry.scales.shape != stored.shape[entry.axis : entry.axis + 1]:
        raise ValueError(f"{name}: not INT8 codes of the table's {entry.scales.size} channels")
    return stored * along(entry.scales, entry.axis, stored.ndim)


def weight_bytes(table: ScaleTable) -> bytes:
    """Corrected initializers as a safetensors file (INT8 codes, float32 biases), the same bytes each time."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, values in table.corrected.items():
        entry = table.weights.get(name)
        arrays[name] = np.asarray(quantize_weight(values, entry.scales, entry.axis) if entry else values, order="C")
    return save(arrays)


def write_table(folder: Path, name: str, table: ScaleTable) -> tuple[Path, Path]:
    """Write ``<name>.json`` and the same scales as a TensorRT calibration cache, ``<name>.cache``: both or neither.

    Corrected weights go to ``<name>.safetensors``; the table holds their hash.

    Raises:
        UsageError: the folder cannot be written. DiskError: the disk takes no more.
    """
    table_path, cache_path, weights_path = (folder / f"{name}{suffix}" for suffix in (".json", ".cache", WEIGHTS))
    weights = weight_bytes(table) if table.corrected else b""
    data = table_to_json(table) | ({"corrected_sha256": hashlib.sha256(weights).hexdigest()} if weights else {})
    contents = {weights_path.name: weights} if weights else {}
    contents |= {cache_path.name: cache_text(table).encode(), table_path.name: json_bytes(data)}
    write_together(folder, contents)
    if not weights:
        weights_path.unlink(missing_ok=True)  # of the table before
    return table_path, cache_path


def writable(folder: Path) -> Path:
    """The folder, created if need be, and cleared of what a killed run left.

    Raises:
        UsageError: it cannot be written. DiskError: the disk takes no more.
    """
    with writing(folder, "choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
    with workspace(folder, "choose another folder"):
        return folder


def cache_text(table: ScaleTable) -> str:
    """The activation scales of a table in TensorRT's calibration cache format."""
    return format_cache({name: entry.scale for name, entry in table.activations.items()})


def calibration_features(method: str, recipe: Recipe, checkpoint: Checkpoint, model: nn.Module) -> CalibrationSet:
    """Features by method: ``synthetic`` needs no data, ``noise`` and ``audio`` are its controls."""
    frontend = checkpoint.frontend
    if method == "synthetic":
        return synthesize(model, frontend.rows, synthesis_settings(recipe.calibration, frontend))
    if method == "noise":
        return noise(recipe.calibration, frontend)
    return audio(recipe, frontend)


def synthesis_settings(calibration: Calibration, frontend: Frontend) -> SynthesisSettings:
    """The recipe's synthesis section with seconds turned into frames."""
    return SynthesisSettings(
        batches=calibration.batches,
        batch_size=calibration.batch_size,
        steps=calibration.steps,
        frames=frames_of(calibration.seconds, frontend),
        learning_rate=calibration.learning_rate,
        seed=calibration.seed,
        bfloat16=calibration.bfloat16,
    )


def noise(calibration: Calibration, frontend: Frontend) -> CalibrationSet:
    """Gaussian noise of mean 0 and standard deviation 1: what normalized features look like to a naive tool."""
    generator = np.random.default_rng(calibration.seed)
    frames = frames_of(calibration.seconds, frontend)
    shape = (calibration.batch_size, frontend.rows, frames)
    batches = [generator.standard_normal(shape, np.float32) for _ in range(calibration.batches)]
    lengths = np.full(calibration.batch_size, frames, np.int64)
    return CalibrationSet(tuple(batches), (lengths,) * len(batches), "noise", calibration.seed)


def audio(recipe: Recipe, frontend: Frontend) -> CalibrationSet:
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


def table_from_features(
    exported: Path, features: CalibrationSet, quantization: Quantization, settings: Mapping[str, Any]
) -> ScaleTable:
    """Run the exported graph over the features: center its one-sided channels, then scale every observed range."""
    graph, feeds = onnx.load(exported), list(utterances(features))
    carriers: dict[str, tuple[str, ...]] = {}
    offsets: dict[str, FloatArray] = {}
    fixed: dict[str, float] = {}
    if quantization.center and not quantization.weight_only:  # without ranges there is nothing to gain
        carriers = centerable(graph)
        channels = collect_channels(observe(exported, tuple(carriers), feeds)) if carriers else {}
        for name, found in channels.items():
            offsets[name], amax = centering(found, quantization.headroom)
            fixed |= dict.fromkeys(carriers[name], amax) if offsets[name].any() else {}
        offsets = {name: offset for name, offset in offsets.items() if offset.any()}
        graph = center(graph, offsets)
    if walked(quantization):
        shifted = {carrier: offset for name, offset in offsets.items() for carrier in carriers[name]}
        given = Given(graph, shifted, fixed, quantization, group_ranks(vulnerability_scores(graph, quantization)))
        table = walked_table(given, correct(given, feeds)[0])
    else:
        centered = graph.SerializeToString() if offsets else exported  # the same graph: not held twice
        histograms = collect(observe(centered, activation_tensors(graph), feeds))
        table = scale_table(histograms, weight_arrays(graph), quantization.ranges, quantization.headroom, fixed)
    return replace(table, offsets=offsets, settings=settings)


def walked(quantization: Quantization) -> bool:
    """True when weights depend on what earlier layers compute, so that the table is made layer by layer."""
    weights = quantization.correction, quantization.rounding, quantization.weight_bits
    return weights != ("none", "nearest", 8) or quantization.weight_only


def vulnerability_scores(graph: onnx.ModelProto, quantization: Quantization) -> dict[str, float]:
    """Vulnerability of every quantized layer for FADE; nothing for those who do not ask."""
    return vulnerabilities(graph, quantization) if quantization.correction == "fade" else {}


def walked_table(given: Given, done: Corrected) -> ScaleTable:
    """The table of corrected layers: ranges of what the quantized network computes, weights on their grid."""
    logger.info(
        "%s: %d layers, %s %.1f dB on the calibration features",
        given.quantization.correction,
        len(done.weights),
        given.output,
        done.sqnr_db,
    )
    chosen = set(activation_tensors(given.graph))
    histograms = {name: found for name, found in done.histograms.items() if name in chosen}
    table = scale_table(
        histograms, weight_arrays(given.graph), given.quantization.ranges, given.quantization.headroom, given.fixed
    )
    return replace(table, weights={**table.weights, **done.weights}, alphas=done.alphas, corrected=done.constants)


def weight_arrays(graph: onnx.ModelProto) -> dict[str, tuple[FloatArray, int]]:
    """Initializer name -> (float32 weight, output-channel axis) of every weighted node."""
    stored = {tensor.name: tensor for tensor in graph.graph.initializer}
    return {w.name: (onnx.numpy_helper.to_array(stored[w.name]), w.axis) for w in weight_tensors(graph)}
