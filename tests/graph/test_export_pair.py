"""Both graphs of a tiny Whisper against torch: values, names, types, and that the same module gives the same bytes."""

from itertools import chain

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from whisper_pair import START, VOCABULARY, exported, tiny_features, tiny_whisper

from trtasr.graph.check import assert_parity, check_model, run_graph
from trtasr.graph.export_pair import cache_names, pairs
from trtasr.graph.tensors import WEIGHTED, activation_tensors
from trtasr.text.generate import SUPPRESSED

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
LAYERS, HEADS, WIDTH = 2, 2, 16
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def batch():
    """Noise of three lengths with what torch makes of it, and seven tokens for each."""
    found = tiny_features()
    tokens = np.random.default_rng(1).integers(0, START, (3, 7))
    return {"features": found.batches[0], "lengths": found.lengths[0]}, tokens


@torch.no_grad()
def encoded_by(module, feeds):
    encoded, positions = module.encoder(*map(torch.from_numpy, feeds.values()))
    flat = [item.numpy() for item in chain.from_iterable(module.decoder.cross(encoded))]
    return {
        "encoded": encoded.numpy(),
        "positions": positions.numpy(),
        **dict(zip(cache_names("cross", LAYERS), flat, strict=True)),
    }


def decoder_feeds(encoded, tokens, **changes):
    """Inputs with an empty past and no bias."""
    cross = {name: encoded[name] for name in cache_names("cross", LAYERS)}
    past = {name.replace("cross", "past"): value[:, :, :0] for name, value in cross.items()}
    return {
        "tokens": tokens,
        "positions": encoded["positions"],
        "token_bias": np.zeros(VOCABULARY, np.float32),
        **cross,
        **past,
        **changes,
    }


@torch.no_grad()
def teacher_forced(module, feeds, tokens):
    return module(*map(torch.from_numpy, (*feeds.values(), tokens))).numpy()


def described(values):
    return [(v.name, v.type.tensor_type.elem_type, len(v.type.tensor_type.shape.dim)) for v in values]


def caches(kind):
    return [(name, FLOAT, 4) for name in cache_names(kind, LAYERS)]


def test_cache_names_are_key_and_value_layer_by_layer():
    assert cache_names("past", 2) == ["past_key.0", "past_value.0", "past_key.1", "past_value.1"]
    assert pairs("abcd") == [("a", "b"), ("c", "d")]


def test_inputs_and_outputs_have_their_names_and_types(pair):
    encoder, decoder = pair.encoder.graph, pair.decoder.graph
    assert described(encoder.input) == [("features", FLOAT, 3), ("lengths", INT, 1)]
    assert described(encoder.output) == [("encoded", FLOAT, 3), ("positions", INT, 1), *caches("cross")]
    assert described(decoder.input) == [
        ("tokens", INT, 2),
        ("positions", INT, 1),
        ("token_bias", FLOAT, 1),
        *caches("cross"),
        *caches("past"),
    ]
    assert described(decoder.output) == [
        ("logits", FLOAT, 3),
        ("next_tokens", INT, 1),
        ("next_log_probs", FLOAT, 1),
        *caches("present"),
    ]
    sizes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in decoder.input}
    assert sizes["token_bias"] == [VOCABULARY]
    assert sizes["past_value.1"] == ["batch", HEADS, "past", WIDTH]
    assert sizes["cross_key.0"] == ["batch", HEADS, "positions", WIDTH]
    for graph in (pair.encoder, pair.decoder):
        check_model(graph)


def test_the_encoder_equals_torch_at_mixed_lengths(pair, batch):
    found = run_graph(pair.encoder, batch[0])
    assert_parity(encoded_by(pair.module, batch[0]), found, TOLERANCE)
    assert found["positions"].tolist() == [30, 17, 23]


def test_all_tokens_at_once_equal_torch_and_the_last_ones_decide(pair, batch):
    feeds, tokens = batch
    found = run_graph(pair.decoder, decoder_feeds(encoded_by(pair.module, feeds), tokens))
    wanted = teacher_forced(pair.module, feeds, tokens)
    assert_parity({"logits": wanted}, found, TOLERANCE)
    assert found["next_tokens"].tolist() == wanted[:, -1].argmax(1).tolist()
    assert len(set(wanted.argmax(2).ravel().tolist())) > 3  # positions and utterances differ
    log_probs = torch.from_numpy(wanted[:, -1]).log_softmax(1).amax(1).numpy()
    np.testing.assert_allclose(found["next_log_probs"], log_probs, atol=TOLERANCE)


@pytest.mark.parametrize("steps", [(3, 4, 5, 6, 7), (1, 2, 7), (6, 7)])
def test_steps_through_the_cache_equal_teacher_forcing(pair, batch, steps):
    feeds, tokens = batch
    encoded = run_graph(pair.encoder, feeds)
    wanted, past, begin = teacher_forced(pair.module, feeds, tokens), {}, 0
    for end in steps:
        found = run_graph(pair.decoder, decoder_feeds(encoded, tokens[:, begin:end], **past))
        np.testing.assert_allclose(found["logits"], wanted[:, begin:end], atol=TOLERANCE)
        past = {name.replace("present", "past"): found[name] for name in cache_names("present", LAYERS)}
        assert {value.shape for value in past.values()} == {(3, HEADS, end, WIDTH)}
        begin = end


