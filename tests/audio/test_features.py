"""The front-end against NeMo's own output."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import cases
from hypothesis import given, settings
from hypothesis import strategies as st

from trtasr.audio.features import FrontendConfig, MelFrontend, mel_bank, normalize
from trtasr.errors import CheckpointError

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "frontend.npz")
TOLERANCE = 1e-3


@cache
def computed(name):
    config, (audio, lengths) = cases.frontend_case(name)
    frontend = MelFrontend(FrontendConfig.from_mapping(config))
    features, frames = frontend(torch.from_numpy(audio), torch.from_numpy(lengths))
    return audio, features.numpy(), frames.numpy()


@pytest.mark.parametrize("name", cases.frontend_cases())
def test_features_equal_nemo(name):
    audio, features, frames = computed(name)
    np.testing.assert_allclose(np.abs(audio).sum(dtype=np.float64), GOLDEN[f"{name}/input"], rtol=1e-6)
    assert features.shape == tuple(GOLDEN[f"{name}/shape"])
    np.testing.assert_array_equal(frames, GOLDEN[f"{name}/frames"])
    valid = [row[:, :count] for row, count in zip(features, frames, strict=True)]
    kept = np.concatenate([row[:, cases.kept(row.shape[1])] for row in valid], axis=1)
    np.testing.assert_allclose(kept, GOLDEN[f"{name}/kept"], rtol=0, atol=TOLERANCE)
    moments = np.stack([cases.moments(row) for row in valid])
    np.testing.assert_allclose(moments, GOLDEN[f"{name}/moments"], rtol=TOLERANCE, atol=TOLERANCE)
    for row, count in zip(features, frames, strict=True):
        assert not row[:, count:].any()


@pytest.mark.parametrize("name", sorted(cases.FRONTENDS))
def test_batching_does_not_change_features(name):
    config = cases.FRONTENDS[name]
    _, features, frames = computed(f"{name}/mixed")
    frontend = MelFrontend(FrontendConfig.from_mapping(config))
    rate = config.get("sample_rate", cases.RATE)
    for seed, seconds in enumerate(cases.MIXED_SECONDS):
        alone = torch.from_numpy(cases.signal(seconds, rate, seed))[None]
        single, count = frontend(alone, torch.tensor([alone.shape[1]]))
        assert count[0] == frames[seed]
        np.testing.assert_allclose(features[seed, :, : count[0]], single[0, :, : count[0]], atol=1e-4)


def test_silence_and_audio_shorter_than_a_frame_give_finite_features():
    frontend = MelFrontend(FrontendConfig())
    for samples in (1, 159, 160, 16000):
        features, frames = frontend(torch.zeros(1, samples), torch.tensor([samples]))
        assert frames[0] == samples // 160
        assert torch.isfinite(features).all()


@pytest.mark.parametrize(
    "config",
    [
        {"pad_mode": "reflect"},
        {"pad_mode": "reflect", "n_window_size": 512, "n_window_stride": 80},
        {"exact_pad": True},
    ],
    ids=["reflect", "long window", "exact_pad"],
)
@pytest.mark.parametrize("samples", [1, 100, 200, 256, 257])
def test_short_audio_gives_the_frames_it_has_in_a_longer_batch(config, samples):
    frontend = MelFrontend(FrontendConfig(normalize=None, **config))
    audio = torch.from_numpy(cases.signal(1.0, 16000, 0))[None, :samples]
    features, frames = frontend(audio, torch.tensor([samples]))
    batch, expected = frontend(torch.nn.functional.pad(audio, (0, 8000)), torch.tensor([samples]))
    assert frames == expected >= 0
    assert features.shape[2] >= frames
    assert torch.isfinite(features).all()
    if samples <= 256:
        torch.testing.assert_close(features[..., :frames], batch[..., :frames])


@given(st.integers(2, 40), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_normalized_features_have_mean_zero_and_deviation_one(frames, seed):
    x = torch.randn(1, 3, 50, generator=torch.Generator().manual_seed(seed)) * 4 + 7
    y = normalize(x, torch.tensor([frames]), "per_feature")[0, :, :frames]
    torch.testing.assert_close(y.mean(1), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.std(1), torch.ones(3), atol=1e-3, rtol=0)


def test_mel_filters_have_unit_area_in_hertz():
    bank = mel_bank(FrontendConfig(n_fft=8192))
    hertz_per_bin = 16000 / 8192
    np.testing.assert_allclose(bank.sum(axis=1) * hertz_per_bin, 1.0, atol=0.02)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("window", "kaiser"),
        ("log_zero_guard_type", "floor"),
        ("log_zero_guard_value", "small"),
        ("pad_to", "max"),
        ("pad_to", -1),
        ("mel_norm", 2),
        ("normalize", {"fixed_mean": [0.0], "fixed_std": [1.0]}),
        ("sample_rate", "16000"),
        ("features", 0),
        ("window_size", None),
        ("n_fft", 256),
        ("n_mels", 64),
        ("n_fft", "512"),
        ("n_fft", -1),
        ("n_fft", 2**20),
        ("log_zero_guard_value", None),
        ("log_zero_guard_value", [1]),
        ("log_zero_guard_value", float("nan")),
        ("window_size", 1e-6),
        ("window_size", float("inf")),
        ("window_size", "0.02"),
        ("window_stride", 1e-6),
        ("window_stride", 0.0001),
        ("n_fft", 2**14),
        ("n_window_size", 400.5),
        ("n_window_stride", "160"),
        ("sample_rate", True),
        ("features", 10**9),
        ("lowfreq", None),
        ("lowfreq", 9000),
        ("highfreq", "8000"),
        ("preemph", "0.97"),
        ("mag_power", None),
        ("pad_value", [0]),
        ("log", "yes"),
        ("exact_pad", None),
        ("window", ["hann"]),
        (5, 1),
    ],
)
def test_unusable_key_is_named(key, value):
    with pytest.raises(CheckpointError, match=str(key)):
        FrontendConfig.from_mapping({key: value})


def test_training_keys_are_ignored():
    config = {"dither": 1e-5, "_target_": "x", "nb_augmentation_prob": 0.5}
    assert FrontendConfig.from_mapping(config) == FrontendConfig()
