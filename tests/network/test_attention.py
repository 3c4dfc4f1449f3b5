"""Encoder-decoders: calibration features without data."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from whisper_pair import DESCRIBED, FRONTEND, ROWS

from trtasr.audio.frontend import frontend
from trtasr.audio.waveform import WaveformConfig
from trtasr.network.attention import NOISE_LEVEL, speech_noise, white_noise
from trtasr.quant.speech_noise import speech_shaped_audio
from trtasr.recipe import Calibration

pytestmark = pytest.mark.usefixtures("one_thread")
MOONSHINE = replace(DESCRIBED, family="moonshine", frontend=WaveformConfig(1000))
SMALL = Calibration(batches=2, batch_size=3, seconds=1.5, seed=4)


def test_synthetic_features_are_shaped_noise_as_the_model_hears_it():
    found = speech_noise(SMALL, DESCRIBED)
    generator = torch.Generator().manual_seed(4)
    for features, lengths in zip(found.batches, found.lengths, strict=True):
        audio = speech_shaped_audio(3, 1.5, 1000, generator)
        wanted, frames = frontend(FRONTEND)(audio, torch.full((3,), 1500))
        np.testing.assert_array_equal(features, wanted.numpy())
        np.testing.assert_array_equal(lengths, frames.numpy())
    assert [x.shape for x in found.batches] == [(3, ROWS, 60)] * 2
    assert (found.method, found.seed) == ("synthetic", 4)
    assert not np.allclose(found.batches[0], found.batches[1])
    other = speech_noise(replace(SMALL, seed=5), DESCRIBED)
    assert not np.allclose(found.batches[0], other.batches[0])


def test_a_front_end_that_pads_gives_its_own_length():
    found = speech_noise(SMALL, replace(DESCRIBED, frontend=replace(FRONTEND, pad_seconds=2)))
    assert [x.shape for x in found.batches] == [(3, ROWS, 80)] * 2
    assert found.lengths[0].tolist() == [80] * 3


@pytest.mark.parametrize(
    ("described", "rows", "frames", "level"), [(DESCRIBED, ROWS, 60, 1.0), (MOONSHINE, 1, 1500, NOISE_LEVEL)]
)
def test_noise_is_gaussian_in_features_and_quiet_in_a_waveform(described, rows, frames, level):
    found = white_noise(SMALL, described)
    assert [x.shape for x in found.batches] == [(3, rows, frames)] * 2
    assert [x.tolist() for x in found.lengths] == [[frames] * 3] * 2
    values = np.concatenate([x.ravel() for x in found.batches])
    assert values.dtype == np.float32
    assert values.std() == pytest.approx(level, rel=0.03)
    assert abs(values.mean()) < 0.05 * level
    assert (found.method, found.seed) == ("noise", 4)
    others = white_noise(replace(SMALL, seed=5), described).batches
    assert len({x.tobytes() for x in (*found.batches, *others)}) == 4
