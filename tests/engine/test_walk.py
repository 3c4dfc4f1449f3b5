"""Two streams through one graph, against ONNX Runtime on the whole graph."""

import numpy as np
import onnx
import pytest
import tiny_graphs
from onnx import numpy_helper

from trtasr.engine.run import open_session, utterances
from trtasr.engine.walk import Replaced, walk
from trtasr.values import CalibrationSet


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return onnx.load(tiny_graphs.fp32(tmp_path_factory.mktemp("walk") / "tiny.onnx"))


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    batch = rng.normal(size=(3, tiny_graphs.MELS, 40)).astype(np.float32)
    return CalibrationSet((batch,), (np.array([40, 25, 33]),), "synthetic")


LAYERS = {"dw", "pw", "head"}


def unchanged(layer):
    return Replaced(layer.quantized, {})


def whole(graph, features):
    session = open_session(graph.SerializeToString())
    return [session.run(["log_probs"], {"features": x, "lengths": n})[0] for x, n in utterances(features)]


def test_without_changes_both_streams_are_the_graph(graph, features):
    streams = walk(graph, features, LAYERS, unchanged, lambda name, values: None)
    for expected, full, quantized in zip(whole(graph, features), streams.full["log_probs"],
                                         streams.quantized["log_probs"], strict=True):  # fmt: skip
        np.testing.assert_allclose(full, expected, atol=1e-5)
        np.testing.assert_array_equal(full, quantized)


def test_a_new_weight_reaches_the_quantized_stream_only(graph, features):
    weight = next(numpy_helper.to_array(item) for item in graph.graph.initializer if item.name == "pw_weight")

    def visit(layer):
        return Replaced(layer.quantized, {"pw_weight": weight * 2} if layer.node.name == "pw" else {})

    streams = walk(graph, features, LAYERS, visit, lambda name, values: None)
    changed = onnx.ModelProto.FromString(graph.SerializeToString())
    for item in changed.graph.initializer:
        if item.name == "pw_weight":
            item.CopyFrom(numpy_helper.from_array(weight * 2, "pw_weight"))
    for model, found in ((graph, streams.full), (changed, streams.quantized)):
        for expected, values in zip(whole(model, features), found["log_probs"], strict=True):
            np.testing.assert_allclose(values, expected, atol=1e-5)


def test_layers_are_visited_in_graph_order_with_what_earlier_changes_made(graph, features):
    order, differs = [], {}

    def visit(layer):
        order.append(layer.node.name)
        differs[layer.node.name] = not np.array_equal(layer.full[0], layer.quantized[0])
        return Replaced([values + 1 for values in layer.quantized] if layer.node.name == "pw" else layer.quantized, {})

    walk(graph, features, LAYERS, visit, lambda name, values: None)
    assert order == ["dw", "pw", "head"]
    assert differs == {"dw": False, "pw": False, "head": True}


def test_every_activation_is_seen_before_its_reader_and_at_its_valid_length(graph, features):
    seen, before = {}, {}

    def visit(layer):
        before[layer.node.name] = len(seen.get(layer.node.input[0], []))
        return unchanged(layer)

    walk(graph, features, LAYERS, visit, lambda name, values: seen.setdefault(name, []).append(values.shape))
    assert before == {"dw": 3, "pw": 3, "head": 3}
    assert seen["features"] == [(16, 40), (16, 25), (16, 33)]
    assert seen["mixed"] == [(32, 40), (32, 25), (32, 33)]
    assert "lengths" not in seen
