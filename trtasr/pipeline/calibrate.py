"""The calibration alone: a recipe's scale table, made anew."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trtasr.files.scratch import scratch
from trtasr.files.workspace import writable
from trtasr.pipeline.export import export
from trtasr.pipeline.features import calibration_features
from trtasr.pipeline.job import Options, checkpoint_of, wired
from trtasr.pipeline.lock import calibration_settings, keep_other_table, write_table
from trtasr.pipeline.scales import make_table
from trtasr.recipe import Recipe
from trtasr.values import ScaleTable


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
