"""The committed checkpoints and evaluation set."""

import json

import pytest
import soundfile

from trtasr.zoo.corpus import orders
from trtasr.zoo.evalset import UTTERANCES
from trtasr.zoo.evaluate import DIGITS_FOLDER, EVAL_MANIFEST, digit_strings, read_manifest, word_error_rate
from trtasr.zoo.grammar import vocabulary
from trtasr.zoo.network import bundled, configuration, load_nemo
from trtasr.zoo.speech import voices

# WER in percent on the evaluation set, as in trtasr/zoo/README.md
DOCUMENTED = {"quartznet": 4.16, "jasper": 7.05, "conformer": 2.38}


@pytest.fixture(scope="module")
def entries() -> list[dict]:
    return [json.loads(line) for line in EVAL_MANIFEST.read_text().splitlines()]


@pytest.fixture(scope="module", params=DOCUMENTED)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def recognizer(name):
    return load_nemo(bundled(name))


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


def test_every_committed_checkpoint_is_documented():
    assert {path.stem for path in bundled("any").parent.glob("*.nemo")} == set(DOCUMENTED)


def test_checkpoint_is_small_and_of_its_configuration(name, recognizer):
    assert bundled(name).stat().st_size <= 10e6
    assert recognizer.config == configuration(name)


def test_checkpoint_hears_the_evaluation_set(recognizer):
    assert word_error_rate(recognizer, read_manifest(EVAL_MANIFEST)[:60]) < 12


@pytest.mark.slow
def test_word_error_rate_on_the_evaluation_set_is_as_documented(name, recognizer):
    # One word is 0.08 %; another processor's rounding may flip a few.
    measured = word_error_rate(recognizer, read_manifest(EVAL_MANIFEST))
    assert measured == pytest.approx(DOCUMENTED[name], abs=0.3)
    assert measured <= 8


@pytest.mark.skipif(not DIGITS_FOLDER.is_dir(), reason="shared/data/digits is absent")
def test_real_digit_strings_are_heard(recognizer):
    assert word_error_rate(recognizer, digit_strings(DIGITS_FOLDER)) <= 5
