"""Calibration features of encoder-decoders: shaped noise through the model's own front-end, and tokens for it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_archive import write_manifest
from trtasr.pipeline.calibrate_pair import teacher_tokens
from trtasr.pipeline.pair_features import NOISE_LEVEL, noise, pair_features, synthetic
from whisper_pair import CONFIG, GENERATION, ROWS, VOCABULARY, exported

from trtasr.audio.frontend import frontend
from trtasr.audio.log_mel import LogMelConfig
from trtasr.audio.waveform import WaveformConfig
from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.errors import RecipeError
from trtasr.quant.speech_noise import speech_shaped_audio
from trtasr.recipe import Calibration, Recipe
from trtasr.text.tokens import CharTokenizer

pytestmark = pytest.mark.usefixtures("one_thread")
FRONTEND = LogMelConfig(sample_rate=1000, features=ROWS, n_fft=40, hop_length=25)  # 40 frames a second: 2 s are 80
TOKENS = CharTokenizer(tuple(map(str, range(VOCABULARY))))
CHECKPOINT = Checkpoint("whisper", "", CONFIG, {}, TOKENS, FRONTEND, "", Path("tiny"), GENERATION)
MOONSHINE = replace(CHECKPOINT, family="moonshine", config={}, frontend=WaveformConfig(1000))
SMALL = Calibration(batches=2, batch_size=3, seconds=1.5, seed=4)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("pair"))


def recipe(**changes):
    return Recipe("tiny", "tiny", calibration=replace(SMALL, **changes))


def test_synthetic_features_are_shaped_noise_as_the_model_hears_it():
    found = synthetic(SMALL, CHECKPOINT)
    generator = torch.Generator().manual_seed(4)
    for features, lengths in zip(found.batches, found.lengths, strict=True):
        audio = speech_shaped_audio(3, 1.5, 1000, generator)
        wanted, frames = frontend(FRONTEND)(audio, torch.full((3,), 1500))
        np.testing.assert_array_equal(features, wanted.numpy())
        np.testing.assert_array_equal(lengths, frames.numpy())
    assert [x.shape for x in found.batches] == [(3, ROWS, 60)] * 2
    assert (found.method, found.seed) == ("synthetic", 4)
    assert not np.allclose(found.batches[0], found.batches[1])
    other = synthetic(replace(SMALL, seed=5), CHECKPOINT)
    assert not np.allclose(found.batches[0], other.batches[0])


def test_a_front_end_that_pads_gives_its_own_length():
    padded = replace(CHECKPOINT, frontend=replace(FRONTEND, pad_seconds=2))
    found = synthetic(SMALL, padded)
    assert [x.shape for x in found.batches] == [(3, ROWS, 80)] * 2
    assert found.lengths[0].tolist() == [80] * 3


@pytest.mark.parametrize(
    ("checkpoint", "rows", "frames", "level"), [(CHECKPOINT, ROWS, 60, 1.0), (MOONSHINE, 1, 1500, NOISE_LEVEL)]
)
def test_noise_is_gaussian_in_features_and_quiet_in_a_waveform(checkpoint, rows, frames, level):
    found = noise(SMALL, checkpoint)
    assert [x.shape for x in found.batches] == [(3, rows, frames)] * 2
    assert [x.tolist() for x in found.lengths] == [[frames] * 3] * 2
    values = np.concatenate([x.ravel() for x in found.batches])
    assert values.dtype == np.float32
    assert values.std() == pytest.approx(level, rel=0.03)
    assert abs(values.mean()) < 0.05 * level
    assert (found.method, found.seed) == ("noise", 4)
    assert len({x.tobytes() for x in (*found.batches, *noise(replace(SMALL, seed=5), checkpoint).batches)}) == 4


@pytest.mark.parametrize("method", ["synthetic", "noise"])
def test_every_item_gets_what_the_model_says_to_it(graphs, method):
    found = pair_features(method, recipe(), CHECKPOINT, graphs)
    plain = {"synthetic": synthetic, "noise": noise}[method](SMALL, CHECKPOINT)
    wanted = teacher_tokens(graphs, plain, GENERATION, 40.0)
    assert found.method == method
    assert len(found.tokens) == 6
    for tokens, expected in zip(found.tokens, wanted.tokens, strict=True):
        np.testing.assert_array_equal(tokens, expected)
    for features, expected in zip(found.batches, plain.batches, strict=True):
        np.testing.assert_array_equal(features, expected)


def test_audio_is_that_of_the_manifest(graphs, tmp_path):
    write_manifest(tmp_path, 2)
    found = pair_features("audio", recipe(manifest=str(tmp_path / "manifest.json")), CHECKPOINT, graphs)
    assert [x.shape for x in found.batches] == [(1, ROWS, 40), (1, ROWS, 50)]
    assert len(found.tokens) == 2
    with pytest.raises(RecipeError, match="no manifest"):
        pair_features("audio", recipe(), CHECKPOINT, graphs)


def test_calibration_is_no_longer_than_the_model_hears(graphs):
    assert pair_features("noise", recipe(seconds=2.0), CHECKPOINT, graphs).batches[0].shape[2] == 80
    with pytest.raises(RecipeError, match=r"calibration\.seconds = 2\.1: longer than the model hears") as caught:
        pair_features("noise", recipe(seconds=2.1), CHECKPOINT, graphs)
    assert caught.value.repair == "use at most 2"
