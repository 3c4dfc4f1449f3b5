"""Engines of two files: how they are named, what they say, how they are timed."""

import json
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sidecar import description
from torch_decoding import TorchDecoding
from whisper_pair import END, ENGLISH, GENERATION, START, TASK, VOCABULARY, exported, hearing_whisper, tiny_features

from trtasr.audio.log_mel import LogMelConfig
from trtasr.audio.waveform import WaveformConfig
from trtasr.bench.latency import Plan
from trtasr.bundle import Bundle, Sidecar
from trtasr.engine.ort_generate import OrtDecoding
from trtasr.errors import AudioError, QualityError, RecipeError
from trtasr.network import pair_run
from trtasr.network.pair_run import (
    PairRunner,
    Texts,
    Timed,
    benchmark_tokens,
    decoder_of,
    decoding,
    files_of,
    generation_of,
    is_pair,
    limit_of,
    pair_latencies,
    refuse_longer,
    texts_from,
)
from trtasr.results import Prepared
from trtasr.text.generate import biases, greedy
from trtasr.text.tokens import CharTokenizer

TOKENS = CharTokenizer(tuple(f"w{index}" for index in range(VOCABULARY)))
TEXTS = Texts(TOKENS, GENERATION, 25.0)
LIMITED = replace(GENERATION, tokens_per_second=6.5)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("pair"), hearing_whisper())


@pytest.fixture(scope="module")
def sound():
    features = tiny_features()
    return features.batches[0], features.lengths[0]


class Script:
    """Says given rows of tokens and notes how it was asked."""

    def __init__(self, *rows):
        self.rows, self.asked, self.begun = rows, [], 0

    def begin(self, features, lengths):
        self.begun, self.place = self.begun + 1, 0
        return lengths

    def step(self, tokens, bias):
        self.asked.append((tokens.shape, bias, tokens[:, -1].tolist()))
        self.place += 1
        found = np.array([row[min(self.place, len(row)) - 1] for row in self.rows])
        return found, np.zeros(len(found), np.float32)


def test_a_pair_is_two_files_beside_each_other():
    assert is_pair(Path("a/encoder.qdq.onnx"))
    assert not is_pair(Path("encoder.d/model.plan"))
    assert files_of(Path("a/encoder.plan")) == (Path("a/encoder.plan"), Path("a/decoder.plan"))
    assert files_of(Path("a/model.plan")) == (Path("a/model.plan"),)
    assert decoder_of(Path("encoder/encoder.int8.onnx")) == Path("encoder/decoder.int8.onnx")


@pytest.mark.parametrize("generation", [GENERATION, replace(GENERATION, no_speech=3, languages=(ENGLISH,)), None])
def test_the_rules_come_back_from_a_bundle(generation):
    stored = description("m", vocabulary=list(TOKENS.vocabulary), generation=asdict(generation) if generation else None)
    sidecar = msgspec.json.decode(json.dumps(stored | {"files": {}}), type=Sidecar)
    assert texts_from(Bundle(Path("b"), sidecar), 25.0) == replace(TEXTS, generation=generation)


def test_a_ctc_model_has_no_rules():
    with pytest.raises(AssertionError, match="generates nothing"):
        generation_of(Texts(CharTokenizer(("a",))))


def test_graphs_say_what_torch_says(graphs, sound):
    seconds = np.float32(sound[1] / TEXTS.frames_per_second)
    wanted = greedy(TorchDecoding(hearing_whisper(), GENERATION, VOCABULARY), *sound, seconds, GENERATION)
    with decoding(graphs.encoder, TEXTS, 1) as found:
        assert isinstance(found, OrtDecoding)
        run = PairRunner(found, TEXTS)
        tokens, counts = run(*sound)
        said = run.said(sound[0][:1], sound[1][:1])
    assert tokens.dtype == counts.dtype == np.int64
    assert [tuple(row[:count]) for row, count in zip(tokens, counts, strict=True)] == list(wanted.tokens)
    assert said.tolist() == [START, ENGLISH, TASK, *wanted.tokens[0]]
    assert len({*wanted.tokens}) == 3


