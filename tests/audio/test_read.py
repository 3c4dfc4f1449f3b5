"""Audio files of many kinds, and the bad ones."""

import io
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import soxr
import torch
from golden import cases

from trtasr.audio import read as reading
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


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        ("wav", "PCM_16", 1e-4),
        ("wav", "FLOAT", 0),
        ("flac", "PCM_16", 1e-4),
        ("ogg", "VORBIS", 0.1),
    ],
)
def test_wav_flac_and_ogg_at_the_model_rate_are_read_unchanged(tmp_path, suffix, subtype, tolerance):
    path = tmp_path / f"speech.{suffix}"
    wave = cases.signal(1.0)
    soundfile.write(path, wave, 16000, subtype=subtype)
    np.testing.assert_allclose(read_audio(path, 16000), wave, atol=tolerance)
    assert audio_seconds(path) == 1.0


KINDS = [
    ("WAV", "PCM_U8", 0.02),
    ("WAV", "PCM_24", 1e-6),
    ("WAV", "PCM_32", 1e-6),
    ("WAV", "DOUBLE", 1e-6),
    ("WAV", "ULAW", 0.03),
    ("WAV", "ALAW", 0.03),
    ("WAV", "IMA_ADPCM", 0.2),
    ("WAV", "MS_ADPCM", 0.2),
    ("WAVEX", "PCM_16", 1e-4),
    ("RF64", "PCM_16", 1e-4),
    ("W64", "PCM_16", 1e-4),
    ("CAF", "PCM_16", 1e-4),
    ("AIFF", "PCM_16", 1e-4),
    ("AU", "PCM_16", 1e-4),
    ("MP3", "MPEG_LAYER_III", 0.2),
    ("OGG", "OPUS", 0.3),
    ("WAV", "GSM610", 0.2),
    ("W64", "GSM610", 0.2),
    ("AIFF", "GSM610", 0.2),
    ("WAV", "G721_32", 0.1),
]


@pytest.mark.parametrize(("kind", "subtype", "tolerance"), KINDS)
def test_other_kinds_of_files_are_read(tmp_path, kind, subtype, tolerance):
    wave = voiced(1.0, 16000)
    path = tmp_path / "speech"
    soundfile.write(path, wave, 16000, format=kind, subtype=subtype)
    found = read_audio(path, 16000)
    assert 16000 <= len(found) < 16800  # blocks of a codec are padded
    np.testing.assert_allclose(found[:16000], wave, atol=tolerance)


@pytest.mark.parametrize("rate", [6000, 22050, 96000, 192000])
def test_six_extensible_channels_at_odd_rates(tmp_path, rate):
    path = tmp_path / "six.wav"
    wave = voiced(0.5, rate)
    soundfile.write(path, np.stack([wave] * 6, axis=1), rate, format="WAVEX", subtype="PCM_24")
    assert len(read_audio(path, 16000)) == 8000


def test_a_constant_offset_is_read_as_it_is(tmp_path):
    soundfile.write(tmp_path / "dc.wav", np.full(16000, 0.25, np.float32), 16000, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "dc.wav", 16000), np.full(16000, 0.25, np.float32))


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_blocks_give_what_the_whole_file_gives(tmp_path, monkeypatch, rate):
    path = tmp_path / "stereo.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (rate, 2)), rate)
    whole = soundfile.read(path, dtype="float32")[0].mean(axis=1, dtype=np.float32)
    expected = whole if rate == 16000 else soxr.resample(whole, rate, 16000, quality="HQ")
    monkeypatch.setattr(reading, "BLOCK", 1000)
    np.testing.assert_array_equal(read_audio(path, 16000), expected)


@pytest.mark.parametrize("subtype", ["PCM_16", "GSM610"])
def test_segments_of_files_that_cannot_seek(tmp_path, subtype):
    path = tmp_path / "speech.wav"
    soundfile.write(path, voiced(2.0, 8000), 8000, subtype=subtype)
    whole = read_audio(path, 8000)
    np.testing.assert_array_equal(read_audio(path, 8000, 0.5, 1.0), whole[4000:12000])
    np.testing.assert_array_equal(read_audio(path, 8000, 1.5), whole[12000:])


