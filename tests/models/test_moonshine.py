"""Moonshine against transformers' own output, its state-dict names, its cache, and that batching changes nothing.

Configurations that would be computed otherwise are refused, with the key and what to do.
"""

from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from golden import cases, moonshine_configs
from golden.moonshine_configs import PUBLISHED, SAMPLES, SMALL, config
from onnx import TensorProto, shape_inference

from trtasr.errors import CheckpointError
from trtasr.graph.check import assert_parity, check_model, run_graph
from trtasr.graph.export_pair import cache_names, export_pair
from trtasr.models.load import build_model
from trtasr.models.moonshine import INTEGERS, FrameNorm, Moonshine, Rotary, check_config
from trtasr.models.moonshine_attention import rotary

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")
GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "moonshine.npz")
TOLERANCE = 5e-5  # the largest difference is 2e-5


@pytest.fixture(scope="module")
def no_gradients():
    with torch.no_grad():
        yield


def shapes(config):
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Moonshine(config).state_dict().items()}


@cache
def model(name):
    weights = {
        key: torch.from_numpy(moonshine_configs.weight(key, shape)) for key, shape in shapes(SMALL[name]).items()
    }
    return build_model("moonshine", SMALL[name], weights)


def batch(samples, fill=0.0):
    """Waveforms [B, 1, samples], the given number beyond each end, and lengths."""
    features = torch.full((len(samples), 1, max(samples)), fill)
    for row, count in zip(features, samples, strict=True):
        row[0, :count] = torch.from_numpy(moonshine_configs.waveform(count))
    return features, torch.tensor(samples)


def given(name):
    return torch.from_numpy(moonshine_configs.tokens(SMALL[name]["vocab_size"]))


def empty(cross):
    return [(key[:, :, :0], value[:, :, :0]) for key, value in cross]


@pytest.mark.parametrize("name", SMALL)
def test_state_dict_has_hugging_face_names_and_shapes(name):
    theirs = GOLDEN[f"{name}/state"].tobytes().decode().splitlines()
    assert cases.state_lines(shapes(SMALL[name])).decode().splitlines() == theirs


@pytest.mark.parametrize(("size", "tensors", "millions"), [("tiny", 160, 27.1), ("base", 210, 61.5)])
def test_published_sizes_have_the_published_number_of_parameters(size, tensors, millions):
    found = shapes(PUBLISHED[size])
    assert len(found) == tensors
    assert sum(int(np.prod(shape)) for shape in found.values()) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("samples", SAMPLES)
