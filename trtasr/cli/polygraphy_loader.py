"""Calibration features for Polygraphy: made once into a file, then read by ``--data-loader-script``.

    python -m trtasr.cli.polygraphy_loader engines/quartznet -o features.npz
    TRTASR_FEATURES=features.npz polygraphy run model.fp32.onnx --data-loader-script <this file> ...

Polygraphy calls `load_data` without arguments, hence the environment variable. Making features needs torch, reading
them needs numpy only. The commands are in ``docs/polygraphy.md``.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trtasr.errors import BundleError, TrtasrError, UsageError, said
from trtasr.files.arrays import read_arrays
from trtasr.files.look import SIDECAR, is_file
from trtasr.files.read import MIB, Source
from trtasr.files.scratch import scratch
from trtasr.files.write import replacing
from trtasr.text.printable import message, printable
from trtasr.values import CalibrationSet, Example

if TYPE_CHECKING:
    from trtasr.recipe import Recipe

VARIABLE = "TRTASR_FEATURES"
FORMAT = "trtasr features 1"
LARGEST = 1024 * MIB  # features file
MAKE = "make it with `python -m trtasr.cli.polygraphy_loader MODEL -o features.npz`"


@dataclass(frozen=True)
class Features:
    """What a features file holds.

    Attributes:
        utterances: each alone at its valid length.
        method: ``synthetic``, ``noise`` or ``audio``.
        checkpoint_sha256: of the archive they were made for.
    """

    utterances: tuple[Example, ...]
    method: str
    checkpoint_sha256: str


def load_data() -> list[dict[str, np.ndarray[Any, Any]]]:
    """Every utterance of the file that the environment variable TRTASR_FEATURES names; Polygraphy's default function.

    A list, because TensorRT's builder may read it more than once.

    Returns:
        per utterance ``features`` float32 [1, mel, T] and ``lengths`` int64 [1].

    Raises:
        UsageError: the variable is not set; the file is missing or not a features file.
    """
    name = os.environ.get(VARIABLE, "")
    if not name:
        raise UsageError(f"environment variable {VARIABLE} is not set", f"set it to a features file; {MAKE}")
    found = read_features(Path(name))
    return [{"features": item.features, "lengths": item.lengths} for item in found.utterances]


def load_first() -> list[dict[str, np.ndarray[Any, Any]]]:
    """The first utterance alone, for comparisons of every layer, whose outputs fill memory quickly.

    Raises:
        UsageError: as `load_data`.
    """
    return load_data()[:1]


def read_features(path: Path) -> Features:
    """Read a features file.

    Raises:
        UsageError: missing, damaged, or not made by `write_features`.
    """
    found = read_arrays(Source(path, UsageError, MAKE, LARGEST))
    try:
        if str(found["format"]) != FORMAT:
            raise ValueError(f"format {found['format']!s:.80}")
        count = int(found["count"])
        held = tuple(Example(found[f"features_{index}"], found[f"lengths_{index}"]) for index in range(count))
        features = Features(held, str(found["method"]), str(found["checkpoint_sha256"]))
    except (KeyError, ValueError, TypeError) as error:
        raise UsageError(f"{path}: not a features file of this version ({said(error)})", MAKE) from error
    if not held or not all(map(is_utterance, held)):
        raise UsageError(f"{path}: holds no features float32 [1, mel, T] of length T", MAKE)
    return features


def is_utterance(item: Example) -> bool:
    """True for finite features float32 [1, mel, T] and lengths int64 [1] that hold T."""
    features, lengths = item.features, item.lengths
    typed = features.dtype == np.float32 and lengths.dtype == np.int64
    sized = features.ndim == 3 and len(features) == 1 and features.size and lengths.shape == (1,)
    return bool(typed and sized and lengths[0] == features.shape[2] and np.isfinite(features).all())


def write_features(path: Path, features: CalibrationSet, checkpoint_sha256: str) -> int:
    """Cut batches into utterances of their valid length and write them, never by halves.

    Returns:
        how many utterances; an utterance without a valid frame is left out.

    Raises:
        UsageError: no valid frame at all, or the file cannot be written.
    """
    utterances = features.examples()
    if not utterances:
        raise UsageError("no features: every utterance is empty", "check the calibration manifest")
    arrays: dict[str, Any] = {
        "format": FORMAT,
        "count": len(utterances),
        "method": features.method,
        "checkpoint_sha256": checkpoint_sha256,
    }
    for index, item in enumerate(utterances):
        arrays |= {f"features_{index}": item.features, f"lengths_{index}": item.lengths}
    with replacing(path) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)
    return len(utterances)


def make_features(model: str, assignments: Sequence[str], out: Path) -> str:
    """Make the features that the compiler calibrates a model with, and write them.

    Args:
        model: bundle folder, bundled name, recipe (TOML) or ``.nemo`` archive.
        assignments: ``section.key=value`` changes of the recipe.
        out: features file.

    Returns:
        one line about it.

    Raises:
        RecipeError: no such model. CheckpointError: a broken archive. BundleError: the archive is not the one the
        bundle was compiled from. UsageError: `out` cannot be written.
    """
    from trtasr.pipeline.export import export  # noqa: PLC0415
    from trtasr.pipeline.features import calibration_features  # noqa: PLC0415 - torch
    from trtasr.pipeline.job import checkpoint_of, wired  # noqa: PLC0415

    recipe, expected = find_model(model, assignments)
    checkpoint = checkpoint_of(recipe)
    if expected and checkpoint.sha256 != expected:
        raise BundleError(
            f"{model}: compiled from another checkpoint than {recipe.checkpoint} "
            f"(sha256 {expected[:12]}, not {checkpoint.sha256[:12]})",
            "compile the bundle again, or name its archive with --set checkpoint=FILE",
        )
    with scratch() as folder:
        features = calibration_features(recipe.calibration.method, recipe, export(*wired(checkpoint), folder))
    count = write_features(out, features, checkpoint.sha256)
    return f"{out}: {count} utterances, {features.method}, {frames_text(features)}, checkpoint {checkpoint.sha256[:12]}"


def frames_text(features: CalibrationSet) -> str:
    """Lengths of the utterances in frames, for people."""
    lengths = [int(item.lengths[0]) for item in features.examples()]
    spread = f"{min(lengths)}" if min(lengths) == max(lengths) else f"{min(lengths)} to {max(lengths)}"
    return f"{spread} frames each"


def find_model(model: str, assignments: Sequence[str]) -> tuple["Recipe", str]:
    """The recipe of a model argument, and the checkpoint's sha256 where the model is a bundle (else empty).

    Raises:
        RecipeError: no such model, or a bad assignment. BundleError: a broken bundle.
    """
    from trtasr.pipeline.opened import open_engine  # noqa: PLC0415 - torch
    from trtasr.recipe import override  # noqa: PLC0415
    from trtasr.recipe.find import find_recipe  # noqa: PLC0415

    if is_file(Path(model) / SIDECAR):
        opened = open_engine(Path(model))
        return override(opened.recipe, assignments), opened.bundle.sidecar.checkpoint.sha256
    return override(find_recipe(model), assignments), ""


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m trtasr.cli.polygraphy_loader``: make a features file; exit codes as those of ``trtasr``."""
    parser = argparse.ArgumentParser(
        prog="python -m trtasr.cli.polygraphy_loader", description="make calibration features for Polygraphy"
    )
    parser.add_argument("model", help="bundle folder, bundled name (engines/NAME.toml), recipe.toml or .nemo archive")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="features file (.npz)")
    parser.add_argument(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override one recipe value; may be repeated",
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="[%(levelname).1s] %(message)s")
    try:
        sys.stdout.write(printable(make_features(arguments.model, arguments.assignments, arguments.out)) + "\n")
    except TrtasrError as error:
        sys.stderr.write(message(f"error: {error}") + "\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
