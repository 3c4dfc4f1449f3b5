"""Utterances of a manifest: computed when asked for, broken ones named once, memory bounded."""

import json
import logging

import numpy as np
import pytest
import soundfile

from trtasr.audio.features import FrontendConfig
from trtasr.audio.manifest import read_manifest
from trtasr.audio.prepare import prepare
from trtasr.audio.read import read_audio
from trtasr.errors import AudioError


@pytest.fixture
def entries(tmp_path):
    rng = np.random.default_rng(0)
    lines = []
    for index, seconds in enumerate((1.0, 0.5, 2.0, 1.5)):
        soundfile.write(tmp_path / f"{index}.wav", rng.normal(0, 0.1, int(16000 * seconds)), 16000)
        lines.append(json.dumps({"audio_filepath": f"{index}.wav", "duration": seconds, "text": f"text {index}"}))
    (tmp_path / "manifest.json").write_text("\n".join(lines))
    return read_manifest(tmp_path / "manifest.json")


def test_features_that_do_not_fit_are_computed_again_and_are_the_same(entries, monkeypatch):
    whole = list(prepare(entries, FrontendConfig()))
    read, kept = [], whole[0].features.nbytes + whole[1].features.nbytes
    monkeypatch.setattr(
        "trtasr.audio.prepare.read_audio", lambda path, *rest: read.append(path.name) or read_audio(path, *rest)
    )
    monkeypatch.setattr("trtasr.audio.prepare.KEPT", kept)
    items = prepare(entries, FrontendConfig())
    assert read == ["0.wav", "1.wav", "2.wav", "3.wav"]
    for _ in range(2):
        read.clear()
        for found, expected in zip(items, whole, strict=True):
            assert (found.audio_filepath, found.text, found.frames) == (
                expected.audio_filepath,
                expected.text,
                expected.frames,
            )
            np.testing.assert_array_equal(found.features, expected.features)
        assert read == ["2.wav", "3.wav"]
    assert [item.text for item in items[1:3]] == ["text 1", "text 2"]
    assert items[-1].text == "text 3"
    with pytest.raises(IndexError):
        items[4]


def test_a_broken_recording_is_refused_before_anything_is_made_of_the_others(entries):
    entries[2].audio_filepath.write_bytes(b"no audio")
    with pytest.raises(AudioError, match=r"2\.wav: "):
        prepare(entries, FrontendConfig())


def warned(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_duration_that_is_not_the_files_is_named_once(entries, tmp_path, monkeypatch, caplog):
    lines = [
        {"audio_filepath": "2.wav", "duration": 4.0, "text": "twice"},
        {"audio_filepath": "3.wav", "duration": 1.52, "text": "rounded"},
        {"audio_filepath": "2.wav", "duration": 1.0, "offset": 0.5, "text": "a part"},
        {"audio_filepath": "2.wav", "duration": 2.0, "offset": 1.5, "text": "a part beyond"},
    ]
    (tmp_path / "wrong.json").write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.setattr("trtasr.audio.prepare.KEPT", 0)
    items = prepare(read_manifest(tmp_path / "wrong.json"), FrontendConfig())
    assert len(list(items)) == 4
    first, second = warned(caplog)
    assert first.startswith(f"{tmp_path}/2.wav: 2.00 s")
    assert first.endswith("4.00 s")
    assert second.startswith(f"{tmp_path}/2.wav: 0.50 s")
    assert second.endswith("2.00 s")
