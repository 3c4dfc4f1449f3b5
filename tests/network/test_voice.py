"""What a decoder reads while it is calibrated: a prompt, and a sample of what the FP32 model says."""

from dataclasses import replace

import numpy as np
import pytest
from whisper_pair import DESCRIBED, END, ENGLISH, FRENCH, GENERATION, alone, exported, tiny_features

from trtasr.network.families import network_of
from trtasr.network.voice import Voice
from trtasr.network.voice import spoken as said_to

RATE = 10.0  # frames per second: utterances of 6, 3.3 and 4.6 seconds


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """A network whose front-end is slow."""
    made = exported(tmp_path_factory.mktemp("pair"))
    slow = replace(DESCRIBED, frontend=replace(DESCRIBED.frontend, sample_rate=1000, hop_length=100))
    assert slow.frontend.frames_per_second == RATE
    return replace(made, network=network_of(slow))


@pytest.fixture(scope="module")
def features():
    return tiny_features()


@pytest.fixture(scope="module")
def spoken(graphs, features):
    return said(graphs, features)


def said(graphs, features, generation=GENERATION):
    return said_to(graphs.network, graphs.files, features, generation)


def test_tokens_are_a_prompt_and_a_sample_of_bounded_length(spoken, features):
    assert [len(tokens) for tokens in spoken.tokens] != [len(tokens) for tokens in features.tokens]
    for tokens, seconds in zip(spoken.tokens, [6.0, 3.3, 4.6] * 2, strict=True):
        sample = tokens[3:]
        assert tokens.dtype == np.int64
        assert tuple(tokens[:3]) == GENERATION.prompt
        assert len(sample) <= min(round(4 * seconds), GENERATION.max_length - 3)
        assert not set(sample) & {*GENERATION.suppress, END}
        assert sample[0] not in GENERATION.begin_suppress
    assert len({tuple(tokens) for tokens in spoken.tokens}) == 6
    np.testing.assert_array_equal(spoken.batches[0], features.batches[0])


def test_every_item_says_what_its_seed_makes_it_say(graphs, features, spoken):
    again, by_themselves, other = (
        said(graphs, items) for items in (features, alone(features), replace(features, seed=1))
    )
    for first, second in zip(spoken.tokens, again.tokens, strict=True):
        np.testing.assert_array_equal(first, second)
    for first, second in zip(spoken.tokens, by_themselves.tokens, strict=True):
        np.testing.assert_array_equal(first, second)
    assert [tuple(tokens) for tokens in other.tokens] != [tuple(tokens) for tokens in spoken.tokens]


def test_short_audio_has_room_for_eight_tokens_and_an_empty_item_says_its_prompt(graphs, features):
    endless = replace(GENERATION, end=(), begin_suppress=())
    found = said(graphs, replace(features, lengths=(np.array([3, 0, 60]), features.lengths[1])), endless)
    assert [len(tokens) for tokens in found.tokens] == [3 + 8, 3, 24, 24, 3 + 13, 3 + 18]
    assert [len(example.tokens) for example in found.examples()] == [3 + 8, 24, 24, 3 + 13, 3 + 18]


def test_a_language_that_the_prompt_lacks_is_drawn(graphs, features):
    rules = replace(GENERATION, prompt=(GENERATION.prompt[0], GENERATION.prompt[2]), languages=(ENGLISH, FRENCH))
    found = said(graphs, features, rules)
    assert {int(tokens[1]) for tokens in found.tokens} <= {ENGLISH, FRENCH}
    assert all(tokens[2] == GENERATION.prompt[2] for tokens in found.tokens)


def test_tokens_are_drawn_from_the_softmax_of_the_logits(graphs):
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))

    class Session:
        def run(self, names, inputs):
            return [np.array([np.argmax(logits + inputs["token_bias"])])]

    suppressed, encoded = np.array([0, 0, 0, -10000.0], np.float32), {"positions": np.array([1])}
    voice = Voice(graphs.network, Session(), encoded, {"later": suppressed}, np.random.default_rng(0))
    counts = np.bincount([voice.next_token([1], "later") for _ in range(4000)], minlength=4)
    np.testing.assert_allclose(counts / 4000, np.array([0.5, 0.3, 0.15, 0]) / 0.95, atol=0.03)
