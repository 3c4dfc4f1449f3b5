"""The evaluation set: as it is committed, and as it is made."""

import json

import numpy as np
import pytest
import soundfile

from trtasr.zoo import evalset
from trtasr.zoo.corpus import orders
from trtasr.zoo.evalset import UTTERANCES, write_set
from trtasr.zoo.evaluate import EVAL_MANIFEST
from trtasr.zoo.grammar import vocabulary
from trtasr.zoo.speech import SAMPLE_RATE, voices


def lines(manifest) -> list[dict]:
    return [json.loads(line) for line in manifest.read_text().splitlines()]


@pytest.fixture(scope="module")
def entries() -> list[dict]:
    return lines(EVAL_MANIFEST)


def test_the_committed_set_is_complete_and_small(entries):
    folder = EVAL_MANIFEST.parent
    assert len(entries) == UTTERANCES >= 200
    assert {entry["audio_filepath"] for entry in entries} == {path.name for path in folder.glob("*.ogg")}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 6e6
    for entry in entries:
        info = soundfile.info(folder / entry["audio_filepath"])
        assert (info.samplerate, info.channels) == (16000, 1)
        assert info.duration == pytest.approx(entry["duration"], abs=1e-3)


def test_its_texts_are_of_the_grammar(entries):
    words = vocabulary()
    assert all(entry["text"] and set(entry["text"].split()) <= words for entry in entries)
    assert [entry["text"] for entry in entries] == [order.text for order in orders("eval", UTTERANCES, 2024)]


def test_its_voices_were_never_trained_on(entries):
    heard = {str(voice) for voice in voices("train") + voices("dev")}
    assert not heard & {entry["voice"] for entry in entries}


def tone(order):
    """In place of espeak-ng: a tone as long as the text."""
    time = np.arange(1600 * len(order.text.split())) / SAMPLE_RATE
    return (8000 * np.sin(2 * np.pi * 440 * time)).astype(np.int16)


def test_a_set_has_a_line_per_utterance_and_the_same_seed_gives_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(evalset, "fulfil", tone)
    seconds = write_set(tmp_path / "a", 5, seed=1)
    write_set(tmp_path / "b", 5, seed=1)
    entries = lines(tmp_path / "a" / "manifest.json")
    assert entries == lines(tmp_path / "b" / "manifest.json")
    assert [entry["text"] for entry in entries] == [order.text for order in orders("eval", 5, 1)]
    assert sum(entry["duration"] for entry in entries) == pytest.approx(seconds, abs=1e-3)
    for entry in entries:
        first, second = (soundfile.read(tmp_path / name / entry["audio_filepath"]) for name in "ab")
        np.testing.assert_array_equal(first[0], second[0])
        assert first[1] == SAMPLE_RATE
        assert len(first[0]) / SAMPLE_RATE == pytest.approx(entry["duration"], abs=1e-3)
        assert 0 < np.abs(first[0]).max() <= 1
