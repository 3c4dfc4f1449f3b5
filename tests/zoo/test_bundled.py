"""The committed checkpoint and evaluation set."""

import json

import pytest
import soundfile

from trtasr.zoo.corpus import orders
from trtasr.zoo.evalset import UTTERANCES
from trtasr.zoo.evaluate import CHECKPOINT, DIGITS_FOLDER, EVAL_MANIFEST, digit_strings, read_manifest, word_error_rate
from trtasr.zoo.grammar import vocabulary
from trtasr.zoo.network import load_nemo
from trtasr.zoo.speech import voices


@pytest.fixture(scope="module")
def entries() -> list[dict]:
    return [json.loads(line) for line in EVAL_MANIFEST.read_text().splitlines()]


def test_evaluation_set_is_complete_and_small(entries):
    folder = EVAL_MANIFEST.parent
    assert len(entries) == UTTERANCES >= 200
    assert {entry["audio_filepath"] for entry in entries} == {path.name for path in folder.glob("*.ogg")}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 6e6
    for entry in entries:
        info = soundfile.info(folder / entry["audio_filepath"])
        assert (info.samplerate, info.channels) == (16000, 1)
        assert info.duration == pytest.approx(entry["duration"], abs=1e-3)


def test_evaluation_texts_are_of_the_grammar(entries):
    words = vocabulary()
    assert all(entry["text"] and set(entry["text"].split()) <= words for entry in entries)
    assert [entry["text"] for entry in entries] == [order.text for order in orders("eval", UTTERANCES, 2024)]


def test_evaluation_voices_were_never_trained_on(entries):
    heard = {str(voice) for voice in voices("train") + voices("dev")}
    assert not heard & {entry["voice"] for entry in entries}


def test_checkpoint_is_small():
    model, _ = load_nemo(CHECKPOINT)
    assert CHECKPOINT.stat().st_size <= 10e6
    assert 1e6 <= sum(parameter.numel() for parameter in model.parameters()) <= 2.5e6


def test_checkpoint_hears_the_evaluation_set():
    model, frontend = load_nemo(CHECKPOINT)
    assert word_error_rate(model, frontend, read_manifest(EVAL_MANIFEST)[:60]) < 12


@pytest.mark.slow
def test_word_error_rate_on_the_evaluation_set_is_as_documented():
    model, frontend = load_nemo(CHECKPOINT)
    assert 1 <= word_error_rate(model, frontend, read_manifest(EVAL_MANIFEST)) <= 8


@pytest.mark.skipif(not DIGITS_FOLDER.is_dir(), reason="shared/data/digits is absent")
def test_real_digit_strings_are_heard():
    model, frontend = load_nemo(CHECKPOINT)
    assert word_error_rate(model, frontend, digit_strings(DIGITS_FOLDER)) <= 5