DETECTING = replace(TEXTS, generation=replace(GENERATION, prompt=(START, TASK), languages=(ENGLISH,)))


def test_a_detected_language_is_part_of_what_is_said():
    script = Script([ENGLISH, 5, 6, END])
    said = PairRunner(script, DETECTING).said(np.zeros((1, 1, 50)), np.array([50]))
    assert said.tolist() == [START, ENGLISH, TASK, 5, 6]
    assert script.begun == 1


class Counted:
    """An ONNX Runtime session that counts its runs."""

    def __init__(self, session):
        self.session, self.runs = session, 0

    def run_with_ort_values(self, *given):
        self.runs += 1
        return self.session.run_with_ort_values(*given)


@pytest.mark.parametrize("texts", [TEXTS, DETECTING], ids=["named", "detected"])
@pytest.mark.parametrize("verb", ["__call__", "said"])
def test_the_encoder_graph_runs_once_per_utterance(graphs, sound, texts, verb):
    """And what is said behind a detected language is what a named one gives."""
    sound = (sound[0][:1], sound[1][:1])
    with decoding(graphs.encoder, texts, 1) as found, decoding(graphs.encoder, TEXTS, 1) as named:
        found._encoder = Counted(found._encoder)
        result = getattr(PairRunner(found, texts), verb)(*sound)
        assert found._encoder.runs == 1
        np.testing.assert_array_equal(result[0], getattr(PairRunner(named, TEXTS), verb)(*sound)[0])


def test_rows_are_filled_with_the_end():
    tokens, counts = PairRunner(Script([5, 6, END], [END], [9, END]), TEXTS)(np.zeros((3, 1, 50)), np.full(3, 50))
    assert tokens.tolist() == [[5, 6], [END, END], [9, END]]
    assert counts.tolist() == [2, 0, 1]


def test_nothing_said_is_one_column_of_ends():
    tokens, counts = PairRunner(Script([END], [END]), TEXTS)(np.zeros((2, 1, 50)), np.full(2, 50))
    assert tokens.tolist() == [[END], [END]]
    assert counts.tolist() == [0, 0]


def test_the_limit_per_second_counts_seconds_of_features():
    """Two and three seconds at 6.5 tokens each, three of the prompt among them."""
    rows = list(range(20))
    found = PairRunner(Script(rows, rows), replace(TEXTS, generation=LIMITED))
    assert found(np.zeros((2, 1, 75)), np.array([50, 75]))[1].tolist() == [13 - 3, 19 - 3]


def test_plans_are_opened_with_their_rules(monkeypatch, tmp_path):
    opened = []

    @contextmanager
    def open_pair(encoder, decoder, rules):
        opened.append((encoder, decoder, rules))
        yield "decoding"

    monkeypatch.setattr(pair_run, "open_pair", open_pair)
    with decoding(tmp_path / "encoder.plan", TEXTS) as found:
        assert found == "decoding"
    ((encoder, decoder, rules),) = opened
    assert (encoder.name, decoder) == ("encoder.plan", tmp_path / "decoder.plan")
    for name, bias in biases(GENERATION, VOCABULARY).items():
        np.testing.assert_array_equal(rules[name], bias)


def test_one_timed_run_is_the_prompt_and_one_token_after_the_other():
    script, lengths = Script([5, 6, END, 7]), np.array([20])
    timed = Timed(script, np.zeros((1, 3, 20), np.float32), lengths, GENERATION, 4, [])
    timed()
    assert script.asked == [
        ((1, 3), "first", [TASK]),
        ((1, 1), "later", [5]),
        ((1, 1), "later", [6]),
        ((1, 1), "later", [END]),
    ]
    assert script.begun == len(timed.encoder_ms) == 1
    assert timed.encoder_ms[0] > 0


