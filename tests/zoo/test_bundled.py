"""The committed checkpoints."""

import pytest

from trtasr.zoo.evaluate import DIGITS_FOLDER, EVAL_MANIFEST, digit_strings, measure_wer, read_manifest
from trtasr.zoo.network import bundled, configuration, load_nemo

# WER in percent on the evaluation set, as in trtasr/zoo/README.md
DOCUMENTED = {"quartznet": 4.16, "jasper": 7.05, "conformer": 2.38}


@pytest.fixture(scope="module", params=DOCUMENTED)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def recognizer(name):
    return load_nemo(bundled(name))


def test_every_committed_checkpoint_is_documented():
    assert {path.stem for path in bundled("any").parent.glob("*.nemo")} == set(DOCUMENTED)


def test_checkpoint_is_small_and_of_its_configuration(name, recognizer):
    assert bundled(name).stat().st_size <= 10e6
    assert recognizer.config == configuration(name)


def test_checkpoint_hears_the_evaluation_set(recognizer):
    assert measure_wer(recognizer, read_manifest(EVAL_MANIFEST)[:60]) < 12


@pytest.mark.slow
def test_word_error_rate_on_the_evaluation_set_is_as_documented(name, recognizer):
    # One word is 0.08 %; another processor's rounding may flip a few.
    measured = measure_wer(recognizer, read_manifest(EVAL_MANIFEST))
    assert measured == pytest.approx(DOCUMENTED[name], abs=0.3)
    assert measured <= 8


@pytest.mark.skipif(not DIGITS_FOLDER.is_dir(), reason="shared/data/digits is absent")
def test_real_digit_strings_are_heard(recognizer):
    assert measure_wer(recognizer, digit_strings(DIGITS_FOLDER)) <= 5
