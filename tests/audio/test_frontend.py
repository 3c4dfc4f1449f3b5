"""Front-ends by configuration, and configurations to JSON and back."""

import json

import pytest
import torch

from trtasr.audio.features import FrontendConfig, MelFrontend
from trtasr.audio.frontend import KINDS, frontend, frontend_from_json, frontend_json
from trtasr.audio.log_mel import LogMelConfig, LogMelFrontend
from trtasr.audio.waveform import WaveformConfig, WaveformFrontend

CONFIGS = {
    "mel": (FrontendConfig(features=48, window="hamming", normalize=None), MelFrontend),
    "log_mel": (LogMelConfig(features=48, hop_length=200, pad_seconds=2), LogMelFrontend),
    "waveform": (WaveformConfig(sample_rate=8000), WaveformFrontend),
}


def test_every_kind_is_here():
    assert CONFIGS.keys() == KINDS.keys()
    assert {kind: type(config) for kind, (config, _) in CONFIGS.items()} == dict(KINDS)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_configuration_comes_back_from_json(kind):
    config, _ = CONFIGS[kind]
    data = json.loads(json.dumps(frontend_json(config)))
    assert data["kind"] == kind
    again = frontend_from_json(data)
    assert (type(again), again) == (type(config), config)
    assert again != type(config)()  # nothing was left to its default
    assert data["kind"] == kind  # what is read is not changed


def test_a_configuration_without_a_kind_is_nemos():
    data = frontend_json(CONFIGS["mel"][0])
    del data["kind"]
    assert frontend_from_json(data) == CONFIGS["mel"][0]


@pytest.mark.parametrize("kind", CONFIGS)
def test_each_configuration_has_its_front_end(kind):
    config, made = CONFIGS[kind]
    front = frontend(config)
    assert type(front) is made
    assert front.config == config
    audio, lengths = 0.1 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)), torch.tensor([4000, 2500])
    features, frames = front(audio, lengths)
    assert features.shape[:2] == (2, config.rows)
    assert frames.dtype == torch.int64
    expected = {"mel": [25, 15], "log_mel": [160, 160], "waveform": [4000, 2500]}[kind]
    assert (frames - torch.tensor(expected)).abs().max() <= 1
