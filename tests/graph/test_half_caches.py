"""Keys and values in FP16 between the steps: types, no conversion left, and the same numbers as before."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from whisper_pair import START, VOCABULARY, tiny_features

from trtasr.graph.check import check_model, run_graph
from trtasr.graph.export_pair import cache_names
from trtasr.graph.half_caches import half_caches
from trtasr.graph.halve import halve

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
LAYERS = 2
NAMES = {kind: cache_names(kind, LAYERS) for kind in ("cross", "past", "present")}


@pytest.fixture(scope="module")
def halved(pair):
    return halve(pair.encoder), halve(pair.decoder)


@pytest.fixture(scope="module")
def cached(halved):
    return tuple(map(half_caches, halved))


def types(values):
    return {value.name: value.type.tensor_type.elem_type for value in values}


def test_keys_and_values_are_half_and_all_else_is_as_before(halved, cached):
    encoder, decoder = (graph.graph for graph in cached)
    given = dict.fromkeys(NAMES["cross"] + NAMES["past"], HALF)
    assert types(decoder.input) == {**types(halved[1].graph.input), **given}
    assert types(decoder.output) == {**types(halved[1].graph.output), **dict.fromkeys(NAMES["present"], HALF)}
    assert types(encoder.output) == {**types(halved[0].graph.output), **dict.fromkeys(NAMES["cross"], HALF)}
    assert types(encoder.input) == types(halved[0].graph.input)
    assert types(decoder.output)["logits"] == types(decoder.input)["token_bias"] == types(encoder.output)["encoded"]
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
    assert types(found.graph.input) == {"past_key.0": HALF, "past_key.1": FLOAT}
    assert types(found.graph.output) == {"present_key.0": HALF, "logits": FLOAT}
    assert [node.op_type for node in found.graph.node] == ["Cast", "Add", "Neg"]
    values = {"past_key.0": np.float16([1, 2]), "past_key.1": np.float32([3, 5])}
    assert run_graph(found, values)["present_key.0"].tolist() == [4, 7]
