import random
import shutil

import numpy as np
import pytest

from trtasr.errors import MissingError
from trtasr.zoo import speech
from trtasr.zoo.speech import DEV_VARIANTS, EVAL_VARIANTS, TRAIN_VARIANTS, Style, Voice, spoken_form, synthesize, voices


def test_no_voice_is_in_two_splits():
    train, dev, held_out = (set(voices(split)) for split in ("train", "dev", "eval"))
    assert not train & dev
    assert not train & held_out
    assert not dev & held_out


def test_whole_variants_and_unheard_combinations_are_held_out():
    trained = {voice.variant for voice in voices("train")}
    held_out = {voice.variant for voice in voices("eval")}
    assert len(held_out - trained) == len(EVAL_VARIANTS) >= 10
    assert held_out & trained
    assert not set(TRAIN_VARIANTS) & (set(DEV_VARIANTS) | set(EVAL_VARIANTS))


def test_spoken_form_keeps_the_words():
    rng = random.Random(0)
    for text in ("one two three", "set an alarm"):
        for _ in range(20):
            assert spoken_form(text, rng).replace(",", "") == text


def test_missing_program_names_the_package(monkeypatch):
    monkeypatch.setattr(speech.shutil, "which", lambda _: None)
    with pytest.raises(MissingError, match="apt-get install espeak-ng"):
        synthesize("yes", Voice("en-us", "m1"), Style(150, 50, 0))


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_synthesis_is_16_khz_and_repeatable():
    sounds = [synthesize("twenty five", Voice("en-gb", "f4"), Style(150, 50, 0)) for _ in range(2)]
    assert sounds[0].dtype == np.float32
    assert 0.5 < len(sounds[0]) / speech.SAMPLE_RATE < 3
    assert np.abs(sounds[0]).max() == pytest.approx(0.5, abs=1e-3)
    np.testing.assert_array_equal(*sounds)
