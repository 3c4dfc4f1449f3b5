"""What FP32 says to an utterance, and what the graphs make of given tokens, against torch."""

import numpy as np
import pytest
import torch
from torch_decoding import TorchDecoding
from whisper_pair import GENERATION, VOCABULARY, exported, hearing_whisper, tiny_features

from trtasr.engine.sessions import utterances
from trtasr.network.pair_run import Texts
from trtasr.pipeline.pair_speech import pair_logits, spoken_tokens
from trtasr.text.generate import greedy
from trtasr.text.tokens import CharTokenizer

TEXTS = Texts(CharTokenizer(tuple(map(str, range(VOCABULARY)))), GENERATION, 10.0)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("pair"), hearing_whisper())


@pytest.fixture(scope="module")
def heard():
    return [(item["features"], item["lengths"]) for item in utterances(tiny_features())]


def test_each_utterance_comes_with_the_prompt_and_what_is_said_to_it(graphs, heard):
    found = spoken_tokens(graphs.encoder, heard, TEXTS)
    decoding = TorchDecoding(hearing_whisper(), GENERATION, VOCABULARY)
    assert len(found) == len(heard) == 6
    for (feed, tokens), given in zip(found, heard, strict=True):
        said = greedy(decoding, *given, np.float32(given[1] / 10.0), GENERATION).tokens[0]
        assert feed is given
        assert tokens.dtype == np.int64
        assert tokens.tolist() == [*GENERATION.prompt, *said]
    assert len({tuple(tokens) for _, tokens in found}) == 6


@torch.no_grad()
def test_the_logits_are_those_of_teacher_forcing_each_behind_its_own_sound(graphs, heard):
    spoken = list(zip(heard, tiny_features().tokens, strict=True))
    found = pair_logits(graphs.encoder, spoken)
    for logits, ((features, lengths), tokens) in zip(found, spoken, strict=True):
        wanted = hearing_whisper()(*map(torch.from_numpy, (features, lengths, tokens[None])))
        np.testing.assert_allclose(logits, wanted[0].numpy(), atol=2e-5)
    swapped = pair_logits(graphs.encoder, [(heard[1], spoken[0][1])])
    assert np.abs(swapped[0] - found[0]).max() > 1e-3


def test_silence_always_ends(graphs):
    """Zeros and noise of any length end at the latest at the longest text."""
    random = np.random.default_rng(0)
    sounds = [np.zeros((1, 16, count), np.float32) for count in (1, 40, 80)]
    sounds += [random.normal(size=(1, 16, 80)).astype(np.float32) * level for level in (0.01, 1.0, 30.0)]
    feeds = [(sound, np.array([sound.shape[2]])) for sound in sounds]
    for _, tokens in spoken_tokens(graphs.encoder, feeds, TEXTS):
        assert len(GENERATION.prompt) <= len(tokens) <= GENERATION.max_length
        assert tuple(tokens[:3]) == GENERATION.prompt
