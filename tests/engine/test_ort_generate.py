"""The pair of graphs in ONNX Runtime against the same network in torch, step by step."""

import numpy as np
import pytest
import torch
from torch_decoding import TorchDecoding
from whisper_pair import END, GENERATION, START, VOCABULARY, exported, hearing_whisper, tiny_features

from trtasr.engine.ort_generate import OrtDecoding, ort_values
from trtasr.text.generate import biases

RULES = biases(GENERATION, VOCABULARY)
PROMPT = np.array([GENERATION.prompt] * 3)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("pair"), hearing_whisper()).files


def opened(graphs):
    return OrtDecoding(*graphs, RULES, threads=1)


@pytest.fixture
def found(graphs):
    return opened(graphs)


@pytest.fixture
def wanted():
    return TorchDecoding(hearing_whisper(), GENERATION, VOCABULARY)


@pytest.fixture(scope="module")
def sound():
    features = tiny_features()
    return features.batches[0], features.lengths[0]


def steps(decoding, count):
    """Next tokens and log-probabilities of the prompt and of what follows it."""
    results = [decoding.step(PROMPT, "first")]
    while len(results) < count:
        results.append(decoding.step(results[-1][0][:, None], "later"))
    return [np.stack(values) for values in zip(*results, strict=True)]


def test_every_step_equals_torch(found, wanted, sound):
    np.testing.assert_array_equal(found.begin(*sound), wanted.begin(*sound))
    (tokens, log_probs), (other, other_log_probs) = (steps(side, 6) for side in (found, wanted))
    np.testing.assert_array_equal(tokens, other)
    np.testing.assert_allclose(log_probs, other_log_probs, atol=2e-5)
    assert tokens.dtype == np.int64
    assert not np.isin(tokens, GENERATION.suppress).any()
    for token in (0, START, END):
        np.testing.assert_allclose(found.start_probability(token), wanted.start_probability(token), atol=1e-6)


def test_the_start_probability_is_that_of_the_first_position_without_a_bias(found, sound):
    found.begin(*sound)
    steps(found, 3)
    probabilities = np.stack([found.start_probability(token) for token in range(VOCABULARY)])
    np.testing.assert_allclose(probabilities.sum(0), 1.0, atol=1e-5)
    assert (probabilities[START] > 1e-6).all()  # with its bias it would be 0
    found.begin(*sound)
    found.step(PROMPT[:, :1], "language")
    np.testing.assert_allclose(found.start_probability(5), probabilities[5], rtol=1e-5)


def test_a_new_utterance_begins_without_a_past(graphs, found, sound):
    features, lengths = sound
    found.begin(features[:, :, ::-1].copy(), lengths)
    other = steps(found, 4)[1]
    found.begin(features, lengths)
    with pytest.raises(AssertionError, match="no step"):
        found.start_probability(5)
    fresh = opened(graphs)
    fresh.begin(features, lengths)
    (tokens, log_probs), (wanted, expected) = (steps(side, 4) for side in (found, fresh))
    np.testing.assert_array_equal(tokens, wanted)
    np.testing.assert_array_equal(log_probs, expected)
    assert np.abs(log_probs - other).max() > 1e-3


def test_each_kind_of_step_has_its_own_bias(found, wanted, sound):
    for bias in RULES:
        for side in (found, wanted):
            side.begin(*sound)
        (tokens, log_probs), (other, expected) = (side.step(PROMPT, bias) for side in (found, wanted))
        np.testing.assert_array_equal(tokens, other)
        np.testing.assert_allclose(log_probs, expected, atol=2e-3 if bias == "language" else 2e-5)


def test_silence_ends_too(found):
    found.begin(np.zeros((3, 16, 60), np.float32), np.full(3, 60))
    tokens, log_probs = steps(found, 24 - 2)
    assert ((tokens >= 0) & (tokens < VOCABULARY)).all()
    assert np.isfinite(log_probs).all()


def test_values_need_not_be_contiguous():
    values = np.arange(6.0).reshape(2, 3).T
    assert ort_values(x=values)["x"].numpy().tolist() == values.tolist()
    assert torch.from_numpy(values).is_contiguous() is False
