"""Two streams through one graph, against ONNX Runtime on the whole graph."""

import weakref

import numpy as np
import onnx
import pytest
import tiny_graphs
from onnx import numpy_helper

from trtasr.engine.sessions import open_session
from trtasr.engine.walk import Replaced, walk
from trtasr.values import CalibrationSet


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return onnx.load(tiny_graphs.fp32(tmp_path_factory.mktemp("walk") / "tiny.onnx"))


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    batch = rng.normal(size=(3, tiny_graphs.MELS, 40)).astype(np.float32)
    return tiny_graphs.inputs(CalibrationSet((batch,), (np.array([40, 25, 33]),), "synthetic"))


LAYERS = {"dw", "pw", "head"}


def unchanged(layer):
    return Replaced(layer.quantized, {})


def whole(graph, features):
    session = open_session(graph.SerializeToString())
    return [session.run(["log_probs"], feed)[0] for feed in features]


def test_without_changes_both_streams_are_the_graph(graph, features):
    streams = walk(graph, features, LAYERS, unchanged, lambda name, values: None)
    for expected, full, quantized in zip(whole(graph, features), streams.full, streams.quantized, strict=True):
        np.testing.assert_allclose(full["log_probs"], expected, atol=1e-5)
        np.testing.assert_array_equal(full["log_probs"], quantized["log_probs"])


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
        for expected, values in zip(whole(model, features), found, strict=True):
            np.testing.assert_allclose(values["log_probs"], expected, atol=1e-5)


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


def test_each_stream_has_its_own_inputs(graph, features):
    other = [{**feed, "features": 2 * feed["features"]} for feed in features]
    streams = walk(graph, features, LAYERS, unchanged, lambda name, values: None, other)
    for found, feeds in ((streams.full, features), (streams.quantized, other)):
        for expected, values in zip(whole(graph, feeds), found, strict=True):
            np.testing.assert_allclose(values["log_probs"], expected, atol=1e-5)
    assert streams.full[0].keys() == {"log_probs", "output_lengths"}


def test_what_nobody_else_holds_is_dropped_behind_its_last_reader(graph, features):
    held, alive = [], []

    def given():
        for feed in features:
            copied = feed["features"].copy()
            held.append(weakref.ref(copied))
            yield {**feed, "features": copied}

    def visit(layer):
        alive.append(sum(reference() is not None for reference in held))
        return unchanged(layer)

    walk(graph, given(), LAYERS, visit, lambda name, values: None, given())
    assert len(held) == 6
    assert alive == [0, 0, 0]


def test_a_new_constant_of_a_node_behind_is_read_there(graph, features):
    """As the bias of a linear layer, which another node adds."""
    weight = next(numpy_helper.to_array(item) for item in graph.graph.initializer if item.name == "head_weight")
    streams = walk(
        graph,
        features,
        {"pw"},
        lambda layer: Replaced(layer.quantized, {"head_weight": weight / 2}),
        lambda name, values: None,
    )
    changed = onnx.ModelProto.FromString(graph.SerializeToString())
    for item in changed.graph.initializer:
        if item.name == "head_weight":
            item.CopyFrom(numpy_helper.from_array(weight / 2, "head_weight"))
    for expected, values in zip(whole(changed, features), streams.quantized, strict=True):
        np.testing.assert_allclose(values["log_probs"], expected, atol=1e-5)
