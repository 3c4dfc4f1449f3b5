"""What an encoder-decoder of torch is to its network: what its decoder reads, what parity is tried on, what fits."""

import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from golden.moonshine_configs import config
from whisper_pair import DESCRIBED, GENERATION, ROWS, VOCABULARY, exported, hearing_whisper, tiny_features, tiny_whisper

from trtasr.audio.log_mel import LogMelConfig
from trtasr.audio.waveform import WaveformConfig
from trtasr.errors import UsageError
from trtasr.models.moonshine import Moonshine
from trtasr.network import attention as wiring
from trtasr.network.attention import attention, attention_original, decoder_inputs, teacher_forced
from trtasr.recipe import Calibration, EngineShapes
from trtasr.values import Example


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("pair"), hearing_whisper())


@pytest.fixture(scope="module")
def sound():
    features = tiny_features()
    return features.batches[0], features.lengths[0]


@pytest.mark.parametrize("shape", [(7,), (3, 7)], ids=["one", "batch"])
def test_a_decoder_reads_all_tokens_behind_an_empty_past(graphs, sound, shape):
    items = shape[0] if len(shape) > 1 else 1
    encoded = graphs.network.parts[0].inputs(Example(sound[0][:items], sound[1][:items]), {})
    assert (encoded["features"].shape, encoded["lengths"].shape) == ((items, ROWS, 60), (items,))
    cross = {f"cross_{kind}.0": np.ones((items, 2, 30, 16), np.float32) for kind in ("key", "value")}
    seen = {"encoded": None, "positions": np.full(items, 30), **cross}
    tokens = np.arange(math.prod(shape)).reshape(shape)
    found = decoder_inputs(seen, tokens, VOCABULARY)
    assert found["tokens"].tolist() == tokens.reshape(items, 7).tolist()
    assert found["positions"] is seen["positions"]
    assert (found["token_bias"].shape, found["token_bias"].any()) == ((VOCABULARY,), False)
    assert {name: found[name].shape for name in ("past_key.0", "past_value.0")} == {
        "past_key.0": (items, 2, 0, 16),
        "past_value.0": (items, 2, 0, 16),
    }
    assert found.keys() == {"tokens", "positions", "token_bias", *cross, "past_key.0", "past_value.0"}
    assert found["cross_key.0"] is cross["cross_key.0"]


@pytest.mark.parametrize("tokens", [None, np.zeros(0, np.int64)], ids=["none", "empty"])
def test_an_utterance_without_tokens_is_refused(tokens):
    with pytest.raises(UsageError, match="without tokens"):
        decoder_inputs({"positions": np.array([1])}, tokens, VOCABULARY)


def test_parity_is_tried_on_a_long_and_a_short_utterance_with_tokens():
    trial = wiring.trial(DESCRIBED)
    assert trial.features.shape == (2, ROWS, 80)
    assert (trial.lengths.tolist(), trial.tokens.shape) == ([80, 48], (2, 6))
    assert 0 <= trial.tokens.min() <= trial.tokens.max() < VOCABULARY
    again = wiring.trial(DESCRIBED)
    np.testing.assert_array_equal(trial.features, again.features)
    np.testing.assert_array_equal(trial.tokens, again.tokens)


@torch.no_grad()
def test_the_reference_is_the_module_in_either_precision(graphs):
    model, original = hearing_whisper(), graphs.original
    single, exact = (original.reference(original.trial, dtype) for dtype in (torch.float32, torch.float64))
    assert (single["logits"].dtype, exact["logits"].dtype) == (np.float32, np.float64)
    given = (original.trial.features, original.trial.lengths, original.trial.tokens)
    np.testing.assert_allclose(single["logits"], model(*map(torch.from_numpy, given)).numpy(), atol=1e-5)
    np.testing.assert_allclose(single["logits"], exact["logits"], atol=1e-3)
    assert not np.array_equal(single["logits"], exact["logits"])
    assert single["positions"].tolist() == exact["positions"].tolist() == [40, 24]
    again = original.reference(original.trial, torch.float32)  # the module itself stayed as it was
    np.testing.assert_array_equal(again["logits"], single["logits"])


