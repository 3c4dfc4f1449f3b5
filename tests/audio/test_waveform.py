"""Moonshine's front-end against transformers' own, short audio, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from golden import moonshine_configs

from trtasr.audio.frontend import frontend, frontend_from_json, frontend_json
from trtasr.audio.waveform import SHORTEST, WaveformConfig, WaveformFrontend
from trtasr.errors import CheckpointError
from trtasr.models.moonshine import Moonshine

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "moonshine.npz")


def batch(samples, fill=0.0):
    audio = torch.full((len(samples), max(samples)), fill)
    for row, count in zip(audio, samples, strict=True):
        row[:count] = torch.from_numpy(moonshine_configs.waveform(count))
    return audio, torch.tensor(samples)


@pytest.mark.parametrize("fill", [0.0, 7.0])
def test_features_equal_transformers(fill):
    samples = list(moonshine_configs.SAMPLES[:2])
    features, lengths = WaveformFrontend(WaveformConfig())(*batch(samples, fill))
    np.testing.assert_array_equal(features[:, 0].numpy(), GOLDEN["waveform/values"])
    np.testing.assert_array_equal(lengths.numpy(), GOLDEN["waveform/lengths"])
    assert features.dtype == torch.float32
    assert lengths.dtype == torch.int64


@pytest.mark.parametrize("samples", [[0], [1], [SHORTEST - 1], [0, 300], [5, 2000]])
def test_short_audio_goes_on_as_silence_until_there_is_one_position(samples):
    audio, lengths = batch(samples)
    features, valid = WaveformFrontend(WaveformConfig())(audio, lengths)
    assert features.shape == (len(samples), 1, max(SHORTEST, *samples))
    assert valid.tolist() == [max(count, SHORTEST) for count in samples]
    torch.testing.assert_close(features[:, 0, : audio.shape[1]], audio, atol=0, rtol=0)
    assert not features[:, 0, audio.shape[1] :].any()
    with torch.no_grad():
        encoded, positions = Moonshine(moonshine_configs.config()).encoder(features, valid)
    assert positions.min() >= 1
    assert encoded.isfinite().all()


def test_one_sample_less_than_the_shortest_gives_no_position():
    encoder = Moonshine(moonshine_configs.config()).encoder
    _, positions = encoder(torch.zeros(2, 1, SHORTEST), torch.tensor([SHORTEST, SHORTEST - 1]))
    assert positions.tolist() == [1, 0]


def test_the_configuration_counts_samples_as_frames():
    config = WaveformConfig(8000)
    assert (config.rows, config.frames_per_second) == (1, 8000)
    assert isinstance(frontend(config), WaveformFrontend)
    assert frontend_from_json(frontend_json(config)) == config


@pytest.mark.parametrize("value", [None, 0, -1, 16000.0, True, "16000", 10**7, [16000], "x" * 10_000])
def test_absurd_rates_name_the_key(value):
    with pytest.raises(CheckpointError, match="sampling_rate") as error:
        WaveformFrontend(WaveformConfig(value))
    assert len(str(error.value)) < 300
    assert "use an integer" in error.value.repair
