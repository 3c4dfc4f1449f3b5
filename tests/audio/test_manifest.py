"""NeMo manifests and LibriSpeech folders."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from trtasr.audio.manifest import dataset_names, read_manifest, read_manifests
from trtasr.errors import AudioError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "clips").mkdir()
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        soundfile.write(tmp_path / "clips" / f"{name}.flac", np.zeros(int(seconds * 16000)), 16000)
    return tmp_path


def manifest(folder, *lines):
    path = folder / "test.json"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def test_nemo_manifest(folder):
    path = manifest(
        folder,
        {"audio_filepath": "clips/a.flac", "duration": 0.9, "text": " hello "},
        "",
        {"audio_filepath": str(folder / "clips" / "b.flac"), "text": "two", "offset": 0.5},
        {"audio_filepath": "clips/b.flac", "text": "three", "offset": 0.5, "duration": 1, "speaker": 7},
    )
    first, second, third = read_manifest(path)
    assert first.audio_filepath == folder / "clips" / "a.flac"
    assert (first.text, first.duration, first.segment) == ("hello", 0.9, (0.0, None))
    assert (second.text, second.duration, second.segment) == ("two", 1.5, (0.5, 1.5))
    assert third.segment == (0.5, 1.0)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/data/dev.json", "/data/an4.json"], ["dev", "an4"]),
        (["/data/librispeech/dev.json", "/data/vctk/dev.json"], ["librispeech", "vctk"]),
        (["/data/an4/manifest.json", "/data/vctk/Manifest.jsonl"], ["an4", "vctk"]),
        (["/a/x/dev.json", "/b/x/dev.json", "/c.json"], ["/a/x/dev.json", "/b/x/dev.json", "c"]),
        (["/data/x/dev.json", "/data/x/dev.jsonl"], ["/data/x/dev.json", "/data/x/dev.jsonl"]),
        (["/data/x/a.json", "/data/x/b.json", "/data/y/a.json"], ["x", "b", "y"]),
        (["/data/x/a.json", "/data/x.json", "/data/y/a.json"], ["x/a", "data/x", "y"]),
        (["/manifest.json"], ["manifest"]),
        (["/data/dev-clean", "/data/test.json"], ["dev-clean", "test"]),
    ],
)
def test_sets_are_called_by_the_first_name_that_tells_them_apart(paths, names):
    assert dataset_names([Path(path) for path in paths]) == names


def test_a_folder_keeps_the_dots_of_its_name_and_a_relative_manifest_has_a_folder(folder, monkeypatch):
    (folder / "dev.v1").mkdir()
    monkeypatch.chdir(folder / "clips")
    assert dataset_names([folder / "dev.v1", Path("manifest.json")]) == ["dev.v1", "clips"]


def test_several_manifests_are_read_one_after_another_by_name(folder):
    first = manifest(folder, {"audio_filepath": "clips/a.flac", "text": "one"})
    (folder / "other").mkdir()
    (folder / "other" / "manifest.json").write_text('{"audio_filepath": "../clips/b.flac", "text": "two"}\n' * 2)
    found = read_manifests([folder / "other" / "manifest.json", first])
    assert [(entry.text, entry.dataset) for entry in found] == [("two", "other"), ("two", "other"), ("one", "test")]
    assert [entry.dataset for entry in read_manifests([first])] == ["test"]
    assert read_manifests([]) == ()


def test_real_sets_are_told_apart_by_name(shared):
    data = shared / "data"
    found = read_manifests([data / name for name in ("librispeech/dev.json", "an4/an4.json", "vctk/vctk.json")])
    assert Counter(entry.dataset for entry in found) == {"dev": 60, "an4": 320, "vctk": 40}


def test_a_manifest_that_is_given_twice_is_refused_by_whatever_name(folder):
    path = manifest(folder, {"audio_filepath": "clips/a.flac", "text": "one"})
    (folder / "link.json").symlink_to(path)
    with pytest.raises(AudioError, match=r"test\.json: given twice"):
        read_manifests([path, folder / "link.json"])


def test_librispeech_folder(folder):
    chapter = folder / "1688" / "142285"
    chapter.mkdir(parents=True)
    for index in range(2):
        soundfile.write(chapter / f"1688-142285-000{index}.flac", np.zeros(8000), 16000)
    (chapter / "1688-142285.trans.txt").write_text("1688-142285-0000 THERE'S IRON\n1688-142285-0001 TWO\n")
    first, second = read_manifest(folder)
    assert first.audio_filepath == chapter / "1688-142285-0000.flac"
    assert (first.text, second.text, first.duration, first.offset) == ("THERE'S IRON", "TWO", 0.5, None)
    (chapter / "1688-142285.trans.txt").write_text("1688-142285-0000 A\n1688-142285-0007 B\n")
    with pytest.raises(AudioError, match=r"trans\.txt, line 2\b"):
        read_manifest(folder)


GOOD = {"audio_filepath": "clips/a.flac", "text": "x"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{not json", "JSON is malformed"),
        ("[1, 2]", "got `array`"),
        ("null", "got `null`"),
        ({"text": "x"}, "missing .* `audio_filepath`"),
        ({**GOOD, "audio_filepath": 3}, "audio_filepath"),
        ({**GOOD, "audio_filepath": ""}, "no audio_filepath"),
        ({"audio_filepath": "clips/a.flac"}, "no text"),
        ({**GOOD, "text": "  "}, "no text"),
        ({**GOOD, "text": None}, "no text"),
        ({**GOOD, "text": 5}, "text"),
        ({**GOOD, "audio_filepath": "clips/none.flac"}, "no such audio file"),
        ({**GOOD, "audio_filepath": "clips/\0.flac"}, "no such audio file"),
        ({**GOOD, "audio_filepath": "clips"}, "no such audio file"),
        ({**GOOD, "audio_filepath": "clips/" + "n" * 300}, "no such audio file"),
        ({**GOOD, "audio_filepath": "n/" * 4000}, "no such audio file"),
        ({**GOOD, "audio_filepath": "clips/pipe.wav"}, "no such audio file"),
        ({**GOOD, "audio_filepath": "/dev/zero"}, "no such audio file"),
        ({**GOOD, "audio_filepath": "clips/text.wav"}, "not readable audio"),
        ({**GOOD, "duration": "long"}, "duration"),
        ({**GOOD, "offset": -1}, "offset is -1"),
        ({**GOOD, "offset": True}, "offset"),
        ({**GOOD, "offset": 1e300}, "offset is 1e"),
        (json.dumps(GOOD)[:-1] + ', "duration": NaN}', "JSON is malformed"),
        (json.dumps(GOOD)[:-1] + ', "duration": -Infinity}', "JSON is malformed"),
        (json.dumps(GOOD)[:-1] + ', "duration": ' + "9" * 5000 + "}", "Number out of range"),
        (json.dumps(GOOD)[:-1] + ', "duration": 1e999}', "Number out of range"),
        (json.dumps(GOOD)[:-1] + ', "words": ' + "[" * 100_000 + "]" * 100_000 + "}", "recursion"),
        ('{"audio_filepath": "clips/\\ud800.flac", "text": "x"}', "not as expected"),
        ('{"audio_filepath": "clips/a.flac", "text": "\\udfff"}', "not as expected"),
    ],
)
def test_bad_line_is_named(folder, line, words):
    os.mkfifo(folder / "clips" / "pipe.wav")
    (folder / "clips" / "text.wav").write_text("no audio")
    path = manifest(folder, GOOD, "", line)
    with pytest.raises(AudioError, match=words) as error:
        read_manifest(path)
    assert f"{path}, line 3" in error.value.problem
    assert len(str(error.value)) < 1000


def test_windows_line_ends_and_a_byte_order_mark_are_no_part_of_a_line(folder):
    path = folder / "windows.json"
    lines = [json.dumps({"audio_filepath": "clips/a.flac", "text": text}, ensure_ascii=False) for text in ("é", "b")]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n\r\n")
    assert [entry.text for entry in read_manifest(path)] == ["é", "b"]


def test_a_line_without_end_and_lines_without_end_are_bounded(folder, monkeypatch):
    path = folder / "long.json"
    path.write_bytes(b'{"audio_filepath": "clips/a.flac", "text": "' + b"x" * 2_000_000)
    with pytest.raises(AudioError, match=r"long.json, line 1: .* 1 MiB"):
        read_manifest(path)
    monkeypatch.setattr("trtasr.audio.manifest.MOST_LINES", 2)
    with pytest.raises(AudioError, match="more than 2 lines"):
        read_manifest(manifest(folder, GOOD, GOOD, GOOD))


@pytest.mark.parametrize("name", ["pipe.json", "n" * 300 + ".json"])
def test_a_manifest_that_is_no_file_ends_in_a_sentence(folder, name):
    os.mkfifo(folder / "pipe.json")
    with pytest.raises(AudioError, match=r"no regular|no such"):
        read_manifest(folder / name)


def test_text_is_optional_where_none_is_needed(folder):
    assert [entry.text for entry in read_manifest(manifest(folder, {"audio_filepath": "clips/a.flac"}), False)] == [""]


def test_empty_or_missing_manifest(folder, tmp_path_factory):
    for path in (manifest(folder, ""), tmp_path_factory.mktemp("empty")):
        with pytest.raises(AudioError, match="no utterances"):
            read_manifest(path)
    with pytest.raises(AudioError, match="no such manifest"):
        read_manifest(folder / "none.json")
    (folder / "latin.json").write_bytes(b'\n{"text": "caf\xe9"}')
    with pytest.raises(AudioError, match=r"latin.json, line 2: .*UTF-8"):
        read_manifest(folder / "latin.json")


def test_real_manifest(shared):
    entries = read_manifest(shared / "data" / "librispeech" / "dev.json")
    assert len(entries) == 60
    assert sum(len(entry.text.split()) for entry in entries) == 1039
    assert sum(entry.duration for entry in entries) == pytest.approx(447.5, abs=0.1)
