import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper, shape_inference
from quantized import with_qdq
from tiny_network import sqnr_db
from whisper_pair import START, VOCABULARY, tiny_features

from trtasr.errors import QualityError
from trtasr.graph.check import assert_parity, check_model, largest_difference, run_graph
from trtasr.graph.export_pair import cache_names
from trtasr.graph.halve import fp16_scale_lint, half_caches, halve
from trtasr.graph.pointwise import pointwise_to_matmul
from trtasr.graph.tensors import lookups

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
LAYERS = 2
NAMES = {kind: cache_names(kind, LAYERS) for kind in ("cross", "past", "present")}


def types(model):
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    return {v.name: v.type.tensor_type.elem_type for v in [*graph.input, *graph.value_info, *graph.output]}


def test_halved_fp32_graph_stays_close(fp32, feeds):
    before = fp32.SerializeToString()
    halved = halve(fp32)
    check_model(halved)
    assert_parity(run_graph(fp32, feeds), run_graph(halved, feeds), 0.05)
    assert fp32.SerializeToString() == before


@pytest.mark.parametrize("lower", [lambda model: model, pointwise_to_matmul])
def test_halved_quantized_graph_equals_the_quantized_graph(fp32, table, feeds, lower):
    quantized = lower(with_qdq(fp32, table, []))
    halved = halve(quantized)
    check_model(halved)
    assert sqnr_db(run_graph(quantized, feeds), run_graph(halved, feeds)) > 30


def test_types_are_half_inside_and_full_at_the_border(fp32, table):
    halved = halve(with_qdq(fp32, table, []))
    found = types(halved)
    assert found["features"] == found["log_probs"] == TensorProto.FLOAT
    for node in halved.graph.node:
        if node.op_type in ("Conv", "Relu", "DequantizeLinear"):
            assert found[node.output[0]] == TensorProto.FLOAT16
        if node.op_type == "LogSoftmax":
            assert found[node.input[0]] == TensorProto.FLOAT
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale = next(item for item in halved.graph.initializer if item.name == node.input[1])
            assert scale.data_type == TensorProto.FLOAT16
    casts = [
        node for node in halved.graph.node if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT16
    ]
    assert len(casts) == 3  # features and the two masks, once each


