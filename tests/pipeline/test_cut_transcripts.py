"""Transcripts that a limit of tokens cuts: the file is named, and the recipe changes the limit."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden import moonshine_configs
from nemo_archive import archive
from recognizers import recognizer
from whisper_folder import write_folder

from trtasr.bench.wer import measure_wer
from trtasr.errors import RecipeError
from trtasr.models.moonshine import Moonshine
from trtasr.pipeline.job import Options, begin, checkpoint_of
from trtasr.pipeline.lock import calibration_settings
from trtasr.pipeline.measure import transcriber
from trtasr.recipe import EngineShapes, Recipe, load_recipe
from trtasr.results import Prepared

CONFIG = {**moonshine_configs.config(vocab_size=97), "architectures": ["MoonshineForConditionalGeneration"]}
END = 2


@pytest.fixture(scope="module")
def moonshine(tmp_path_factory):
    """A folder of a Moonshine for English."""
    torch.manual_seed(0)
    state = {f"model.{name}": tensor for name, tensor in Moonshine(CONFIG).state_dict().items()}
    files = {"generation_config": {"max_length": 194}, "preprocessor_config": {"sampling_rate": 16000}}
    return write_folder(tmp_path_factory.mktemp("folders") / "moonshine-tiny", state, config=CONFIG, **files)


class Talker:
    """A decoder that says so many different words, then the end; None: it never ends."""

    def __init__(self, words):
        self.words = words

    def begin(self, features, lengths):
        self.said = 0
        return lengths

    def step(self, tokens, bias):
        self.said += 1
        word = END if self.words is not None and self.said > self.words else 10 + self.said % 70
        return np.full(len(tokens), word), np.zeros(len(tokens), np.float32)

    def start_probability(self, token):
        return np.zeros(1, np.float32)


def heard(seconds, name="long.wav"):
    return Prepared(name, seconds, "text", np.zeros((1, round(16000 * seconds)), np.float32), round(16000 * seconds))


def said(moonshine, words, seconds, caplog, rate=0.0):
    """Words of a transcript, and what is warned of."""
    recipe = Recipe("x", str(moonshine))
    checkpoint = checkpoint_of(replace(recipe, generation=replace(recipe.generation, tokens_per_second=rate)))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        text = transcriber(recognizer(checkpoint, Talker(words)))(heard(seconds))
    return len(text.split("w")) - 1, [record.getMessage() for record in caplog.records]


def test_speech_at_a_usual_pace_is_whole_and_nothing_is_said(moonshine, caplog):
    assert said(moonshine, 11, 2.0, caplog) == (11, [])


def test_a_rate_that_cuts_is_named_with_the_file(moonshine, caplog):
    count, [warning] = said(moonshine, 26, 2.0, caplog)
    assert count == 12  # int(2.0 s * 6.5), the start token included
    assert "long.wav: the transcript lacks its end" in warning
    assert "6.5 tokens per second; generation.tokens_per_second of the recipe" in warning


def test_a_minute_of_speech_is_cut_at_the_longest_length(moonshine, caplog):
    count, [warning] = said(moonshine, 300, 60.0, caplog)
    assert count == 193
    assert "long.wav: the transcript lacks its end" in warning
    assert "194 tokens" in warning


def test_speech_that_needs_more_tokens_than_there_are_is_named_however_soon_the_decoder_ends(moonshine, caplog):
    count, [warning] = said(moonshine, 12, 60.0, caplog)
    assert count == 12
    assert "long.wav: 60 s need more than the 194 tokens" in warning


def test_the_recipe_has_its_own_rate(moonshine, caplog):
    assert said(moonshine, 24, 2.0, caplog, rate=13.0) == (24, [])
    assert said(moonshine, 3, 2.0, caplog, rate=1.0)[0] == 1


def test_word_error_rates_say_how_many_were_cut(moonshine, caplog):
    checkpoint = checkpoint_of(Recipe("x", str(moonshine)))
    items = [heard(0.5, "short.wav"), heard(2.0, "second.wav"), heard(2.0, "third.wav")]
    with caplog.at_level(logging.WARNING):
        measure_wer(recognizer(checkpoint, Talker(8)), items, "none")
    [warning] = [record.getMessage() for record in caplog.records]
    assert warning.startswith("1 of 3 transcripts lack their end")
    assert warning.endswith("short.wav")


def test_a_recipe_file_and_the_job(moonshine, tmp_path):
    (tmp_path / "ko.toml").write_text(f"checkpoint = '{moonshine}'\n[generation]\ntokens_per_second = 13\n")
    recipe = load_recipe(tmp_path / "ko.toml")
    job = begin(replace(recipe, engine=EngineShapes(target="cpu")), Options(tmp_path / "out"))
    assert job.checkpoint.generation.tokens_per_second == 13
    assert calibration_settings(recipe, job.checkpoint)["tokens_per_second"] == 13


@pytest.mark.parametrize("rate", ["-1", "101", "1e300", "'fast'", "true"])
def test_rates_that_are_none(tmp_path, rate):
    (tmp_path / "x.toml").write_text(f"checkpoint = 'x'\n[generation]\ntokens_per_second = {rate}\n")
    with pytest.raises(RecipeError, match="tokens_per_second"):
        load_recipe(tmp_path / "x.toml")


def test_a_ctc_model_writes_no_tokens_a_second(tmp_path):
    recipe = Recipe("x", str(archive(tmp_path)))
    assert checkpoint_of(recipe).generation is None
    given = replace(recipe, generation=replace(recipe.generation, tokens_per_second=13.0))
    with pytest.raises(RecipeError, match=r"tokens_per_second = 13: a CTC model generates no tokens"):
        checkpoint_of(given)
