"""The scale table as a lock file: written by `calibrate`, and used again while nothing it depends on has changed."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from trtasr.bundle import LARGEST_FILE
from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.engine.cache import cache_text
from trtasr.errors import QualityError, RecipeError, UsageError
from trtasr.files.keep import sha256_file
from trtasr.files.look import is_file, is_there
from trtasr.files.read import MIB, Source, decoded
from trtasr.files.workspace import sweep
from trtasr.files.write import json_bytes, write_together
from trtasr.quant.scales import REMAKE, StoredTable, table_of, table_to_json
from trtasr.quant.stored import arrays_of, with_arrays
from trtasr.recipe import LABELS, Quantization, Recipe
from trtasr.values import ScaleTable

logger = logging.getLogger(__name__)

TABLE_FORMAT = 1
WEIGHTS = ".safetensors"  # corrected weights and products, beside the table
LARGEST_TABLE = 64 * MIB
UNUSED = ("weight_only", "weight_group", "fidelity")  # of the quantization section: no table that is kept has them
REMAKE_BOTH = "remake both with `make calib`"


@dataclass(frozen=True)
class StoredWeights:
    """Corrected weights and products that a scale table file names.

    Attributes:
        corrected: initializers, in order; products: layers likewise.
        corrected_sha256: of the file of their values; empty: there is none, as in a bundle.
    """

    corrected: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    corrected_sha256: str = ""


def calibration_settings(recipe: Recipe, checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything the table depends on; a committed table is reused only when all of it is equal.

    For calibration by audio that includes the hashes of the manifests (not of the recordings they name).

    Raises:
        RecipeError: the recipe asks for quantized weights alone, of which no engine is made.
    """
    refuse_weight_only(recipe.quantization)
    sources = map(Path, recipe.audio_manifests if recipe.calibration.method == "audio" else ())
    # It limits the text that a decoder is calibrated on; the checkpoint's hash covers the rest.
    rate = checkpoint.generation.tokens_per_second if checkpoint.generation else 0.0
    exclude = list(recipe.quantization.exclude) if recipe.quantization.walked else []  # as JSON has it
    return {
        "audio_manifest_sha256": " ".join(sha256_file(source) for source in sources if is_file(source)),
        "format": TABLE_FORMAT,
        "checkpoint_sha256": checkpoint.sha256,
        "calibration": asdict(recipe.calibration) | {"manifest": ""},
        "quantization": {key: value for key, value in asdict(recipe.quantization).items() if key not in UNUSED}
        | {"exclude": exclude},
    } | ({"tokens_per_second": rate} if rate else {})


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
        UsageError: no scale table, or the file of weights is missing, broken or of another table.
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
    if not (named.corrected or named.products):
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
    if (tuple(sorted(found.corrected)), tuple(sorted(found.products))) != (named.corrected, named.products):
        raise UsageError(f"{weights}: does not hold the initializers that {path.name} names", REMAKE_BOTH)
    return found


def read_weights(path: Path, table: ScaleTable) -> ScaleTable:
    """The table with the arrays of a file: corrected weights and biases, products.

    Raises:
        UsageError: not a file of such arrays.
    """
    try:
        return with_arrays(table, load_file(path))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UsageError(f"{path}: not a file of corrected weights ({error})", REMAKE_BOTH) from error


def write_table(folder: Path, name: str, table: ScaleTable) -> tuple[Path, Path]:
    """Write ``<name>.json`` and the same scales as a TensorRT calibration cache, ``<name>.cache``: both or neither.

    Corrected weights and products go to ``<name>.safetensors``; the table holds their hash.

    Raises:
        UsageError: the folder cannot be written. DiskError: the disk takes no more.
    """
    table_path, cache_path, weights_path = (folder / f"{name}{suffix}" for suffix in (".json", ".cache", WEIGHTS))
    arrays = arrays_of(table)
    weights = save(arrays) if arrays else b""
    data = table_to_json(table) | ({"corrected_sha256": hashlib.sha256(weights).hexdigest()} if weights else {})
    contents = {weights_path.name: weights} if weights else {}
    contents |= {cache_path.name: cache_text(table).encode(), table_path.name: json_bytes(data)}
    write_together(folder, contents)
    if not weights:
        weights_path.unlink(missing_ok=True)  # of the table before
    return table_path, cache_path


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


def locked(
    recipe: Recipe,
    settings: Mapping[str, Any],
    folder: Path | None,
    controls: bool,
    make: Callable[[str, Mapping[str, Any]], ScaleTable],
) -> dict[str, ScaleTable]:
    """Scale table of the recipe's calibration method, and of the controls when they are asked for.

    Args:
        recipe: its method and name.
        settings: `calibration_settings`; a committed table made with exactly these is used as it is.
        folder: of committed tables; None: all are made.
        controls: make those of the other methods too.
        make: calibration method and the settings to be noted -> a table.
    """
    ours, tables = recipe.calibration.method, {}
    for method in LABELS if controls else (ours,):
        table = committed_table(folder, recipe.name, settings) if folder and method == ours else None
        tables[method] = make(method, settings if method == ours else {}) if table is None else table
    return tables