def test_latencies_are_of_whole_utterances_and_name_encoder_and_tokens():
    scripts = {"fp32": Script([5], [5]), "cpu": Script([6], [6])}
    plans = [Plan(2.0, 2, 1, "CPU", runs=5, warmup=2), Plan(4.0, 2, 1, "CPU", runs=5, warmup=2)]
    shapes = [(np.zeros((2, 3, 10), np.float32), 1), (np.zeros((2, 3, 20), np.float32), 6)]
    found = pair_latencies(scripts, shapes, GENERATION, plans)
    assert list(found) == ["fp32", "cpu"]
    for label, latencies in found.items():
        assert [(item.audio_seconds, item.tokens, item.runs) for item in latencies] == [(2.0, 1, 5), (4.0, 6, 5)]
        assert all(0 < item.encoder_ms < item.p50_ms for item in latencies)
        assert scripts[label].begun == 2 * (5 + 2)
        assert len(scripts[label].asked) == 7 * 1 + 7 * 6
        assert {shape[0] for shape, _, _ in scripts[label].asked} == {2}


def test_the_warm_up_does_not_count_for_the_encoder(monkeypatch):
    """A clock by which the encoder takes 8, 4, 2, 1 and 1 seconds."""
    ticks = iter(value for run in range(20) for value in (100.0 * run, 100.0 * run + max(1, 8 >> run)))
    monkeypatch.setattr(pair_run, "perf_counter", lambda: next(ticks))
    plan = Plan(1.0, 1, 1, "CPU", runs=2, warmup=3)
    (latency,) = pair_latencies({"a": Script([5])}, [(np.zeros((1, 3, 9), np.float32), 1)], GENERATION, [plan])["a"]
    assert latency.encoder_ms == 1000.0


def test_what_is_longer_than_the_model_hears_is_refused():
    config, seconds = LogMelConfig(), {"fits": 2.0, "barely": 2.004, "long": 2.011}
    items = {
        name: Prepared(f"{name}.wav", length, "", np.zeros((1, 4), np.float32), 4) for name, length in seconds.items()
    }
    refuse_longer(config, 200, [items["fits"], items["barely"]], (1.0, 2.0))
    refuse_longer(config, 200, [], ())
    with pytest.raises(AudioError, match=r"long.wav: 2.011 s, but the model hears at most 2 s"):
        refuse_longer(config, 200, list(items.values()), ())
    with pytest.raises(RecipeError, match="bench_seconds"):
        refuse_longer(config, 200, [], [1.0, 2.5])


def test_a_benchmark_too_short_for_one_position_is_refused():
    refuse_longer(WaveformConfig(), 1 << 31, [], [0.06])
    with pytest.raises(RecipeError, match="bench_seconds"):
        refuse_longer(WaveformConfig(), 1 << 31, [], [0.05, 1.0])


@pytest.mark.parametrize(
    ("seconds", "generation", "tokens"),
    [
        (2.0, GENERATION, 8),
        (3.4, GENERATION, 14),
        (0.05, GENERATION, 1),
        (60.0, GENERATION, 24 - 3),
        (2.0, LIMITED, 8),
        (2.0, replace(GENERATION, tokens_per_second=1.5), 3),
    ],
)
def test_a_benchmark_generates_as_many_tokens_as_speech_has(seconds, generation, tokens):
    assert benchmark_tokens(seconds, generation) == tokens


def test_numbers_that_are_none_fail_the_run():
    class Broken:
        def begin(self, features, lengths):
            return lengths

        def step(self, tokens, bias):
            return np.full(len(tokens), END), np.full(len(tokens), np.nan, np.float32)

    with pytest.raises(QualityError, match="NaN or infinity"):
        PairRunner(Broken(), TEXTS)(np.zeros((1, 2, 8), np.float32), np.array([8]))


def test_a_runner_marks_what_its_limit_cut():
    words = list(range(24))
    run = PairRunner(Script(words, [5, END]), TEXTS)
    _, counts = run(np.zeros((2, 1, 50)), np.array([50, 50]))
    assert counts.tolist() == [21, 1]  # 24 with the prompt of 3
    assert run.cut == (True, False)


@pytest.mark.parametrize(
    ("generation", "words"),
    [
        (LIMITED, "6.5 tokens per second; generation.tokens_per_second of the recipe"),
        (GENERATION, "24 tokens"),
        (replace(GENERATION, tokens_per_second=13.0), "24 tokens"),
    ],
)
def test_the_limit_is_named(generation, words):
    assert words in limit_of(generation, 2.0)
