"""Calibration features of encoder-decoders by method, with the tokens that the model itself generates from them."""

import logging

import numpy as np
import torch
from torch import Tensor

from trtasr.audio.frontend import frames_of, frontend
from trtasr.audio.log_mel import LogMelConfig
from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.errors import AudioError, RecipeError
from trtasr.pipeline.calibrate import audio
from trtasr.pipeline.calibrate_pair import PairGraphs, teacher_tokens
from trtasr.pipeline.lower_pair import longest_frames
from trtasr.quant.speech_noise import speech_shaped_audio
from trtasr.recipe import Calibration, Recipe
from trtasr.values import CalibrationSet

logger = logging.getLogger(__name__)

NOISE_LEVEL = 0.1  # standard deviation of white noise in a waveform


def pair_features(method: str, recipe: Recipe, checkpoint: Checkpoint, graphs: PairGraphs) -> CalibrationSet:
    """Features by method and sampled tokens: ``synthetic`` needs no data, ``noise`` and ``audio`` are its controls.

    Raises:
        RecipeError: the calibration is longer than the model hears, or audio without a manifest. AudioError: a broken
        recording.
    """
    calibration, config = recipe.calibration, checkpoint.frontend
    if calibration.seconds * config.frames_per_second > longest_frames(checkpoint):
        raise RecipeError(
            f"calibration.seconds = {calibration.seconds:g}: longer than the model hears",
            f"use at most {longest_frames(checkpoint) / config.frames_per_second:g}",
        )
    makers = {"synthetic": synthetic, "noise": noise}
    found = audio(recipe, config) if method == "audio" else makers[method](calibration, checkpoint)
    longest = max(int(lengths.max()) for lengths in found.lengths)
    if longest == 0:
        raise AudioError("calibration: every recording is shorter than one feature frame", "give other recordings")
    if longest > longest_frames(checkpoint):
        raise AudioError(
            f"calibration: a recording of {longest / config.frames_per_second:.1f} s is longer than the model hears",
            "leave it out of the calibration manifest",
        )
    assert checkpoint.generation is not None
    return teacher_tokens(graphs, found, checkpoint.generation, config.frames_per_second)


def synthetic(calibration: Calibration, checkpoint: Checkpoint) -> CalibrationSet:
    """Speech-shaped noise through the model's own front-end."""
    generator = torch.Generator().manual_seed(calibration.seed)
    rate = checkpoint.frontend.sample_rate
    waveforms = [
        speech_shaped_audio(calibration.batch_size, calibration.seconds, rate, generator)
        for _ in range(calibration.batches)
    ]
    return heard(waveforms, "synthetic", calibration, checkpoint)


def noise(calibration: Calibration, checkpoint: Checkpoint) -> CalibrationSet:
    """What a naive tool takes: Gaussian features of mean 0 and deviation 1; where audio goes in, white noise."""
    generator, config = torch.Generator().manual_seed(calibration.seed), checkpoint.frontend
    shape = (calibration.batch_size, config.rows, frames_of(calibration.seconds, config))
    level = 1.0 if isinstance(config, LogMelConfig) else NOISE_LEVEL
    batches = [level * torch.randn(shape, generator=generator) for _ in range(calibration.batches)]
    lengths = np.full(calibration.batch_size, shape[2], np.int64)
    arrays = tuple(batch.numpy() for batch in batches)
    return CalibrationSet(arrays, (lengths,) * len(batches), "noise", calibration.seed)


def heard(waveforms: list[Tensor], method: str, calibration: Calibration, checkpoint: Checkpoint) -> CalibrationSet:
    """Features of waveforms, each float32 [B, samples] of full length."""
    front = frontend(checkpoint.frontend)
    found = [front(audio, torch.full((len(audio),), audio.shape[1])) for audio in waveforms]
    return CalibrationSet(
        tuple(features.numpy() for features, _ in found),
        tuple(frames.numpy() for _, frames in found),
        method,
        calibration.seed,
    )
