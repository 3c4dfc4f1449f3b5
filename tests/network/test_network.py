"""Parts of a network: how their files are called, what each is fed, which shapes their plans accept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported import exported as exported_checkpoint
from tiny_archive import write_archive
from whisper_pair import DESCRIBED, FRONTEND, GENERATION, ROWS, VOCABULARY, exported, hearing_whisper, tiny_features

from trtasr.audio.log_mel import LogMelConfig
from trtasr.audio.waveform import SHORTEST, WaveformConfig
from trtasr.errors import UsageError
from trtasr.network.families import network_of
from trtasr.network.network import Part, accepted, dictated, feeds, outputs, run, shortest_frames
from trtasr.recipe import EngineShapes
from trtasr.values import Example

SHAPES = EngineShapes(min_seconds=0.2, opt_seconds=5.0, max_seconds=20.0, opt_batch=2)
HUNDRED = replace(DESCRIBED, frontend=LogMelConfig(features=ROWS))  # 100 frames a second


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A Whisper that says another thing to every sound."""
    return exported(tmp_path_factory.mktemp("pair"), hearing_whisper())


@pytest.fixture(scope="module")
def ctc(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ctc")
    return exported_checkpoint(write_archive(folder / "tiny.nemo"), folder)


@pytest.fixture(scope="module")
def examples():
    return tiny_features().examples()


def noise(*lengths):
    """Utterances of a CTC model, alone, padding behind their valid frames."""
    random = np.random.default_rng(0)
    return [Example(random.normal(size=(1, 64, 80)).astype(np.float32), np.array([count])) for count in lengths]


def test_files_are_named_by_parts_and_kind(ctc):
    network = network_of(DESCRIBED)
    assert network.files(Path("a")) == (Path("a/encoder.fp32.onnx"), Path("a/decoder.fp32.onnx"))
    assert network.files(Path("a"), "plan") == (Path("a/encoder.plan"), Path("a/decoder.plan"))
    assert ctc.network.files(Path("a"), "qdq.onnx") == (Path("a/model.qdq.onnx"),)


def test_of_a_judged_output_the_valid_positions_are_read():
    values, counts = np.arange(12.0).reshape(1, 4, 3), np.array([2])
    plain = Part("p", "y", lambda example, seen: {}, 1.0, lambda seconds: (1, 1))
    np.testing.assert_array_equal(plain.valid({"y": values}), values[0])
    np.testing.assert_array_equal(replace(plain, counts="n").valid({"y": values, "n": counts}), values[0, :2])


def test_each_part_reads_its_graphs_inputs(pair, ctc, examples):
    for network, some in ((pair, examples), (ctc, noise(80))):
        for index, file in enumerate(network.files):
            (found,) = feeds(network.network, network.files, some[:1], index)
            assert found.keys() == {value.name for value in onnx.load(file).graph.input}


def test_a_part_is_fed_what_those_before_it_gave_to_the_same_example(pair, examples):
    encoded = list(run(pair.network, pair.files, examples, 1))
    assert "logits" not in encoded[0]
    for seen, found, example in zip(encoded, feeds(pair.network, pair.files, examples, 1), examples, strict=True):
        np.testing.assert_array_equal(found["cross_key.1"], seen["cross_key.1"])
        np.testing.assert_array_equal(found["tokens"], [example.tokens])


def test_no_more_than_one_example_is_taken_at_a_time(pair, examples):
    taken = []

    def stream():
        for example in examples:
            taken.append(example)
            yield example

    for count, _ in enumerate(run(pair.network, pair.files, stream()), 1):
        assert len(taken) == count
    assert count == len(examples)


@torch.no_grad()
def test_outputs_are_those_of_teacher_forcing_each_behind_its_own_sound(pair, examples):
    found = outputs(pair.network, pair.files, examples)
    for logits, example in zip(found, examples, strict=True):
        given = (example.features, example.lengths, example.tokens[None])
        wanted = hearing_whisper()(*map(torch.from_numpy, given))
        assert logits.shape == (len(example.tokens), VOCABULARY)
        np.testing.assert_allclose(logits, wanted[0].numpy(), atol=2e-5)
    (swapped,) = outputs(pair.network, pair.files, [replace(examples[1], tokens=examples[0].tokens)])
    assert np.abs(swapped - found[0]).max() > 1e-3


def test_an_engine_dictates_what_it_says_where_a_decoder_reads_tokens(pair, ctc, examples):
    plain = [Example(item.features, item.lengths) for item in examples]
    found = dictated(pair.network, pair.files, plain)
    assert all(said.features is item.features for said, item in zip(found, plain, strict=True))
    assert len({tuple(item.tokens) for item in found}) == len(examples)
    assert all(item.tokens[:3].tolist() == list(GENERATION.prompt) for item in found)
    assert [item.tokens for item in dictated(ctc.network, ctc.files, noise(80, 33))] == [None, None]


def test_outputs_of_frames_end_with_the_utterance(ctc):
    some = noise(80, 33)
    found = outputs(ctc.network, ctc.files, some)
    for log_probs, example in zip(found, some, strict=True):
        wanted = ctc.original.reference(example, torch.float32)
        (count,) = wanted["output_lengths"]
        assert len(log_probs) == count
        np.testing.assert_allclose(log_probs, wanted["log_probs"][0, :count], atol=1e-4)
    assert [len(item) for item in found] == [40, 17]


@pytest.mark.parametrize(
    ("described", "shapes", "features"),
    [
        (replace(HUNDRED, most_frames=1500.0), SHAPES, [[1, ROWS, 20], [2, ROWS, 512], [8, ROWS, 1500]]),
        (replace(HUNDRED, most_frames=80.0), SHAPES, [[1, ROWS, 20], [2, ROWS, 80], [8, ROWS, 80]]),
        (replace(HUNDRED, most_frames=10.0), SHAPES, [[1, ROWS, 10], [2, ROWS, 10], [8, ROWS, 10]]),
        (  # a front-end that pads has one length
            replace(HUNDRED, frontend=LogMelConfig(pad_seconds=30), most_frames=3000.0),
            EngineShapes(),
            [[1, 80, 3000], [1, 80, 3000], [8, 80, 3000]],
        ),
    ],
)
def test_a_plan_takes_no_more_than_the_model_has_positions_for(described, shapes, features):
    assert accepted(shapes, described).shapes()["features"] == features


def test_without_an_end_the_recipes_lengths_are_taken():
    described = replace(DESCRIBED, frontend=WaveformConfig(), most_frames=float("inf"))
    (_, _, low), (_, _, usual), (_, _, high) = accepted(EngineShapes(), described).shapes()["features"]
    assert (low, usual >= 5 * 16000, high >= 20 * 16000) == (3200, True, True)
    tiny = accepted(EngineShapes(min_seconds=0.01), described).shapes()["features"]
    assert tiny[0] == [1, 1, SHORTEST]  # one encoder position


def test_shapes_that_are_not_in_order_are_refused():
    with pytest.raises(UsageError, match="min <= opt <= max"):
        accepted(EngineShapes(min_seconds=2.0, opt_seconds=1.0), replace(HUNDRED, most_frames=1500.0))


@pytest.mark.parametrize(("config", "frames"), [(FRONTEND, 1), (WaveformConfig(), SHORTEST)])
def test_the_shortest_audio_gives_one_position(config, frames):
    assert shortest_frames(config) == frames