def test_a_bias_rules_tokens_out_and_the_probability_is_that_of_the_rest(pair, batch):
    feeds, tokens = batch
    encoded, bias = encoded_by(pair.module, feeds), np.zeros(VOCABULARY, np.float32)
    plain = run_graph(pair.decoder, decoder_feeds(encoded, tokens))
    bias[plain["next_tokens"]] = SUPPRESSED
    bias[3] = 1.5
    found = run_graph(pair.decoder, decoder_feeds(encoded, tokens, token_bias=bias))
    np.testing.assert_array_equal(found["logits"], plain["logits"])
    last = torch.from_numpy(plain["logits"][:, -1] + bias).log_softmax(1)
    assert found["next_tokens"].tolist() == last.argmax(1).tolist()
    assert not set(found["next_tokens"]) & set(plain["next_tokens"])
    np.testing.assert_allclose(found["next_log_probs"], last.amax(1).numpy(), atol=TOLERANCE)
    assert (found["next_log_probs"] > -np.log(VOCABULARY)).all()


def test_large_logits_do_not_overflow_the_probability(pair, batch):
    feeds, tokens = batch
    bias = np.zeros(VOCABULARY, np.float32)
    bias[5] = 2000.0
    found = run_graph(pair.decoder, decoder_feeds(encoded_by(pair.module, feeds), tokens, token_bias=bias))
    assert found["next_tokens"].tolist() == [5] * 3
    np.testing.assert_allclose(found["next_log_probs"], 0.0, atol=1e-6)


def test_a_batch_gives_what_its_items_give_alone(pair, batch):
    feeds, tokens = batch
    together = run_graph(pair.encoder, feeds)
    logits = run_graph(pair.decoder, decoder_feeds(together, tokens))["logits"]
    for row, (length, count) in enumerate(zip(feeds["lengths"], together["positions"], strict=True)):
        item = {"features": feeds["features"][row : row + 1, :, :length], "lengths": np.array([length])}
        alone = run_graph(pair.encoder, item)
        assert alone["positions"].tolist() == [count] == [alone["encoded"].shape[1]]
        np.testing.assert_allclose(together["encoded"][row, :count], alone["encoded"][0], atol=TOLERANCE)
        single = run_graph(pair.decoder, decoder_feeds(alone, tokens[row : row + 1]))["logits"]
        np.testing.assert_allclose(logits[row], single[0], atol=TOLERANCE)


def weighted(graph):
    return [node.name for node in graph.graph.node if node.op_type in WEIGHTED]


def test_nodes_bear_the_names_of_their_modules_and_the_encoder_has_the_cross_projections(pair):
    cross = [f"/decoder/layers.{layer}/encoder_attn/{part}_proj/MatMul" for layer in range(LAYERS) for part in "kv"]
    encoder, decoder = weighted(pair.encoder), weighted(pair.decoder)
    assert [name for name in encoder if not name.startswith("/encoder/")] == cross
    assert {"/encoder/conv1/Conv", "/encoder/layers.1/self_attn/k_proj/MatMul", "/encoder/layers.0/fc2/MatMul"} <= set(
        encoder
    )
    assert {
        "/decoder/layers.0/encoder_attn/q_proj/MatMul",
        "/decoder/layers.1/self_attn/v_proj/MatMul",
        "/decoder/layers.1/fc1/MatMul",
        "/decoder/MatMul",
    } <= set(decoder)
    assert all(name.startswith("/decoder/") for name in decoder)
    weights = {item.name for item in pair.encoder.graph.initializer}
    assert {name.strip("/").replace("/", ".").replace("MatMul", "weight") for name in cross} <= weights


def test_no_scale_of_one_graph_could_be_taken_for_the_others(pair):
    names = [
        {name for node in graph.graph.node for name in node.output} | {x.name for x in graph.graph.initializer}
        for graph in (pair.encoder, pair.decoder)
    ]
    assert not names[1].intersection(activation_tensors(pair.encoder))
    assert not names[0].intersection(activation_tensors(pair.decoder))


def test_no_two_layers_share_a_weight(pair):
    for graph, count in ((pair.encoder, 2 + 6 * LAYERS + 2 * LAYERS), (pair.decoder, 8 * LAYERS + 1)):
        stored = {item.name for item in graph.graph.initializer}
        read = [node.input[1] for node in graph.graph.node if node.op_type in WEIGHTED and node.input[1] in stored]
        assert len(read) == len(set(read)) == count
        assert "decoder.embed_tokens.weight" not in read  # the logits have a copy, in their own layout


def test_equal_biases_are_each_layers_own(tmp_path):
    """torch's exporter stores equal constants once."""
    module = tiny_whisper()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(("fc1.bias", "conv1.bias", "conv2.bias")):
                parameter.zero_()
    for path, prefix in zip(exported(tmp_path, module).files, ("encoder", "decoder"), strict=True):
        graph = onnx.load(path).graph
        assert "Identity" not in {node.op_type for node in graph.node}
        read = [name for node in graph.node for name in node.input]
        biases = [f"{prefix}.layers.{layer}.fc1.bias" for layer in range(LAYERS)]
        assert [read.count(name) for name in biases] == [1] * LAYERS


def test_the_same_module_gives_the_same_bytes_and_nothing_else(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        exported(tmp_path / name, tiny_whisper())
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "ab")
    assert first == second
    assert set(first) == {"encoder.fp32.onnx", "decoder.fp32.onnx"}
    assert onnx.load_from_string(first["encoder.fp32.onnx"]).opset_import[0].version == 20
