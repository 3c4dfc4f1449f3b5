"""Two plans on the fake TensorRT and GPU (tests/fakes): results, copies, addresses, limits and memory."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import tiny_pair
from fake_gpu import fake_gpu
from tiny_pair import HEADS, LAYERS, ROWS, VOCABULARY, WIDTH

from trtasr.engine.builder import NetworkRequest, build_network, make_monitor
from trtasr.engine.profile import DecoderProfile, Profile
from trtasr.engine.sessions import open_session
from trtasr.engine.trt_generate import open_pair
from trtasr.errors import BuildError

HALF = onnx.TensorProto.FLOAT16
PROMPT, MAX_LENGTH, FRAMES = 3, 9, 32
ENCODER = Profile(batches=(1, 1, 3), seconds=(0.04, 0.2, 0.3), frames_per_second=100, mel_bins=ROWS)
DECODER = DecoderProfile(
    batches=(1, 1, 3),
    positions=(2, 8, 16),
    layers=LAYERS,
    heads=HEADS,
    head_width=WIDTH,
    vocabulary=VOCABULARY,
    max_length=MAX_LENGTH,
    prompt=PROMPT,
)
BIASES = {
    "first": np.zeros(VOCABULARY, np.float32),
    "later": np.zeros(VOCABULARY, np.float32),
    "language": np.full(VOCABULARY, -10000, np.float32),
}
BIASES["first"][[2, 5]] = -10000
BIASES["language"][[7, 8]] = 0
GIVEN = np.array([[1, 4, 6], [3, 0, 9]])


@pytest.fixture(scope="module")
def gpu():
    """The fake tensorrt and driver, in the place of real ones."""
    with fake_gpu() as (_, trt, driver):
        yield SimpleNamespace(trt=trt, driver=driver)


@pytest.fixture(autouse=True)
def clean(gpu):
    """Every test gives all GPU memory back and leaves no context behind."""
    yield
    gpu.driver.state["limit"] = float("inf")
    assert not gpu.driver.memory
    assert gpu.driver.state["stack"] == 0


def build(trt, model, shapes, path):
    """A plan by the steps of a real build."""
    path.with_suffix(".onnx").write_bytes(model.SerializeToString())

    def customize(_network, config, _profile):
        config.progress_monitor = make_monitor(trt)

    request = NetworkRequest(path.with_suffix(".onnx"), shapes)
    path.write_bytes(build_network(trt, trt.Logger(trt.Logger.WARNING), request, customize).plan)
    return path


@pytest.fixture(scope="module", params=[tiny_pair.FLOAT, HALF], ids=["fp32", "fp16"])
def pair(gpu, request, tmp_path_factory):
    """Encoder plan and decoder plan."""
    folder = tmp_path_factory.mktemp("pair")
    return (
        build(gpu.trt, tiny_pair.encoder(request.param), ENCODER.shapes(), folder / "encoder.plan"),
        build(gpu.trt, tiny_pair.decoder(request.param), DECODER.shapes(), folder / "decoder.plan"),
    )


@pytest.fixture(scope="module")
def floats(gpu, tmp_path_factory):
    folder = tmp_path_factory.mktemp("floats")
    return (
        build(gpu.trt, tiny_pair.encoder(), ENCODER.shapes(), folder / "encoder.plan"),
        build(gpu.trt, tiny_pair.decoder(), DECODER.shapes(), folder / "decoder.plan"),
    )


class Reference:
    """The same graphs by ONNX Runtime, the cache in numpy arrays."""

    def __init__(self, pair):
        self.encoder, self.decoder = (open_session(path.with_suffix(".onnx"), 1) for path in pair)

    def begin(self, features, lengths):
        names = [output.name for output in self.encoder.get_outputs()]
        self.fed = dict(zip(names, self.encoder.run(None, {"features": features, "lengths": lengths}), strict=True))
        del self.fed["encoded"]
        for name in [name for name in self.fed if name.startswith("cross_")]:
            self.fed[name.replace("cross", "past")] = self.fed[name][:, :, :0]
        return self.fed["positions"]

    def step(self, tokens, bias):
        names = [output.name for output in self.decoder.get_outputs()]
        found = self.decoder.run(None, {**self.fed, "tokens": tokens, "token_bias": BIASES[bias]})
        answer = dict(zip(names, found, strict=True))
        self.fed |= {name.replace("present", "past"): value for name, value in answer.items() if "present" in name}
        self.logits = answer["logits"]
        return answer["next_tokens"], answer["next_log_probs"]


def speech(batch=2, frames=20, seed=0):
    features = np.random.default_rng(seed).normal(size=(batch, ROWS, frames)).astype(np.float32)
    return features, np.arange(frames - batch + 1, frames + 1)


def addresses(decoding):
    return dict(decoding._decoder.context.addresses)


def check(decoding, reference, batch=2, frames=20, seed=0, steps=5):
    """Both say the same of an utterance; the second one of a batch is over after two steps, and padded."""
    features, lengths = speech(batch, frames, seed)
    np.testing.assert_array_equal(decoding.begin(features, lengths), reference.begin(features, lengths))
    tokens, bias = np.resize(GIVEN, (batch, PROMPT)), "first"
    transcript = []
    for step in range(steps):
        found, log_probs = decoding.step(tokens, bias)
        expected, expected_log_probs = reference.step(tokens, bias)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(log_probs, expected_log_probs)
        assert (found.dtype, log_probs.dtype) == (np.int64, np.float32)
        tokens, bias = found[:, None], "later"
        transcript.append(found.copy())
        if step >= 2:
            tokens[1:] = 0
    return np.array(transcript)


def test_tokens_and_probabilities_are_those_of_the_graphs(pair):
    with open_pair(*pair, BIASES) as decoding:
        reference = Reference(pair)
        shapes = [(2, 20), (1, 7), (3, 32), (2, 21)]
        said = [check(decoding, reference, *shape, seed=seed)[:, 0] for seed, shape in enumerate(shapes)]
        assert len(np.unique(said)) > 3


def test_a_step_copies_two_numbers_per_utterance_to_the_host_and_nothing_to_the_gpu(pair, gpu):
    with open_pair(*pair, BIASES) as decoding:
        decoding.begin(*speech())
        tokens, _ = decoding.step(GIVEN, "first")
        for _ in range(4):
            gpu.driver.copies.clear()
            tokens, _ = decoding.step(tokens[:, None], "later")
            assert gpu.driver.copies == [("dtoh", 2 * 8), ("dtoh", 2 * 4)]


def test_tokens_are_uploaded_where_they_are_not_those_of_the_last_step(floats, gpu):
    with open_pair(*floats, BIASES) as decoding:
        decoding.begin(*speech())
        gpu.driver.copies.clear()
        tokens, _ = decoding.step(GIVEN, "first")
        assert gpu.driver.copies == [("htod", 2 * PROMPT * 8), ("dtoh", 2 * 8), ("dtoh", 2 * 4)]
        gpu.driver.copies.clear()
        tokens[1] += 1  # in the caller's own array: not what the last step said
        decoding.step(tokens[:, None], "later")
        assert gpu.driver.copies == [("htod", 2 * 8), ("dtoh", 2 * 8), ("dtoh", 2 * 4)]


def test_the_first_tokens_are_uploaded_even_where_the_utterance_before_ended_with_them(floats, gpu):
    reference = Reference(floats)
    with open_pair(*floats, BIASES) as decoding:
        decoding.begin(*speech())
        tokens, _ = decoding.step(GIVEN, "first")
        decoding.begin(*speech(seed=1))
        reference.begin(*speech(seed=1))
        gpu.driver.copies.clear()
        np.testing.assert_array_equal(decoding.step(tokens[:, None], "later"), reference.step(tokens[:, None], "later"))
        assert gpu.driver.copies[0] == ("htod", 2 * 8)


def test_encoding_copies_the_features_and_the_positions_alone(pair, gpu):
    with open_pair(*pair, BIASES) as decoding:
        gpu.driver.copies.clear()
        features, lengths = speech()
        decoding.begin(features, lengths)
        assert gpu.driver.copies == [("htod", features.nbytes), ("htod", lengths.nbytes), ("dtoh", 2 * 8)]


def test_biases_are_uploaded_once(floats, gpu):
    gpu.driver.copies.clear()
    with open_pair(*floats, BIASES) as decoding:
        assert gpu.driver.copies == [("htod", 4 * VOCABULARY)] * 3
        decoding.begin(*speech())
        chosen, _ = decoding.step(GIVEN[:, :1], "language")
        assert set(chosen) <= {7, 8}
        decoding.step(GIVEN[:, 1:], "first")
        assert gpu.driver.copies.count(("htod", 4 * VOCABULARY)) == 3


def test_the_decoder_reads_what_the_encoder_wrote_where_it_lies(pair):
    shared = ["positions", *(f"cross_{part}" for part in tiny_pair.PARTS)]
    with open_pair(*pair, BIASES) as decoding:
        for batch in (1, 3, 2):  # a larger batch moves them
            decoding.begin(*speech(batch))
            decoding.step(np.resize(GIVEN, (batch, PROMPT)), "first")
            given = decoding._encoder.context.addresses
            assert {name: addresses(decoding)[name] for name in shared} == {name: given[name] for name in shared}


def test_what_a_step_writes_is_what_the_next_one_reads(pair):
    with open_pair(*pair, BIASES) as decoding:
        decoding.begin(*speech())
        tokens, _ = decoding.step(GIVEN, "first")
        seen = [addresses(decoding)]
        for _ in range(3):
            tokens, _ = decoding.step(tokens[:, None], "later")
            seen.append(addresses(decoding))
    for before, after in pairwise(seen):
        assert after["tokens"] == before["next_tokens"]
        for part in tiny_pair.PARTS:
            assert after[f"past_{part}"] == before[f"present_{part}"]
            assert after[f"present_{part}"] == before[f"past_{part}"]  # only two places for each
    assert seen[0] != seen[1]
    assert {key: value for key, value in seen[1].items() if key != "logits"} == {
        key: value for key, value in seen[3].items() if key != "logits"
    }


def test_steps_allocate_nothing_beyond_the_longest_transcript(pair, gpu):
    with open_pair(*pair, BIASES) as decoding:
        decoding.begin(*speech())
        tokens, _ = decoding.step(GIVEN, "first")
        before = dict(gpu.driver.memory)
        for _ in range(MAX_LENGTH - PROMPT + 1):
            tokens, _ = decoding.step(tokens[:, None], "later")
        assert set(gpu.driver.memory) == set(before)
        assert set(decoding._decoder.context.shapes) == set(DECODER.shapes())
        item = decoding._decoder.inputs["past_key.0"].itemsize
        place = gpu.driver.memory[addresses(decoding)["past_key.0"]]
        assert place.nbytes == 2 * HEADS * (MAX_LENGTH + PROMPT) * WIDTH * item


def test_the_start_probability_is_that_of_the_first_step_and_read_when_asked(pair, gpu):
    reference = Reference(pair)
    with open_pair(*pair, BIASES) as decoding:
        for seed in (0, 1):
            features, lengths = speech(seed=seed)
            decoding.begin(features, lengths)
            reference.begin(features, lengths)
            reference.step(GIVEN, "first")
            tokens, _ = decoding.step(GIVEN, "first")
            row = reference.logits[:, 0].astype(np.float64)
            expected = np.exp(row)[:, 4] / np.exp(row).sum(axis=1)
            np.testing.assert_allclose(decoding.start_probability(4), expected, rtol=1e-6)
            decoding.step(tokens[:, None], "later")
            decoding.step(GIVEN[:, :2], "later")
            gpu.driver.copies.clear()
            np.testing.assert_allclose(decoding.start_probability(4), expected, rtol=1e-6)
            assert gpu.driver.copies == [("dtoh", VOCABULARY * 4)] * 2


@pytest.mark.parametrize(
    ("batch", "frames", "problem", "key"),
    [
        (
            4,
            20,
            "encoder.plan: input features is (4, 3, 20), but its optimization profile has 1 to 3 at axis 0",
            "engine.max_batch",
        ),
        (1, 49, "profile has 4 to 32 at axis 2", "engine.max_seconds"),
        (1, 3, "profile has 4 to 32 at axis 2", "engine.min_seconds"),
    ],
)
def test_audio_outside_the_profile_names_the_recipe_key(floats, batch, frames, problem, key):
    with open_pair(*floats, BIASES) as decoding:
        with pytest.raises(BuildError) as caught:
            decoding.begin(*speech(batch, frames))
        assert problem in caught.value.problem
        assert key in caught.value.repair
        check(decoding, Reference(floats))


def test_more_positions_than_the_decoder_takes_are_refused_before_the_encoder_runs(gpu, floats, tmp_path):
    narrow = replace(DECODER, positions=(1, 4, 8))
    decoder = build(gpu.trt, tiny_pair.decoder(), narrow.shapes(), tmp_path / "decoder.plan")
    with open_pair(floats[0], decoder, BIASES) as decoding:
        decoding.begin(*speech(frames=16))
        decoding.step(GIVEN, "first")
        gpu.driver.copies.clear()
        with pytest.raises(BuildError, match=r"cross_key.0 is \(2, 2, 10, 2\)(.|\n)*or engine.max_seconds"):
            decoding.begin(*speech(frames=20))
        assert not gpu.driver.copies
        with pytest.raises(AssertionError, match="no such batch"):
            decoding.step(GIVEN, "later")
        with pytest.raises(AssertionError, match="no step"):
            decoding.start_probability(0)


def test_a_prompt_or_transcript_that_is_too_long_is_refused_and_the_next_begins(floats):
    with open_pair(*floats, BIASES) as decoding:
        decoding.begin(*speech())
        with pytest.raises(BuildError, match=r"input tokens is(.|\n)*1 to 3 at axis 1(.|\n)*generation_config.json"):
            decoding.step(np.ones((2, PROMPT + 1), np.int64), "first")
        for _ in range(4):
            decoding.step(GIVEN, "later")
        with pytest.raises(BuildError, match=r"input past_key.0 is(.|\n)*0 to 9 at axis 2(.|\n)*max_length"):
            decoding.step(GIVEN, "later")
        check(decoding, Reference(floats))


def test_a_step_before_the_first_batch_is_a_mistake(floats):
    with open_pair(*floats, BIASES) as decoding:
        with pytest.raises(AssertionError, match="no such batch"):
            decoding.step(GIVEN, "first")
        decoding.begin(*speech())
        with pytest.raises(AssertionError, match="no step"):
            decoding.start_probability(0)


def test_memory_that_runs_out_is_said_and_the_next_batch_runs(floats, gpu):
    with open_pair(*floats, BIASES) as decoding:
        check(decoding, Reference(floats), batch=1)
        gpu.driver.state["limit"] = gpu.driver.state["allocated"] + 100
        with pytest.raises(BuildError, match="no GPU memory for"):
            decoding.begin(*speech(3))
        gpu.driver.state["limit"] = float("inf")
        check(decoding, Reference(floats), batch=3)


def test_an_error_inside_the_block_frees_everything(pair, gpu):
    def transcribe():
        with open_pair(*pair, BIASES) as decoding:
            decoding.begin(*speech())
            assert gpu.driver.memory
            decoding.step(GIVEN, "unknown")

    with pytest.raises(KeyError, match="unknown"):
        transcribe()
    assert not gpu.driver.memory
    assert gpu.driver.state["stack"] == 0


def test_an_error_at_the_opening_frees_everything(floats, gpu, tmp_path):
    gpu.driver.state["limit"] = 4 * VOCABULARY + 1
    with pytest.raises(BuildError, match="no GPU memory for token_bias/"), open_pair(*floats, BIASES):
        pass
    (tmp_path / "other.plan").write_bytes(b"of another GPU")
    with pytest.raises(BuildError, match=r"other.plan: TensorRT .* cannot load"):
        open_pair(floats[0], tmp_path / "other.plan", BIASES).__enter__()


def test_a_launch_that_fails_leaves_the_transcript_as_it_was(floats, monkeypatch):
    reference = Reference(floats)
    with open_pair(*floats, BIASES) as decoding:
        features, lengths = speech()
        decoding.begin(features, lengths)
        reference.begin(features, lengths)
        tokens, _ = decoding.step(GIVEN, "first")
        reference.step(GIVEN, "first")
        with monkeypatch.context() as patch:
            patch.setattr(decoding._decoder.context, "execute_async_v3", lambda handle: False)
            with pytest.raises(BuildError, match=r"decoder.plan: TensorRT could not launch"):
                decoding.step(tokens[:, None], "later")
        np.testing.assert_array_equal(decoding.step(tokens[:, None], "later"), reference.step(tokens[:, None], "later"))


def test_plans_and_biases_that_do_not_fit_are_refused(gpu, floats, tmp_path):
    half = build(gpu.trt, tiny_pair.encoder(HALF), ENCODER.shapes(), tmp_path / "half.plan")
    with pytest.raises(BuildError, match=r"cross_key.0 is float32, but cross_key.0 is float16"):
        open_pair(half, floats[1], BIASES).__enter__()
    with pytest.raises(BuildError, match=r"encoder.plan: the plan has no logits, next_log_probs"):
        open_pair(floats[0], floats[0], BIASES).__enter__()
    with pytest.raises(BuildError, match="bias first has 10 tokens, the plan 11"):
        open_pair(*floats, {"first": np.zeros(10, np.float32)}).__enter__()
