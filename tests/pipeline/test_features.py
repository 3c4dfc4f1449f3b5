"""Calibration features of a recipe: by three methods, with tokens where a decoder reads them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from tiny_archive import write_manifest
from whisper_pair import GENERATION, ROWS

from trtasr.errors import AudioError, RecipeError
from trtasr.network.voice import spoken
from trtasr.pipeline import features
from trtasr.pipeline.features import calibration_features
from trtasr.recipe import Calibration, Recipe

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = Calibration(batches=2, batch_size=3, seconds=1.5, seed=4, steps=1)


def recipe(**changes):
    return Recipe("tiny", "tiny", calibration=replace(SMALL, **changes))


@pytest.mark.parametrize("method", ["synthetic", "noise"])
def test_features_are_those_that_the_network_makes(ctc, method):
    found = calibration_features(method, recipe(), ctc.exported)
    wanted = getattr(ctc.exported.original, method)(SMALL)
    assert (found.method, found.seed, found.tokens) == (method, 4, ())
    assert [batch.shape for batch in found.batches] == [(3, 64, 150)] * 2
    for batch, expected in zip(found.batches, wanted.batches, strict=True):
        np.testing.assert_array_equal(batch, expected)


@pytest.mark.parametrize("method", ["synthetic", "noise"])
def test_every_item_gets_what_the_model_says_to_it(attention, method):
    found = calibration_features(method, recipe(), attention.exported)
    plain = getattr(attention.exported.original, method)(SMALL)
    wanted = spoken(attention.exported.network, attention.exported.files, plain, GENERATION)
    assert found.method == method
    assert len(found.tokens) == 6
    for tokens, expected in zip(found.tokens, wanted.tokens, strict=True):
        np.testing.assert_array_equal(tokens, expected)
    for batch, expected in zip(found.batches, plain.batches, strict=True):
        np.testing.assert_array_equal(batch, expected)


def test_audio_is_that_of_the_manifest(attention, tmp_path):
    write_manifest(tmp_path, 2)
    found = calibration_features("audio", recipe(manifest=str(tmp_path / "manifest.json")), attention.exported)
    assert [batch.shape for batch in found.batches] == [(1, ROWS, 40), (1, ROWS, 50)]
    assert len(found.tokens) == 2


def test_no_more_audio_is_read_than_the_control_uses(ctc, tmp_path, monkeypatch):
    write_manifest(tmp_path, 3)
    monkeypatch.setattr(features, "AUDIO_UTTERANCES", 2)
    found = calibration_features("audio", recipe(manifest=str(tmp_path / "manifest.json")), ctc.exported)
    assert [lengths.tolist() for lengths in found.lengths] == [[100], [125]]


def test_audio_needs_a_manifest(tiny):
    with pytest.raises(RecipeError, match="no manifest") as caught:
        calibration_features("audio", recipe(), tiny.exported)
    assert "calibration.manifest" in caught.value.repair


def test_calibration_is_no_longer_than_the_model_hears(attention):
    assert calibration_features("noise", recipe(seconds=2.0), attention.exported).batches[0].shape[2] == 80
    with pytest.raises(RecipeError, match=r"calibration\.seconds = 2\.1: longer than the model hears") as caught:
        calibration_features("noise", recipe(seconds=2.1), attention.exported)
    assert caught.value.repair == "use at most 2"


def recorded(folder, seconds):
    """A manifest of one recording."""
    soundfile.write(folder / "x.wav", np.zeros(round(16000 * seconds), np.float32), 16000)
    (folder / "manifest.json").write_text(json.dumps({"audio_filepath": "x.wav", "duration": seconds}))
    return recipe(manifest=str(folder / "manifest.json"))


def test_a_recording_longer_than_the_model_hears_is_refused(attention, tmp_path):
    with pytest.raises(AudioError, match=r"2\.5 s is longer than the model hears"):
        calibration_features("audio", recorded(tmp_path, 2.5), attention.exported)


def test_recordings_without_a_frame_are_refused(tiny, tmp_path):
    with pytest.raises(AudioError, match="shorter than one feature frame"):
        calibration_features("audio", recorded(tmp_path, 0.002), tiny.exported)
