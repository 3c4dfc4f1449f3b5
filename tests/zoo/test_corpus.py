import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from trtasr.zoo.corpus import DigitRecordings, espeak_corpus, orders
from trtasr.zoo.speech import voices


def test_orders_are_repeatable_and_differ_by_split_and_seed():
    assert orders("train", 20, 1) == orders("train", 20, 1)
    assert orders("train", 20, 1) != orders("train", 20, 2)
    assert {order.voice for order in orders("eval", 300, 1)} <= set(voices("eval"))


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_the_cache_gives_back_what_was_synthesized(tmp_path):
    first = espeak_corpus(tmp_path, "dev", 4, 1, processes=1)
    again = espeak_corpus(tmp_path, "dev", 4, 1, processes=1)
    assert [clip.text for clip in first] == [order.text for order in orders("dev", 4, 1)]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.audio, other.audio)
        assert one.waveform().dtype == np.float32
        assert 0.1 < np.abs(one.waveform()).max() <= 1


@pytest.fixture
def recordings(tmp_path) -> Path:
    """One speaker; take k of a digit is a constant of length 800 + k at 8 kHz."""
    for digit in range(10):
        for take in range(8):
            soundfile.write(tmp_path / f"{digit}_ann_{take}.flac", np.full(800 + take, 0.25), 8000)
    return tmp_path


def test_test_takes_never_reach_training(recordings):
    train, test = DigitRecordings(recordings, test=False), DigitRecordings(recordings, test=True)
    lengths = [{len(take) for takes in part.takes.values() for take in takes} for part in (train, test)]
    assert lengths == [{1610, 1612, 1614}, {1600, 1602, 1604, 1606, 1608}]


def test_strings_say_their_digits(recordings):
    clip = DigitRecordings(recordings, test=True).string(random.Random(1), (3, 6))
    assert 3 <= len(clip.text.split()) <= 6
    assert clip.voice == "real-ann"
    assert clip.seconds > 0.1 * len(clip.text.split())
