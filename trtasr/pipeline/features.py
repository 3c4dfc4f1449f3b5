"""The features stage: calibration features by the recipe's method; the synthetic ones need no data at all."""

from pathlib import Path

import numpy as np

from trtasr.audio.frontend import Frontend
from trtasr.audio.manifest import read_manifests
from trtasr.audio.prepare import prepare
from trtasr.errors import AudioError, RecipeError
from trtasr.network.network import Exported
from trtasr.recipe import Recipe
from trtasr.values import CalibrationSet

AUDIO_UTTERANCES = 64  # the real-audio control uses at most this many


def calibration_features(method: str, recipe: Recipe, exported: Exported) -> CalibrationSet:
    """Features by method, with the tokens that the model itself says to them where a decoder reads tokens.

    Args:
        method: ``synthetic`` needs no data, ``noise`` and ``audio`` are its controls.
        recipe: its sections of calibration and evaluation.
        exported: FP32 graphs.

    Raises:
        RecipeError: the calibration is longer than the model hears, or audio without a manifest. AudioError: a broken
            recording, or one longer than the model hears.
    """
    calibration, described, original = recipe.calibration, exported.network.described, exported.original
    most, rate = described.most_frames, described.frontend.frames_per_second
    if calibration.seconds * rate > most:
        raise RecipeError(
            f"calibration.seconds = {calibration.seconds:g}: longer than the model hears",
            f"use at most {most / rate:g}",
        )
    makers = {"synthetic": original.synthetic, "noise": original.noise}
    found = audio(recipe, described.frontend) if method == "audio" else makers[method](calibration)
    longest = max(int(lengths.max()) for lengths in found.lengths)
    if longest == 0:
        raise AudioError("calibration: every recording is shorter than one feature frame", "give other recordings")
    if longest > most:
        raise AudioError(
            f"calibration: a recording of {longest / rate:.1f} s is longer than the model hears",
            "leave it out of the calibration manifest",
        )
    return original.spoken(exported.files, found)


def audio(recipe: Recipe, frontend: Frontend) -> CalibrationSet:
    """Real speech: the first utterances of the calibration manifest, else of the evaluation manifests.

    Raises:
        RecipeError: neither manifest is given. AudioError: a broken manifest or recording.
    """
    if not recipe.audio_manifests:
        raise RecipeError("calibration by audio: no manifest", "give one with --set calibration.manifest=FILE")
    entries = read_manifests([*map(Path, recipe.audio_manifests)], require_text=False)
    items = prepare(entries[:AUDIO_UTTERANCES], frontend)
    batches = tuple(item.features[None] for item in items)
    return CalibrationSet(batches, tuple(np.array([item.frames], np.int64) for item in items), "audio")