def test_of_encoder_and_decoder_only_one_is_copied_at_a_time(monkeypatch):
    copied, model = [], tiny_whisper()
    plain = wiring.copy.deepcopy
    monkeypatch.setattr(wiring.copy, "deepcopy", lambda module: copied.append(type(module).__name__) or plain(module))
    teacher_forced(model, wiring.trial(DESCRIBED), torch.float32)
    assert copied == []
    teacher_forced(model, wiring.trial(DESCRIBED), torch.float64)
    assert copied == [type(model.encoder).__name__, type(model.decoder).__name__]


def shapes_of(described, engine=None):
    """Input shapes of both plans."""
    original = attention_original(tiny_whisper(), attention(described))
    return [profile.shapes() for profile in original.shapes(engine or EngineShapes(max_batch=8))]


def test_both_plans_have_the_shapes_of_their_graphs(graphs):
    described = replace(DESCRIBED, frontend=LogMelConfig(features=ROWS))  # 100 frames a second: 40 positions are 0.8 s
    found = shapes_of(described)
    for shapes, file in zip(found, graphs.files, strict=True):
        assert sorted(shapes) == sorted(value.name for value in onnx.load(file).graph.input)
    encoder, decoder = found
    assert encoder["features"] == [[1, ROWS, 20], [1, ROWS, 80], [8, ROWS, 80]]
    assert encoder["lengths"] == [[1], [1], [8]]
    assert decoder["cross_key.1"] == [[1, 2, 10, 16], [1, 2, 40, 16], [8, 2, 40, 16]]
    assert decoder["past_key.1"] == [[1, 2, 0, 16], [1, 2, 24, 16], [8, 2, GENERATION.max_length, 16]]
    assert decoder["tokens"] == [[1, 1], [1, 1], [8, len(GENERATION.prompt)]]
    assert decoder["token_bias"] == [[VOCABULARY]] * 3
    detecting = shapes_of(replace(described, generation=replace(GENERATION, languages=(41, 42))))
    assert detecting[1]["tokens"][2] == [8, 4]  # and the language


def test_the_cache_of_moonshine_is_as_wide_as_its_graph_has_it(tmp_path):
    """Its heads are padded (`HeadLinear`), which no configuration says."""
    described = replace(DESCRIBED, family="moonshine", frontend=WaveformConfig(), most_frames=math.inf)
    network = attention(described)
    original = attention_original(Moonshine(config()).eval(), network)
    original.export(tmp_path)
    graph = onnx.load(network.files(tmp_path)[1]).graph
    dims = {value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in graph.input}
    _, decoder = original.shapes(EngineShapes())
    for name in ("past_key.1", "cross_value.0"):
        assert {(shape[1], shape[3]) for shape in decoder.shapes()[name]} == {(dims[name][1], dims[name][3])}


def test_a_front_end_that_pads_gives_the_decoder_one_number_of_positions():
    _, decoder = shapes_of(replace(DESCRIBED, frontend=replace(DESCRIBED.frontend, pad_seconds=2)))
    assert [shape[2] for shape in decoder["cross_value.0"]] == [40, 40, 40]


def test_without_speech_engines_are_compared_on_another_noise_than_the_table_is_made_of(graphs):
    settings = Calibration(batches=3, batch_size=2, seconds=1.5)
    features, lengths = graphs.original.unheard(settings, EngineShapes())
    assert (features.shape, lengths.tolist()) == ((2, ROWS, 60), [60, 60])
    made = graphs.original.synthetic(replace(settings, batches=1))
    assert not np.allclose(features, made.batches[0])
    np.testing.assert_array_equal(features, graphs.original.synthetic(replace(settings, batches=1, seed=1)).batches[0])


def test_layers_are_ranked_among_those_of_their_module(graphs):
    block = graphs.original.block
    assert block("/encoder/layers.0/fc1/MatMul") == "encoder"
    assert block("/decoder/layers.0/encoder_attn/k_proj/MatMul") == "decoder"  # although the encoder's graph has it
    assert block("/decoder/MatMul") == "decoder"


def test_moonshine_reads_samples():
    network = attention(replace(DESCRIBED, family="moonshine", frontend=WaveformConfig()))
    assert [part.rate for part in network.parts] == [16000, 4.0]
    assert network.parts[0].steps(2.0) == (32000, 1)