def model_with_weight(value):
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        g (float[B,1,T] x, float[1,1,1] w) => (float[B,1,T] y) { y = Conv(x, w) }""")
    del model.graph.input[1]
    model.graph.node[0].name = "conv"
    model.graph.initializer.append(numpy_helper.from_array(np.full((1, 1, 1), value, np.float32), "w"))
    return model


def test_weight_beyond_fp16_is_an_error_that_names_it():
    with pytest.raises(QualityError, match=r"'w'.*7e\+04"):
        halve(model_with_weight(7e4))


def test_graph_output_made_in_half_is_cast_back():
    halved = halve(model_with_weight(2.0))
    x = np.ones((1, 1, 3), np.float32)
    assert run_graph(halved, {"x": x})["y"].dtype == np.float32
    assert run_graph(halved, {"x": x})["y"].tolist() == [[[2, 2, 2]]]


def test_scale_that_fp16_rounds_to_zero_stays_positive(fp32, table):
    quantized = with_qdq(fp32, table, [])
    scale = next(item for item in quantized.graph.initializer if item.name == "decoder.0.weight_scale")
    scale.CopyFrom(numpy_helper.from_array(np.full(scale.dims[0], 1e-9, np.float32), scale.name))
    halved = {item.name: item for item in halve(quantized).graph.initializer}
    assert numpy_helper.to_array(halved["decoder.0.weight_scale_fp16"]).min() == np.float16(2.0**-24)


def test_lint_names_layers_with_a_subnormal_scale_product(fp32, table):
    quantized = with_qdq(fp32, table, [])
    scales = {item.name: item for item in quantized.graph.initializer if item.name.endswith("_scale")}
    for item in scales.values():
        item.CopyFrom(numpy_helper.from_array(np.full(tuple(item.dims), 0.01, np.float32), item.name))
    assert fp16_scale_lint(quantized) == []
    weight = scales["decoder.0.weight_scale"]
    weight.CopyFrom(numpy_helper.from_array(np.full(tuple(weight.dims), 0.005, np.float32), weight.name))
    assert fp16_scale_lint(quantized) == ["/decoder/decoder.0/Conv"]
    assert fp16_scale_lint(pointwise_to_matmul(halve(quantized))) == ["/decoder/decoder.0/Conv"]


@pytest.fixture(scope="module")
def spoken(pair):
    """Inputs of an encoder and of the decoder behind it."""
    features = tiny_features()
    heard = {"features": features.batches[0], "lengths": features.lengths[0]}
    encoded = run_graph(pair.encoder, heard)
    crosses = {name: value for name, value in encoded.items() if name.startswith("cross")}
    pasts = {name.replace("cross", "past"): value[:, :, :0] for name, value in crosses.items()}
    tokens = np.random.default_rng(0).integers(0, START, (3, 6))
    return heard, {
        "tokens": tokens,
        "positions": encoded["positions"],
        **crosses,
        **pasts,
        "token_bias": np.zeros(VOCABULARY, np.float32),
    }


def test_an_encoder_and_a_decoder_stay_close_in_half(pair, spoken):
    for graph, given in zip((pair.encoder, pair.decoder), spoken, strict=True):
        halved = halve(graph)
        check_model(halved)
        wanted, found = run_graph(graph, given), run_graph(halved, given)
        differences = [largest_difference(wanted[name], found[name]) for name in wanted if name != "next_tokens"]
        assert 0 < max(differences) < 0.02


def test_embeddings_are_half_and_the_chosen_token_stays_an_integer(pair):
    halved = halve(pair.decoder)
    found, stored = types(halved), {item.name: item for item in halved.graph.initializer}
    looked_up = [node for node in halved.graph.node if node.name in lookups(pair.decoder)]
    assert [node.input[0] for node in looked_up] == [
        "decoder.embed_tokens.weight_fp16",
        "decoder.embed_positions.weight_fp16",
    ]
    for node in looked_up:
        assert stored[node.input[0]].data_type == found[node.output[0]] == TensorProto.FLOAT16
    assert not [item.name for item in stored.values() if item.data_type == TensorProto.FLOAT and len(item.dims) > 1]
    assert found["next_tokens"] == TensorProto.INT64
    assert [node.output[0] for node in halved.graph.node if node.op_type == "ArgMax"] == ["next_tokens"]
    assert found["logits"] == found["next_log_probs"] == TensorProto.FLOAT
    products = [node for node in halved.graph.node if node.op_type == "MatMul"]
    assert {found[node.output[0]] for node in products} == {TensorProto.FLOAT16}
    assert {value.name: value.type for value in halved.graph.input} == {
        value.name: value.type for value in pair.decoder.graph.input
    }


@pytest.fixture(scope="module")
def halved(pair):
    return halve(pair.encoder), halve(pair.decoder)


@pytest.fixture(scope="module")
def cached(halved):
    return tuple(map(half_caches, halved))


def value_types(values):
    return {value.name: value.type.tensor_type.elem_type for value in values}


def test_keys_and_values_are_half_and_all_else_is_as_before(halved, cached):
    encoder, decoder = (graph.graph for graph in cached)
    given = dict.fromkeys(NAMES["cross"] + NAMES["past"], HALF)
    assert value_types(decoder.input) == {**value_types(halved[1].graph.input), **given}
    assert value_types(decoder.output) == {
        **value_types(halved[1].graph.output),
        **dict.fromkeys(NAMES["present"], HALF),
    }
    assert value_types(encoder.output) == {**value_types(halved[0].graph.output), **dict.fromkeys(NAMES["cross"], HALF)}
    assert value_types(encoder.input) == value_types(halved[0].graph.input)
    assert (
        value_types(decoder.output)["logits"]
        == value_types(decoder.input)["token_bias"]
        == value_types(encoder.output)["encoded"]
    )
    for graph in cached:
        check_model(graph)


def test_no_conversion_of_them_is_left(halved, cached):
    for before, after, count in zip(halved, cached, (4, 12), strict=True):
        casts = [[node for node in graph.graph.node if node.op_type == "Cast"] for graph in (before, after)]
        assert len(casts[0]) - len(casts[1]) == count
        touched = {name for node in casts[1] for name in (*node.input, *node.output)}
        assert not touched & {name for names in NAMES.values() for name in names}


def test_their_shapes_are_still_read(cached):
    read = {node.input[0] for node in cached[1].graph.node if node.op_type == "Shape"}
    assert {"past_key.0", "cross_key.0"} <= read


def feeds_of(found, tokens, kind, past=None):
    cross = {name: found[name].astype(kind) for name in NAMES["cross"]}
    past = past or {name.replace("cross", "past"): value[:, :, :0] for name, value in cross.items()}
    return {
        "tokens": tokens,
        "positions": found["positions"],
        "token_bias": np.zeros(VOCABULARY, np.float32),
        **cross,
        **past,
    }


def test_the_function_is_that_of_the_halved_graphs_step_by_step(halved, cached):
    """Bit for bit: a conversion to FP32 and back changes no FP16 number."""
    features = tiny_features()
    sound = {"features": features.batches[0], "lengths": features.lengths[0]}
    tokens = np.random.default_rng(0).integers(0, START, (3, 5))
    wide, narrow = run_graph(halved[0], sound), run_graph(cached[0], sound)
    pasts = None, None
    for part in (tokens[:, :3], tokens[:, 3:4], tokens[:, 4:]):
        wanted = run_graph(halved[1], feeds_of(wide, part, np.float32, pasts[0]))
        found = run_graph(cached[1], feeds_of(narrow, part, np.float16, pasts[1]))
        for name, value in wanted.items():
            assert found[name].dtype == (np.float16 if name in NAMES["present"] else value.dtype)
            np.testing.assert_array_equal(found[name], value, err_msg=name)
        pasts = [{name.replace("present", "past"): side[name] for name in NAMES["present"]} for side in (wanted, found)]
    np.testing.assert_array_equal(narrow["cross_value.1"], wide["cross_value.1"])
    np.testing.assert_array_equal(narrow["encoded"], wide["encoded"])


def test_the_given_graph_is_not_changed(pair):
    graph = halve(pair.decoder)
    before = graph.SerializeToString()
    half_caches(graph)
    assert graph.SerializeToString() == before


@pytest.mark.parametrize("which", ["ctc", "encoder", "decoder"])
def test_graphs_without_converted_caches_stay_as_they_are(fp32, pair, which):
    graph = halve(fp32) if which == "ctc" else getattr(pair, which)
    found = half_caches(graph).graph
    for part in ("input", "output", "initializer", "node"):
        assert list(getattr(found, part)) == list(getattr(graph.graph, part))


def test_a_cache_that_is_read_in_full_precision_too_stays_full():
    graph = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        g (float[2] past_key_0, float[2] past_key_1) => (float[2] present_key_0, float[2] logits) {
            [a] h = Cast <to: int = 10> (past_key_0)
            [b] j = Cast <to: int = 10> (past_key_1)
            [c] k = Add (h, j)
            [d] present_key_0 = Cast <to: int = 1> (k)
            [e] logits = Neg (past_key_1)
        }""")
    for names in [*(node.input for node in graph.graph.node), *(node.output for node in graph.graph.node)]:
        names[:] = [name.replace("key_", "key.") for name in names]
    for value in (*graph.graph.input, *graph.graph.output):
        value.name = value.name.replace("key_", "key.")
    found = half_caches(graph)
    assert value_types(found.graph.input) == {"past_key.0": HALF, "past_key.1": FLOAT}
    assert value_types(found.graph.output) == {"present_key.0": HALF, "logits": FLOAT}
    assert [node.op_type for node in found.graph.node] == ["Cast", "Add", "Neg"]
    values = {"past_key.0": np.float16([1, 2]), "past_key.1": np.float32([3, 5])}
    assert run_graph(found, values)["present_key.0"].tolist() == [4, 7]
