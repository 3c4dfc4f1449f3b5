"""From a folder to text: what its rules let a decoder write, and how often the encoder runs for it."""

import numpy as np
import pytest
import torch
from golden import moonshine_configs, whisper_configs
from recognizers import recognizer
from whisper_folder import tokenizer_json, write_folder

from trtasr.checkpoint.read import read_checkpoint
from trtasr.models.moonshine import Moonshine

MOONSHINE = {**moonshine_configs.config(vocab_size=97), "architectures": ["MoonshineForConditionalGeneration"]}


class Script:
    """A decoder that detects a language and then says given tokens; counts the encoder's runs."""

    def __init__(self, tokens, language=None):
        self.tokens, self.language, self.begun = list(tokens), language, 0

    def begin(self, features, lengths):
        self.begun += 1
        self.left = iter(self.tokens)
        return lengths

    def step(self, tokens, bias):
        token = self.language if bias == "language" else next(self.left)
        return np.array([token]), np.zeros(1, np.float32)

    def start_probability(self, token):
        return np.zeros(1, np.float32)


def said(checkpoint, script, samples=80):
    """Text of one utterance."""
    hears = recognizer(checkpoint, script)
    return hears.decode(*hears.run(np.zeros((1, 1, samples), np.float32), np.array([samples])))[0]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("0000000000", [0] * 10),
        ("00000000001", [*[0] * 10, 1]),
        ("1" * 40, [1] * 40),
        ("01" * 12, [0, 1] * 12),
        ("ha", [2] * 12),
        ("0 ha", [0, *[2] * 12]),
    ],
)
def test_digit_strings_are_kept_and_loops_of_words_are_not(tmp_path, text, tokens):
    """Each digit is a token of its own: ten zeros are no loop."""
    content = tokenizer_json()
    words = {piece: token for piece, token in content["model"]["vocab"].items() if token > 2}
    content["model"]["vocab"] = {"0": 0, "1": 1, "\u0120ha": 2, **words}
    rules = whisper_configs.GENERATIONS["named"] | {"max_length": 448}
    config = whisper_configs.config(max_target_positions=64)
    folder = tmp_path / "folder"
    checkpoint = read_checkpoint(write_folder(folder, config=config, generation_config=rules, tokenizer=content))
    assert said(checkpoint, Script([*tokens, checkpoint.generation.end[0]])) == text


@pytest.mark.parametrize("case", ["named", "detected"])
def test_the_encoder_runs_once_for_an_utterance(tmp_path, case):
    rules = whisper_configs.GENERATIONS[case]
    checkpoint = read_checkpoint(write_folder(tmp_path, generation_config=rules))
    script = Script([3, 4, checkpoint.generation.end[0]], language=91)
    assert said(checkpoint, script) == "w3 w4"
    assert script.begun == 1
    recognizer(checkpoint, script).example(np.zeros((1, 1, 80), np.float32), np.array([80]))
    assert script.begun == 2


@pytest.mark.parametrize(("name", "whole"), [("moonshine-tiny-ko", 25), ("moonshine-tiny-uk", 15), ("moonshine", 12)])
def test_other_languages_than_english_are_whole(tmp_path, name, whole):
    """Two seconds of speech: 26 tokens, the prompt included, in Korean; 16 in Ukrainian; 13 in English."""
    torch.manual_seed(0)
    state = {f"model.{key}": tensor for key, tensor in Moonshine(MOONSHINE).state_dict().items()}
    files = {"generation_config": {}, "preprocessor_config": {"sampling_rate": 16000}}
    checkpoint = read_checkpoint(write_folder(tmp_path / name, state, config=MOONSHINE, **files))
    assert said(checkpoint, Script([*range(10, 10 + whole), 2]), 32000).count("w") == whole
    assert said(checkpoint, Script([*range(10, 11 + whole), 2]), 32000).count("w") == whole