@pytest.mark.parametrize("name", SMALL)
def test_encoder_and_logits_equal_transformers(name, samples):
    features, lengths = batch([samples])
    expected = {key: GOLDEN[f"{name}/{samples}/{key}"] for key in ("encoded", "logits")}
    encoded, positions = model(name).encoder(features, lengths)
    assert positions.tolist() == [len(expected["encoded"])] == [encoded.shape[1]]
    np.testing.assert_allclose(encoded[0].numpy(), expected["encoded"], rtol=0, atol=TOLERANCE)
    logits = model(name)(features, lengths, given(name))
    np.testing.assert_allclose(logits[0].numpy(), expected["logits"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", SMALL)
def test_greedy_tokens_through_the_cache_equal_transformers(name):
    seen = set()
    for samples in SAMPLES:
        found = moonshine_configs.greedy(model(name), *batch([samples]))
        assert found[0].tolist() == GOLDEN[f"{name}/{samples}/greedy"].tolist()
        seen.update(found[0].tolist())
    assert len(seen) > 9  # the comparison would be empty if all tokens were alike


def test_positions_matter():
    still = Moonshine(SMALL["defaults"]).eval()
    still.load_state_dict(model("defaults").state_dict())
    still.decoder.rotary_emb.rates.zero_()
    inputs = (*batch([5003]), given("defaults"))
    assert (still(*inputs) - model("defaults")(*inputs)).abs().max() > 0.1


@pytest.mark.parametrize("fill", [0.0, 1e4])
@pytest.mark.parametrize("name", SMALL)
def test_batching_never_changes_an_utterance(name, fill):
    """Nor does what lies beyond its end."""
    features, lengths = batch(list(SAMPLES), fill)
    encoded, positions = model(name).encoder(features, lengths)
    tokens = given(name).expand(len(SAMPLES), -1)
    logits, greedy = model(name)(features, lengths, tokens), moonshine_configs.greedy(model(name), features, lengths)
    for row, samples in enumerate(SAMPLES):
        alone, count = model(name).encoder(*batch([samples]))
        assert positions[row] == count[0]
        torch.testing.assert_close(encoded[row, : positions[row]], alone[0], atol=5e-5, rtol=0)
        torch.testing.assert_close(logits[row], model(name)(*batch([samples]), tokens[:1])[0], atol=5e-5, rtol=0)
        assert greedy[row].tolist() == GOLDEN[f"{name}/{samples}/greedy"].tolist()


def test_too_little_audio_gives_no_position_and_harms_no_other():
    features, lengths = batch([894, 5003])
    encoded, positions = model("defaults").encoder(features, lengths)
    assert positions.tolist() == [0, 11]
    assert encoded.isfinite().all()
    assert model("defaults").encoder(features, torch.tensor([0, 5003]))[0].isfinite().all()
    torch.testing.assert_close(encoded[1], model("defaults").encoder(*batch([5003]))[0][0], atol=5e-5, rtol=0)


def test_audio_may_be_longer_than_the_positions_of_the_configuration():
    features, lengths = batch([100_001])
    encoded, positions = model("defaults").encoder(features, lengths)
    assert positions[0] == encoded.shape[1] == 259 > SMALL["defaults"]["max_position_embeddings"]
    assert encoded.isfinite().all()


@pytest.mark.parametrize("steps", [(1,) * 9, (4, 5), (1, 7, 1)])
def test_steps_through_the_cache_give_the_logits_of_teacher_forcing(steps):
    network, tokens = model("odd_share"), given("odd_share").expand(2, -1)
    features, lengths = batch([5003, 1279])
    encoded, positions = network.encoder(features, lengths)
    cross = network.decoder.cross(encoded)
    past, found = empty(cross), []
    for part in tokens.split(list(steps), dim=1):
        logits, past = network.decoder(part, past, cross, positions)
        found.append(logits)
    torch.testing.assert_close(torch.cat(found, 1), network(features, lengths, tokens), atol=1e-5, rtol=0)
    assert past[-1][0].shape == past[-1][1].shape == (2, 2, 9, 16)


def test_frame_norm_is_a_group_norm_over_the_valid_frames():
    torch.manual_seed(0)
    norm, x = FrameNorm(6), torch.randn(2, 6, 50)
    norm.weight.uniform_(0.5, 2)
    norm.bias.uniform_(-1, 1)
    found = norm(x, torch.tensor([50, 7]))
    for row, count in enumerate((50, 7)):
        expected = torch.nn.functional.group_norm(x[row : row + 1, :, :count], 1, norm.weight, norm.bias)
        torch.testing.assert_close(found[row, :, :count], expected[0], atol=1e-5, rtol=0)


def test_quiet_audio_is_normalized_as_exactly_in_half_precision():
    x = 1e-3 * torch.randn(1, 64, 3000)
    norm, counts = FrameNorm(64), torch.tensor([3000])
    error = norm.half()(x.half(), counts).float() - norm.float()(x, counts)
    assert error.abs().max() < 0.02


@pytest.fixture(scope="module")
def graphs(one_thread, tmp_path_factory):
    folder = tmp_path_factory.mktemp("moonshine")
    export_pair(model("odd_share"), folder / "encoder.onnx", folder / "decoder.onnx", rows=1)
    return onnx.load(folder / "encoder.onnx"), onnx.load(folder / "decoder.onnx")


def test_exported_encoder_equals_torch_at_unseen_shapes(graphs):
    for samples in ([895], [3001, 20479, 895]):
        features, lengths = batch(samples)
        encoded, positions = model("odd_share").encoder(features, lengths)
        flat = chain.from_iterable(model("odd_share").decoder.cross(encoded))
        expected = dict(zip(cache_names("cross", 3), (item.numpy() for item in flat), strict=True))
        found = run_graph(graphs[0], {"features": features.numpy(), "lengths": lengths.numpy()})
        assert_parity(expected | {"encoded": encoded.numpy(), "positions": positions.numpy()}, found, TOLERANCE)


@pytest.mark.parametrize(("rows", "before", "new"), [(1, 0, 1), (3, 0, 4), (3, 5, 1), (2, 3, 2)])
def test_exported_decoder_equals_torch_at_unseen_shapes(graphs, rows, before, new):
    network, tokens = model("odd_share"), given("odd_share")[:, : before + new].expand(rows, -1)
    encoded, positions = network.encoder(*batch([5003, 1279, 895][:rows]))
    cross = network.decoder.cross(encoded)
    past = network.decoder(tokens[:, :before], empty(cross), cross, positions)[1] if before else empty(cross)
    logits, presents = network.decoder(tokens[:, before:], past, cross, positions)
    caches = {"cross": cross, "past": past, "present": presents}
    flat = {
        kind: dict(zip(cache_names(kind, 3), (item.numpy() for item in chain.from_iterable(pairs)), strict=True))
        for kind, pairs in caches.items()
    }
    feeds = {
        "tokens": tokens[:, before:].numpy(),
        "positions": positions.numpy(),
        **flat["cross"],
        **flat["past"],
        "token_bias": np.zeros(61, np.float32),
    }
    assert_parity(flat["present"] | {"logits": logits.numpy()}, run_graph(graphs[1], feeds), TOLERANCE)


def test_exported_graphs_are_valid_small_and_free_of_booleans(graphs):
    for graph, most in zip(graphs, (160, 280), strict=True):
        check_model(graph)
        inferred = shape_inference.infer_shapes(graph).graph
        assert all(v.type.tensor_type.elem_type != TensorProto.BOOL for v in [*inferred.value_info, *inferred.output])
        assert sum(node.op_type != "Constant" for node in graph.graph.node) < most
    weights = {item.name: tuple(item.dims) for item in graphs[1].graph.initializer}
    read = {node.name: weights.get(node.input[1]) for node in graphs[1].graph.node if node.op_type == "MatMul"}
    assert read["/decoder/layers.2/self_attn/k_proj/MatMul"] == (24, 32)  # heads of 12 numbers, four of them twice
    assert read["/decoder/layers.2/encoder_attn/o_proj/MatMul"] == (32, 24)
    assert read["/decoder/layers.0/mlp/fc1/MatMul"] == (24, 96)


def refused(**options):
    with pytest.raises(CheckpointError) as error:
        Moonshine(config(**options))
    assert len(str(error.value)) < 500
    return error.value


@pytest.mark.parametrize(
    "accepted",
    [
        *SMALL.values(),
        *PUBLISHED.values(),
        config(head_dim=16),
        config(rope_theta=10000, partial_rotary_factor=1),
        config(rope_parameters=None, rope_scaling={}),
        config(partial_rotary_factor=0.0),
    ],
)
def test_what_is_computed_alike_is_accepted(accepted):
    check_config(accepted)


@pytest.mark.parametrize("value", [None, "32", 0, -4, 10**9, 2.0, float("nan"), True, [32], {"size": 32}, "x" * 10_000])
@pytest.mark.parametrize("key", INTEGERS)
def test_absurd_sizes_name_the_key(key, value):
    error = refused(**{key: value})
    assert f"config.json: {key}:" in error.problem
    assert error.repair.startswith("use an integer")


@pytest.mark.parametrize("key", INTEGERS)
def test_sizes_must_be_there(key):
    values = config()
    del values[key]
    with pytest.raises(CheckpointError, match=f"{key}: None"):
        check_config(values)


@pytest.mark.parametrize(
    ("key", "value", "repair"),
    [
        ("encoder_hidden_act", "relu", "'gelu'"),
        ("encoder_hidden_act", None, "'gelu'"),
        ("decoder_hidden_act", "gelu", "'silu'"),
        ("decoder_hidden_act", ["silu"], "'silu'"),
        ("attention_bias", True, "False"),
        ("attention_bias", "no", "False"),
        ("tie_word_embeddings", False, "True"),
        ("decoder_num_attention_heads", 4, "only 2"),
        ("encoder_num_key_value_heads", 1, "only 2"),
        ("decoder_num_key_value_heads", 1, "only 2"),
        ("decoder_num_key_value_heads", "x" * 10_000, "only 2"),
        ("head_dim", 32, "only 16"),
        ("encoder_num_attention_heads", 3, "belongs to the weights"),
        ("encoder_num_attention_heads", 32, "belongs to the weights"),  # heads of one number: no pair to turn
        ("rope_theta", 0, "from 1 to 1e+09"),
        ("rope_theta", None, "number"),
        ("rope_theta", float("nan"), "number"),
        ("rope_theta", True, "number"),
        ("rope_theta", "x" * 10_000, "number"),
        ("partial_rotary_factor", 1.5, "from 0 to 1"),
        ("partial_rotary_factor", -0.1, "from 0 to 1"),
        ("partial_rotary_factor", float("inf"), "from 0 to 1"),
        ("partial_rotary_factor", [0.9], "from 0 to 1"),
        ("rope_parameters", "default", "object"),
        ("rope_parameters", [1], "object"),
        ("rope_scaling", 4.0, "object"),
        ("rope_scaling", {"rope_type": "dynamic", "factor": 2.0}, "'default'"),
        ("rope_scaling", {"type": "linear", "factor": 2.0}, "'default'"),
        ("rope_parameters", {"rope_type": "yarn"}, "'default'"),
        ("rope_parameters", {"rope_type": {}}, "'default'"),
    ],
)
def test_unsupported_values_name_key_and_repair(key, value, repair):
    error = refused(**{key: value})
    assert key in error.problem
    assert repair in error.repair


@pytest.mark.parametrize("key", ["rope_theta", "partial_rotary_factor"])
def test_numbers_inside_the_rotary_section_are_checked_too(key):
    assert key in refused(rope_parameters={key: -1.0}).problem


def test_the_rotary_section_wins_over_the_file_and_the_older_name_over_the_newer():
    assert rotary({}) == (10000.0, 0.9)
    assert rotary({"rope_theta": 5, "partial_rotary_factor": 0.5}) == (5.0, 0.5)
    assert rotary({"rope_theta": 5, "rope_parameters": {"rope_theta": 7.0}}) == (7.0, 0.9)
    assert rotary({"rope_scaling": {"rope_theta": 8.0}, "rope_parameters": {"rope_theta": 7.0}}) == (8.0, 0.9)


@pytest.mark.parametrize(("name", "turning"), [("tiny", 16), ("base", 16)])
def test_published_sizes_turn_thirty_two_numbers_of_each_head(name, turning):
    rates = Rotary(PUBLISHED[name]).rates
    assert len(rates) == (PUBLISHED[name]["hidden_size"] // 8 + 4) // 2  # four numbers are repeated
    assert rates[0] == 1.0
    assert int((rates > 0).sum()) == turning


def test_a_large_configuration_claims_no_memory_before_the_weights_fit():
    large = config(hidden_size=8192, intermediate_size=32768, vocab_size=2**20, encoder_num_hidden_layers=256)
    with pytest.raises(CheckpointError, match="do not fit"):
        build_model("moonshine", large, {})


def test_a_model_built_without_memory_still_has_its_angles():
    values = SMALL["defaults"]
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Moonshine(values).state_dict().items()}
    weights = {name: torch.from_numpy(moonshine_configs.weight(name, shape)) for name, shape in shapes.items()}
    network = build_model("moonshine", values, weights)
    assert not any("rotary" in name for name in shapes)
    torch.testing.assert_close(network.encoder.rotary_emb.rates, Rotary(values).rates, atol=0, rtol=0)