def test_one_channel_is_heard_alone(tmp_path):
    path = tmp_path / "stereo.wav"
    left, right = cases.signal(1.0), voiced(1.0, 16000)
    soundfile.write(path, np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(path, 16000, reading=reading.Reading(channel=0)), left)
    np.testing.assert_array_equal(read_audio(path, 16000, reading=reading.Reading(channel=1)), right)
    for channel in (2, -1):
        with pytest.raises(AudioError, match=f"no channel {channel}\n.* 0 to 1"):
            read_audio(path, 16000, reading=reading.Reading(channel=channel))


class TooLong(AudioError):
    pass


def test_what_the_header_says_is_too_long_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "hour.flac"
    soundfile.write(path, np.zeros((160_000, 2), np.int16), 16000)
    asked = []

    def refuse(file, seconds):
        asked.append(seconds)
        raise TooLong(f"{file}: long", "cut it")

    monkeypatch.setattr(reading.Mono, "read", None)
    with pytest.raises(TooLong):
        read_audio(path, 16000, reading=reading.Reading(refuse=refuse))
    assert asked == [10.0]


def test_a_header_that_promises_less_than_there_is_does_not_get_around_a_limit(tmp_path):
    path = tmp_path / "stream.flac"
    soundfile.write(path, np.zeros(320_000, np.int16), 16000)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    asked = []
    read_audio(path, 16000, reading=reading.Reading(refuse=lambda _, seconds: asked.append(seconds)))
    assert asked == [pytest.approx(16.384), 20.0]
    assert audio_seconds(path) == 20.0


PEAK = """
import resource, sys
from pathlib import Path
from trtasr.audio.read import read_audio

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

before = peak()
print(len(read_audio(Path(sys.argv[1]), 16000)), peak() - before)
"""


def test_silence_that_is_small_on_disk_takes_little_memory(tmp_path):
    """Eight channels at 192 kHz: a minute has 95 kB on disk and 370 MB as it comes."""
    path = tmp_path / "silence.flac"
    with soundfile.SoundFile(path, "w", 192_000, 8, "PCM_16") as file:
        for _ in range(6):
            file.write(np.zeros((1_920_000, 8), np.int16))
    assert path.stat().st_size < 100_000
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    samples, megabytes = map(int, done.stdout.split())
    assert samples == 60 * 16000
    assert megabytes < 100


def claims(kind, **fields):
    """A small file whose header claims what cannot be."""
    if kind == "flac":
        buffer = io.BytesIO()
        soundfile.write(buffer, np.zeros(1600, np.int16), 16000, format="FLAC")
        content = bytearray(buffer.getvalue())
        content[21] |= 0x0F
        content[22:26] = b"\xff" * 4
        return bytes(content)
    head = {"size": 3200, "rate": 16000, "channels": 1, "width": 16} | fields
    block = head["channels"] * head["width"] // 8
    form = struct.pack("<HHiIHH", 1, head["channels"], head["rate"], max(0, head["rate"] * block), block, head["width"])
    return (
        b"RIFF"
        + struct.pack("<I", 36)
        + b"WAVEfmt \x10\0\0\0"
        + form
        + b"data"
        + struct.pack("<I", head["size"])
        + bytes(3200)
    )


@pytest.mark.parametrize(
    "content",
    [
        claims("wav", rate=0),
        claims("wav", rate=-5),
        claims("wav", channels=0),
        claims("wav", channels=1025),
        claims("wav", width=0),
        claims("wav", rate=2**31 - 1),
        claims("wav", size=0),
    ],
    ids=["no rate", "negative rate", "no channel", "1025 channels", "no width", "huge rate", "no samples"],
)
def test_absurd_headers_end_in_a_sentence(tmp_path, content):
    (tmp_path / "bad.wav").write_bytes(content)
    refused(tmp_path / "bad.wav", "not readable audio|wrong sample rate|empty audio")


def test_a_header_of_two_to_the_36_samples_allocates_nothing(tmp_path):
    (tmp_path / "bad.flac").write_bytes(claims("flac"))
    assert len(read_audio(tmp_path / "bad.flac", 16000)) == 1600


@pytest.mark.parametrize("name", ["a.m4a", "a.webm", "a.mp4", "a.wma"])
def test_containers_that_libsndfile_does_not_read_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\0\0\0\x20ftypM4A " + bytes(1000))
    refused(tmp_path / name, "not readable audio .Format not recognised.")


def test_a_damaged_flac_is_refused(tmp_path):
    path = tmp_path / "bad.flac"
    soundfile.write(path, cases.signal(2.0), 16000)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = b"x" * 400
    path.write_bytes(content)
    refused(path, "not readable audio")


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
