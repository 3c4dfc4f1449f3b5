import pytest
import torch

from trtasr.audio.features import FrontendConfig, MelFrontend
from trtasr.audio.frontend import frontend, frontend_from_json, frontend_json
from trtasr.audio.log_mel import LogMelConfig, LogMelFrontend
from trtasr.audio.waveform import WaveformConfig, WaveformFrontend

KINDS = {FrontendConfig(features=80): MelFrontend, LogMelConfig(features=128, pad_seconds=2): LogMelFrontend,
         WaveformConfig(8000): WaveformFrontend}  # fmt: skip


@pytest.mark.parametrize("config", KINDS)
def test_each_configuration_has_its_front_end(config):
    made = frontend(config)
    assert type(made) is KINDS[config]
    features, frames = made(torch.zeros(2, 3200), torch.tensor([3200, 1600]))
    assert features.shape[:2] == (2, config.features)
    assert frames.dtype == torch.int64
    assert int(frames.max()) <= features.shape[2]


@pytest.mark.parametrize("config", KINDS)
def test_json_gives_the_same_configuration_back(config):
    assert frontend_from_json(frontend_json(config)) == config


def test_bundles_without_a_kind_are_nemos():
    assert frontend_from_json({"features": 80}) == FrontendConfig(features=80)
