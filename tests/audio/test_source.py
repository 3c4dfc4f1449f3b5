"""Where audio comes from: names of all kinds, folders, standard input."""

import io
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from golden import cases

from trtasr import audio
from trtasr.audio.read import read_audio
from trtasr.errors import AudioError, DiskError

WAVE = cases.signal(1.0)


def write(path):
    soundfile.write(path, WAVE, 16000, subtype="FLOAT")
    return path


NAMES = [b"caf\xe9.wav", "日本語 ø.wav".encode(), b"a tab\tand a\nnewline.wav", b"x.raw", b"-.wav"]


@pytest.mark.parametrize("name", NAMES)
def test_any_file_name_is_read(tmp_path, name):
    path = write(tmp_path / "plain.wav").rename(tmp_path / os.fsdecode(name))
    np.testing.assert_array_equal(read_audio(path, 16000), WAVE)


def test_an_error_names_a_file_that_is_not_utf_8(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    path.write_bytes(b"no audio")
    with pytest.raises(AudioError, match=r"caf.xe9\.wav") as error:
        read_audio(path, 16000)
    str(error.value).encode()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "is no regular file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "is no regular file"),
        (lambda path: path.symlink_to("nowhere"), "no such file"),
    ],
)
def test_what_is_no_file_ends_in_a_sentence(tmp_path, make, words):
    make(tmp_path / "x.wav")
    with pytest.raises(AudioError, match=words):
        read_audio(tmp_path / "x.wav", 16000)


@pytest.mark.parametrize("name", ["n" * 300, "a\0b"])
def test_a_name_that_no_file_can_have_ends_in_a_sentence(tmp_path, name):
    with pytest.raises(AudioError, match=r"be read|file name"):
        read_audio(tmp_path / name, 16000)


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_standard_input(tmp_path, monkeypatch, name):
    data = write(tmp_path / "a.wav").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    np.testing.assert_array_equal(read_audio(Path(name), 16000), WAVE)
    with pytest.raises(AudioError, match="standard input: empty"):
        read_audio(Path(name), 16000)


def test_standard_input_without_a_folder_for_temporary_files_ends_in_a_sentence(monkeypatch):
    def nowhere():
        raise FileNotFoundError(2, "found in ['/tmp']")

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(bytes(10))))
    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    with pytest.raises(DiskError, match=r"found in \['/tmp'\]"):
        read_audio(Path("-"), 16000)


def test_standard_input_is_bounded_and_no_terminal(monkeypatch):
    monkeypatch.setattr("trtasr.audio.source.MOST_INPUT", 10)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(bytes(11))))
    with pytest.raises(AudioError, match="standard input: more than"):
        read_audio(Path("-"), 16000)
    for closed in (None, SimpleNamespace(isatty=lambda: True)):
        monkeypatch.setattr("sys.stdin", closed)
        with pytest.raises(AudioError, match="is a terminal"):
            read_audio(Path("-"), 16000)


def test_a_folder_stands_for_the_audio_files_below_it(tmp_path):
    for name in ("b.FLAC", "a/2.wav", "a/1.m4a", "notes.txt", ".hidden.wav", ".cache/3.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    files = audio.source.audio_files([tmp_path, Path("single.xyz"), Path("-")])
    assert files == [
        tmp_path / "a" / "1.m4a",
        tmp_path / "a" / "2.wav",
        tmp_path / "b.FLAC",
        Path("single.xyz"),
        Path("-"),
    ]
    with pytest.raises(AudioError, match="empty: no audio file"):
        audio.source.audio_files([tmp_path / "b.FLAC", tmp_path / "empty"])
