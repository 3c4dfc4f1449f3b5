"""Recognizers of encoder-decoders: what they say, what they doubt, how they are opened and timed."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from torch_decoding import TorchDecoding
from whisper_pair import (
    DESCRIBED,
    END,
    ENGLISH,
    GENERATION,
    ROWS,
    START,
    TASK,
    TOKENS,
    VOCABULARY,
    exported,
    hearing_whisper,
    tiny_features,
)

from trtasr.bench.latency import Plan, measure_latencies
from trtasr.engine.ort_generate import OrtDecoding
from trtasr.errors import QualityError
from trtasr.network import attention as wiring
from trtasr.network.attention import AttentionRecognizer, attention, benchmark_tokens, limit_of, rules_of
from trtasr.text.generate import biases, greedy

RULES = biases(GENERATION, VOCABULARY)
LIMITED = replace(GENERATION, tokens_per_second=6.5)
DETECTING = replace(GENERATION, prompt=(START, TASK), languages=(ENGLISH,))


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


def recognizer(runs, generation=GENERATION, rate=25.0):
    return AttentionRecognizer(runs, TOKENS, generation, rate)


def silence(*frames):
    """Features and lengths that a script does not hear."""
    return np.zeros((len(frames), 1, max(frames)), np.float32), np.array(frames)


# what is said


def test_graphs_say_what_torch_says(graphs, sound):
    rate = graphs.network.frontend.frames_per_second
    wanted = greedy(TorchDecoding(hearing_whisper(), GENERATION, VOCABULARY), *sound, sound[1] / rate, GENERATION)
    with graphs.network.open(graphs.files, 1) as found:
        assert isinstance(found.decoding, OrtDecoding)
        tokens, counts = found.run(*sound)
        example = found.example(sound[0][:1], sound[1][:1])
    assert tokens.dtype == counts.dtype == example.tokens.dtype == np.int64
    assert [tuple(row[:count]) for row, count in zip(tokens, counts, strict=True)] == list(wanted.tokens)
    assert example.tokens.tolist() == [START, ENGLISH, TASK, *wanted.tokens[0]]
    assert len({*wanted.tokens}) == 3


def test_an_example_is_the_utterance_with_what_is_said_to_it(graphs):
    """Each another thing, whatever was said before."""
    alone = tiny_features().examples()
    decoding = TorchDecoding(hearing_whisper(), GENERATION, VOCABULARY)
    with graphs.network.open(graphs.files) as found:
        said = [found.example(item.features, item.lengths) for item in alone]
    for example, item in zip(said, alone, strict=True):
        wanted = greedy(decoding, item.features, item.lengths, np.float32(item.lengths / 40.0), GENERATION).tokens[0]
        assert (example.features is item.features, example.lengths is item.lengths) == (True, True)
        assert example.tokens.tolist() == [*GENERATION.prompt, *wanted]
    assert len({tuple(example.tokens) for example in said}) == len(alone) == 6


def test_silence_always_ends(graphs):
    """Zeros and noise of any length end at the latest at the longest text."""
    random = np.random.default_rng(0)
    sounds = [np.zeros((1, ROWS, count), np.float32) for count in (1, 40, 80)]
    sounds += [random.normal(size=(1, ROWS, 80)).astype(np.float32) * level for level in (0.01, 1.0, 30.0)]
    with graphs.network.open(graphs.files) as found:
        for features in sounds:
            tokens = found.example(features, np.array([features.shape[2]])).tokens
            assert len(GENERATION.prompt) <= len(tokens) <= GENERATION.max_length
            assert tuple(tokens[:3]) == GENERATION.prompt


def test_a_detected_language_is_part_of_what_is_said():
    script = Script([ENGLISH, 5, 6, END])
    assert recognizer(script, DETECTING).example(*silence(50)).tokens.tolist() == [START, ENGLISH, TASK, 5, 6]
    assert script.begun == 1


class Counted:
    """An ONNX Runtime session that counts its runs."""

    def __init__(self, session):
        self.session, self.runs = session, 0

    def run_with_ort_values(self, *given):
        self.runs += 1
        return self.session.run_with_ort_values(*given)


@pytest.mark.parametrize("rules", [GENERATION, DETECTING], ids=["named", "detected"])
@pytest.mark.parametrize("verb", [lambda r, x: r.run(*x)[0], lambda r, x: r.example(*x).tokens], ids=["run", "example"])
def test_the_encoder_graph_runs_once_per_utterance(graphs, sound, rules, verb):
    """And what is said behind a detected language is what a named one gives."""
    sound = (sound[0][:1], sound[1][:1])
    network = attention(replace(DESCRIBED, generation=rules))
    with network.open(graphs.files, 1) as found, graphs.network.open(graphs.files, 1) as named:
        found.decoding._encoder = Counted(found.decoding._encoder)
        result = verb(found, sound)
        assert found.decoding._encoder.runs == 1
        np.testing.assert_array_equal(result, verb(named, sound))


def test_rows_are_filled_with_the_end():
    tokens, counts = recognizer(Script([5, 6, END], [END], [9, END])).run(*silence(50, 50, 50))
    assert tokens.tolist() == [[5, 6], [END, END], [9, END]]
    assert counts.tolist() == [2, 0, 1]


def test_nothing_said_is_one_column_of_ends():
    tokens, counts = recognizer(Script([END], [END])).run(*silence(50, 50))
    assert tokens.tolist() == [[END], [END]]
    assert counts.tolist() == [0, 0]


def test_text_is_made_of_the_valid_tokens():
    found = recognizer(None).decode(np.array([[5, 6], [9, END], [END, END]]), np.array([2, 1, 0]))
    assert found == [TOKENS.decode([5, 6]), TOKENS.decode([9]), ""]
    assert len({*found}) == 3


def test_the_limit_per_second_counts_seconds_of_features():
    """Two and three seconds at 6.5 tokens each, three of the prompt among them."""
    rows = list(range(20))
    assert recognizer(Script(rows, rows), LIMITED).run(*silence(50, 75))[1].tolist() == [13 - 3, 19 - 3]


def test_numbers_that_are_none_fail_the_run():
    class Broken(Script):
        def step(self, tokens, bias):
            return np.full(len(tokens), END), np.full(len(tokens), np.nan, np.float32)

    with pytest.raises(QualityError, match="NaN or infinity"):
        recognizer(Broken()).run(*silence(8))


# what is opened


def test_a_model_without_rules_of_generation_is_no_encoder_decoder():
    with pytest.raises(AssertionError, match="rules of generation"):
        rules_of(replace(DESCRIBED, generation=None))


def test_plans_are_opened_with_their_rules(monkeypatch, graphs, tmp_path):
    opened = []

    @contextmanager
    def open_pair(encoder, decoder, rules):
        opened.append((encoder, decoder, rules))
        yield "decoding"

    monkeypatch.setattr(wiring, "open_pair", open_pair)
    with graphs.network.open(graphs.network.files(tmp_path, "plan")) as found:
        assert found.decoding == "decoding"
        assert not found.captured
        found.use_graphs(False)  # there are none
    ((encoder, decoder, rules),) = opened
    assert (encoder, decoder) == (tmp_path / "encoder.plan", tmp_path / "decoder.plan")
    for name, bias in RULES.items():
        np.testing.assert_array_equal(rules[name], bias)


def test_graphs_are_opened_with_the_threads_and_waiting_asked_for(monkeypatch, graphs):
    opened = []
    monkeypatch.setattr(wiring, "OrtDecoding", lambda *given: opened.append(given))
    with graphs.network.open(graphs.files, 3, True):
        ((*files, rules, threads, timed),) = opened
    assert (tuple(files), threads, timed) == (graphs.files, 3, True)
    for name, bias in RULES.items():
        np.testing.assert_array_equal(rules[name], bias)


# what is doubted


def test_a_recognizer_marks_what_its_limit_cut_and_says_so():
    found = recognizer(Script(list(range(24)), [5, END]))
    assert found.doubt(2.0) == ""
    _, counts = found.run(*silence(50, 50))
    assert counts.tolist() == [21, 1]  # 24 with the prompt of 3
    assert found.cut == (True, False)
    assert limit_of(GENERATION, 2.0) in found.doubt(2.0)


def test_a_whole_transcript_after_a_cut_one_is_not_doubted():
    found = recognizer(Script(list(range(24))))
    found.run(*silence(50))
    assert found.doubt(2.0)
    found.decoding = Script([5, END])
    found.run(*silence(50))
    assert found.doubt(2.0) == ""


@pytest.mark.parametrize(("seconds", "doubted"), [(3.6, False), (3.7, True), (60.0, True)])
def test_speech_that_needs_more_tokens_than_there_are_is_doubted(seconds, doubted):
    """24 tokens at 6.5 per second are 3.69 s."""
    found = recognizer(Script([5, END]), LIMITED).doubt(seconds)
    assert ("24 tokens" in found) == bool(found) == doubted


def test_without_a_rate_no_length_is_doubted():
    assert recognizer(Script([5, END])).doubt(1e6) == ""


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


# what is timed


def test_one_timed_run_is_the_prompt_and_one_token_after_the_other():
    script = Script([5, 6, END, 7])
    timed = recognizer(script).whole_run(np.zeros((1, 3, 20), np.float32), 1.0)
    assert timed() is None
    assert script.asked == [
        ((1, 3), "first", [TASK]),
        ((1, 1), "later", [5]),
        ((1, 1), "later", [6]),
        ((1, 1), "later", [END]),
    ]
    assert (timed.tokens, script.begun, timed.lengths.tolist()) == (4, 1, [20])
    assert len(timed.encoded_ms) == 1
    assert timed.encoder_ms(1) > 0


@pytest.mark.parametrize(("seconds", "tokens"), [(0.25, 1), (1.5, 6)])
def test_latencies_are_of_whole_utterances_and_name_encoder_and_tokens(seconds, tokens):
    scripts = {"fp32": Script([5], [5]), "cpu": Script([6], [6])}
    features, plan = np.zeros((2, 3, 10), np.float32), Plan(2 * seconds, 2, 1, "CPU", runs=5, warmup=2)
    runs = {label: recognizer(script).whole_run(features, seconds) for label, script in scripts.items()}
    found = measure_latencies(runs, plan)
    assert list(found) == ["fp32", "cpu"]
    for label, latency in found.items():
        assert (latency.audio_seconds, runs[label].tokens, latency.runs) == (2 * seconds, tokens, 5)
        assert 0 < runs[label].encoder_ms(latency.runs) < latency.p50_ms
        assert scripts[label].begun == 5 + 2
        assert len(scripts[label].asked) == (5 + 2) * tokens
        assert {shape[0] for shape, _, _ in scripts[label].asked} == {2}


def test_the_warm_up_does_not_count_for_the_encoder(monkeypatch):
    """A clock by which the encoder takes 8, 4, 2, 1 and 1 seconds."""
    ticks = iter(value for run in range(20) for value in (100.0 * run, 100.0 * run + max(1, 8 >> run)))
    monkeypatch.setattr(wiring, "perf_counter", lambda: next(ticks))
    timed = recognizer(Script([5])).whole_run(np.zeros((1, 3, 9), np.float32), 0.1)
    latency = measure_latencies({"a": timed}, Plan(1.0, 1, 1, "CPU", runs=2, warmup=3))["a"]
    assert timed.encoder_ms(latency.runs) == 1000.0
    assert timed.encoder_ms(5) == 2000.0


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
    network = attention(replace(DESCRIBED, generation=generation))
    assert [part.steps(seconds) for part in network.parts] == [(max(1, round(40 * seconds)), 1), (1, tokens)]
