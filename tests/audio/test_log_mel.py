"""Whisper's front-end against transformers' WhisperFeatureExtractor."""

from pathlib import Path

import numpy as np
import pytest
import torch
from golden import cases, whisper_configs

from trtasr.audio.log_mel import LogMelConfig, LogMelFrontend
from trtasr.errors import CheckpointError

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "whisper.npz")
TOLERANCE = 1e-4


@pytest.mark.parametrize("name", whisper_configs.FRONTENDS)
def test_features_equal_transformers(name):
    rows, seconds, padding = whisper_configs.FRONTENDS[name]
    frontend = LogMelFrontend(LogMelConfig(features=rows, pad_seconds=30 if padding == "max_length" else 0))
    audio = torch.from_numpy(cases.signal(seconds))[None]
    features, frames = frontend(audio, torch.tensor([audio.shape[1]]))
    assert features.shape[1:] == tuple(GOLDEN[f"logmel/{name}/shape"])
    assert frames.tolist() == [features.shape[2]]
    found = features[0].numpy()
    np.testing.assert_allclose(found[:, cases.kept(found.shape[1])], GOLDEN[f"logmel/{name}/kept"], atol=TOLERANCE)
    np.testing.assert_allclose(cases.moments(found), GOLDEN[f"logmel/{name}/moments"], atol=TOLERANCE)


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_batch_gives_what_its_items_give_alone(seconds):
    frontend = LogMelFrontend(LogMelConfig(pad_seconds=seconds))
    audio, lengths = map(torch.from_numpy, cases.batch((0.7, 0.01, 0.3)))
    audio[1, int(lengths[1]) :] = 9.0  # beyond the valid samples: not to be read
    features, frames = frontend(audio, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, count = frontend(audio[row : row + 1, :length], lengths[row : row + 1])
        assert count[0] == frames[row]
        assert torch.equal(features[row, :, : count[0]], alone[0, :, : count[0]])
        assert not features[row, :, count[0] :].any()


def test_long_audio_is_cut_to_the_padding():
    frontend = LogMelFrontend(LogMelConfig(pad_seconds=1))
    audio = torch.from_numpy(cases.signal(1.5))[None]
    features, frames = frontend(audio, torch.tensor([audio.shape[1]]))
    assert frames.tolist() == [100]
    assert torch.equal(features, frontend(audio[:, :16000], torch.tensor([16000]))[0])


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 200, 201, 400])
def test_short_audio_and_silence_are_finite(samples):
    for config in (LogMelConfig(), LogMelConfig(pad_seconds=1)):
        features, frames = LogMelFrontend(config)(torch.zeros(1, samples), torch.tensor([samples]))
        assert frames[0] == (100 if config.pad_seconds else samples // 160)
        assert bool(torch.isfinite(features).all())
        assert features.shape[2] >= 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sample_rate": 0}, "sampling_rate = 0"),
        ({"features": 513}, "feature_size = 513"),
        ({"n_fft": 1}, "n_fft = 1"),
        ({"hop_length": 1.5}, "hop_length = 1.5"),
        ({"pad_seconds": -1}, "chunk_length = -1"),
        ({"pad_seconds": True}, "chunk_length = True"),
        ({"pad_seconds": 3600, "sample_rate": 10**6}, "at most 67108864"),
    ],
)
def test_values_out_of_bounds(change, words):
    with pytest.raises(CheckpointError, match=words):
        LogMelFrontend(LogMelConfig(**change))
