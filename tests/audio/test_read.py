"""Audio files of many kinds, and the bad ones."""

import numpy as np
import pytest
import soundfile
import torch
from golden import cases

from trtasr.audio.features import FrontendConfig, MelFrontend
from trtasr.audio.read import audio_seconds, read_audio
from trtasr.errors import AudioError


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_stereo_at_other_rates_becomes_mono_at_16_khz(tmp_path, rate):
    path = tmp_path / "tone.wav"
    time = np.arange(2 * rate) / rate
    tone = 0.4 * np.sin(2 * np.pi * 1000 * time)
    soundfile.write(path, np.stack([1.5 * tone, 0.5 * tone], axis=1), rate, subtype="FLOAT")
    audio = read_audio(path, 16000)
    assert audio.dtype == np.float32
    assert audio.shape == (32000,)
    spectrum = np.abs(np.fft.rfft(audio))
    assert spectrum.argmax() == 2000  # bins of 0.5 Hz
    expected = 0.4 * np.sin(2 * np.pi * 1000 * np.arange(32000) / 16000)
    np.testing.assert_allclose(audio[500:-500], expected[500:-500], atol=1e-3)


def voiced(seconds, rate):
    """Random partials below 3.5 kHz with a syllable-like envelope: the same sound at every rate."""
    draw = np.random.Generator(np.random.PCG64(1))
    time = np.arange(round(seconds * rate)) / rate
    partials = sum(np.sin(2 * np.pi * (f * time + draw.random())) for f in np.linspace(40, 3500, 150))
    return (0.01 * partials * (0.2 + np.sin(2 * np.pi * 2 * time) ** 2)).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_features_of_resampled_stereo_are_close_to_those_of_the_original(tmp_path, rate):
    path = tmp_path / "speech.wav"
    wave = voiced(2.0, rate)
    noise = 0.05 * np.random.default_rng(1).standard_normal(len(wave))
    soundfile.write(path, np.stack([wave + noise, wave - noise], axis=1), rate, subtype="FLOAT")
    frontend = MelFrontend(FrontendConfig(highfreq=3300, log_zero_guard_value=1e-3))
    resampled, direct = (
        frontend(torch.from_numpy(audio)[None], torch.tensor([32000]))[0]
        for audio in (read_audio(path, 16000), voiced(2.0, 16000))
    )
    difference = (resampled - direct).abs()
    assert difference[..., 2:-20].max() < 0.02
    assert difference.mean() < 0.005


@pytest.mark.parametrize(("suffix", "subtype", "tolerance"), [
    ("wav", "PCM_16", 1e-4), ("wav", "FLOAT", 0), ("flac", "PCM_16", 1e-4), ("ogg", "VORBIS", 0.1),
])  # fmt: skip
def test_wav_flac_and_ogg_at_the_model_rate_are_read_unchanged(tmp_path, suffix, subtype, tolerance):
    path = tmp_path / f"speech.{suffix}"
    wave = cases.signal(1.0)
    soundfile.write(path, wave, 16000, subtype=subtype)
    np.testing.assert_allclose(read_audio(path, 16000), wave, atol=tolerance)
    assert audio_seconds(path) == 1.0


def test_segment(tmp_path):
    path = tmp_path / "speech.wav"
    wave = cases.signal(1.0)
    soundfile.write(path, wave, 16000, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(path, 16000, 0.25, 0.5), wave[4000:12000])
    np.testing.assert_array_equal(read_audio(path, 16000, 0.75), wave[12000:])
    with pytest.raises(AudioError, match="empty"):
        read_audio(path, 16000, 5.0, 1.0)


def refused(path, words):
    with pytest.raises(AudioError, match=words) as error:
        read_audio(path, 16000)
    assert str(path) in error.value.problem
    assert error.value.exit_code == 2


def test_missing_file(tmp_path):
    refused(tmp_path / "none.wav", "no such file")
    refused(tmp_path, "is a folder")


@pytest.mark.parametrize("content", [b"", b"not audio", b"RIFF\x00\x00\x00\x00WAVE"])
def test_unreadable_file(tmp_path, content):
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    refused(path, "not readable audio")


def test_empty_audio(tmp_path):
    path = tmp_path / "empty.wav"
    soundfile.write(path, np.zeros(0, np.float32), 16000)
    refused(path, "empty audio")


@pytest.mark.parametrize("rate", [100, 3999, 500_000])
def test_absurd_sample_rate(tmp_path, rate):
    path = tmp_path / "odd.wav"
    soundfile.write(path, np.zeros(100, np.float32), rate)
    refused(path, f"wrong sample rate, {rate} Hz")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite(tmp_path, value):
    path = tmp_path / "nan.wav"
    soundfile.write(path, np.array([0, value, 0], np.float32), 16000, subtype="FLOAT")
    refused(path, "not finite")
