"""Recordings that can be read but are broken: each is named in a warning, and good ones are not."""

import logging
import struct

import numpy as np
import pytest
import soundfile
from golden import cases

from trtasr.audio.read import read_audio
from trtasr.errors import AudioError

SECONDS = 4.0
WAVE = 0.3 * cases.signal(SECONDS)
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "ulaw.wav": ("WAV", "ULAW"),
    "adpcm.wav": ("WAV", "IMA_ADPCM"),
    "w64": ("W64", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "flac": ("FLAC", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
}
COUNTED = ("wav", "ulaw.wav", "adpcm.wav", "w64", "rf64", "aiff", "au", "mp3")  # whose header says how long they are


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING)

    def read(path, **how):
        caplog.clear()
        return len(read_audio(path, 16000, **how)) / 16000, [record.getMessage() for record in caplog.records]

    return read


def written(folder, suffix, samples=WAVE, rate=16000):
    kind, subtype = FORMATS[suffix]
    path = folder / f"speech.{suffix}"
    soundfile.write(path, samples, rate, format=kind, subtype=subtype)
    return path


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize("suffix", FORMATS)
def test_whole_recordings_give_no_warning(tmp_path, said, suffix):
    seconds, warnings = said(written(tmp_path, suffix))
    assert seconds == pytest.approx(SECONDS, abs=0.05)
    assert warnings == []


@pytest.mark.parametrize("suffix", COUNTED)
def test_a_truncated_recording_is_named_with_seconds_found_and_promised(tmp_path, said, suffix):
    path = halved(written(tmp_path, suffix))
    seconds, (warning,) = said(path)
    assert seconds < 0.6 * SECONDS
    assert warning.startswith(f"{path}: {seconds:.2f} s")
    assert "promises 4.0" in warning


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
def test_a_truncated_ogg_recording_is_named(tmp_path, said, suffix):
    path = halved(written(tmp_path, suffix))
    seconds, (warning,) = said(path)
    assert 0 < seconds < 0.6 * SECONDS
    assert warning.startswith(f"{path}: {seconds:.2f} s")
    assert "missing" in warning


def test_a_truncated_flac_recording_is_refused_with_the_seconds_promised(tmp_path):
    with pytest.raises(AudioError, match=r"promises 4\.00 s"):
        read_audio(halved(written(tmp_path, "flac")), 16000)


def with_sizes(path, data, riff=None):
    """A WAV file with other sizes in its header."""
    content = bytearray(path.read_bytes())
    place = content.index(b"data")
    content[place + 4 : place + 8] = struct.pack("<I", data)
    if riff is not None:
        content[4:8] = struct.pack("<I", riff)
    path.write_bytes(content)
    return path


STREAMED = [(0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFFFFF, 0x7FFFFFFF), (0x7FFFFFFF - 36, 0x7FFFFFFF), (0x80000000, 0x80000024)]


@pytest.mark.parametrize(("data", "riff"), STREAMED)
def test_the_sizes_that_streams_write_give_no_warning(tmp_path, said, data, riff):
    assert said(with_sizes(written(tmp_path, "wav"), data, riff)) == (SECONDS, [])


def test_a_header_longer_than_the_data_is_named(tmp_path, said):
    seconds, (warning,) = said(with_sizes(written(tmp_path, "wav"), 2 * 128_000, 36 + 2 * 128_000))
    assert seconds == SECONDS
    assert "4.00 s found" in warning
    assert "promises 8.00 s" in warning


@pytest.mark.parametrize("suffix", ["wav", "aiff", "au"])
def test_a_header_shorter_than_the_data_is_named(tmp_path, said, suffix):
    path = written(tmp_path, suffix)
    content = path.read_bytes()
    size = struct.pack("<I" if suffix == "wav" else ">I", 64_000 + 8 * (suffix == "aiff"))
    place = {"wav": content.find(b"data") + 4, "aiff": content.find(b"SSND") + 4, "au": 8}[suffix]
    path.write_bytes(content[:place] + size + content[place + 4 :])
    seconds, (warning,) = said(path)
    assert seconds == 2.0
    assert "2.00 s read" in warning
    assert "about 4.00 s" in warning


def test_chunks_behind_the_data_and_id3_tags_give_no_warning(tmp_path, said):
    path = written(tmp_path, "wav")
    path.write_bytes(path.read_bytes() + b"LIST" + struct.pack("<I", 20_000) + bytes(20_000))
    assert said(path) == (SECONDS, [])
    path = written(tmp_path, "mp3")
    path.write_bytes(b"ID3\x04\x00\x00" + bytes([0, 0, 64, 0]) + bytes(8192) + path.read_bytes() + b"TAG" + bytes(125))
    assert said(path)[1] == []


def test_mp3_without_a_count_of_its_frames_promises_nothing(tmp_path, said):
    """libsndfile guesses their length by the first frame's rate: wrong by a factor of two for variable rates."""
    samples = np.concatenate([np.zeros(64_000, np.float32), WAVE, np.zeros(64_000, np.float32)])
    path = tmp_path / "variable.mp3"
    soundfile.write(path, samples, 16000, bitrate_mode="VARIABLE")
    content = path.read_bytes()
    path.write_bytes(content[content.index(content[:2], content.index(b"Xing")) :])
    seconds, warnings = said(path)
    assert seconds == pytest.approx(12.0, abs=0.2)
    assert warnings == []


def test_flac_from_a_pipe_has_no_length_in_its_header_and_is_read_whole(tmp_path, said):
    path = written(tmp_path, "flac")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert said(path) == (SECONDS, [])


def test_float_samples_that_were_never_scaled_are_named(tmp_path, said):
    path = tmp_path / "loud.wav"
    soundfile.write(path, 32768 * WAVE, 16000, subtype="FLOAT")
    _, (warning,) = said(path)
    assert f"{path}: samples reach " in warning
    assert "full scale is 1" in warning
    soundfile.write(path, 3 * WAVE / np.abs(WAVE).max(), 16000, subtype="FLOAT")
    assert said(path)[1] == []


def test_channels_that_cancel_are_named_and_one_can_be_heard(tmp_path, said):
    path = tmp_path / "phase.wav"
    soundfile.write(path, np.stack([WAVE, -WAVE], axis=1), 16000, subtype="FLOAT")
    _, (warning,) = said(path)
    assert "cancel" in warning
    assert "--channel" in warning
    for shape in ([WAVE, WAVE], [WAVE, np.zeros_like(WAVE)], [np.zeros_like(WAVE)] * 2):
        soundfile.write(path, np.stack(shape, axis=1), 16000, subtype="FLOAT")
        assert said(path)[1] == []
