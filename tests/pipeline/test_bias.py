"""Bias correction: the mean of a layer's output is what it is without rounding, on every kind of target."""

import glob
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from trtasr.engine.sessions import observe
from trtasr.graph.bias import corrected_biases, moments_of, output_error, watched
from trtasr.graph.center import center, centerable
from trtasr.graph.check import run_graph
from trtasr.graph.rotate import rotated_layers
from trtasr.graph.tensors import sites
from trtasr.quant.ranges import representable
from trtasr.quant.scales import weight_scale
from trtasr.targets import T4_RTX
from trtasr.targets.place import place
from trtasr.values import ScaleTable, WeightScale

CHANNELS = 24
LAYERS = {
    "pointwise": ("Conv<kernel_shape=[1]>(x, w, b)", (8, CHANNELS, 1), True),
    "wide": ("Conv<kernel_shape=[3]>(x, w, b)", (8, CHANNELS, 3), True),
    "depthwise": ("Conv<kernel_shape=[5], group=24>(x, w, b)", (CHANNELS, 1, 5), True),
    "linear": ("MatMul(x, w)", (CHANNELS, 8), False),
}


def network(layer):
    """A graph of one layer, its scale table of few codes, and what it reads, without the batch axis."""
    node, shape, first = LAYERS[layer]
    dims = f"1,{CHANNELS},T" if first else f"1,T,{CHANNELS}"
    text = f"[layer] y = {node}" if first else f"[layer] h = {node}  y = Add(h, b)"
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[{dims}] x) => (float y) {{ {text} }}""")
    draw = np.random.default_rng(1)
    stored = {"w": draw.normal(size=shape), "b": draw.normal(size=shape[0] if first else shape[1])}
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), name) for name, v in stored.items())
    rows = (draw.normal(size=(4000, CHANNELS)) + draw.normal(size=CHANNELS)).astype(np.float32)
    scale = weight_scale(stored["w"].astype(np.float32), 0 if first else 1, 7)
    return model, ScaleTable({}, {"w": scale}), np.ascontiguousarray(rows.T) if first else rows


def changed(model, table, biases):
    """The graph with its weight on the grid, and other biases."""
    rounded = onnx.ModelProto.FromString(model.SerializeToString())
    for item in rounded.graph.initializer:
        values, entry = numpy_helper.to_array(item), table.weights["w"]
        if item.name == "w":
            steps = entry.scales.reshape([-1 if axis == entry.axis else 1 for axis in range(values.ndim)])
            values = np.rint(values / steps) * steps
        item.CopyFrom(numpy_helper.from_array(np.float32(biases.get(item.name, values)), item.name))
    return rounded


@pytest.mark.parametrize("layer", LAYERS)
def test_the_mean_of_the_output_is_that_without_rounding(layer):
    model, table, values = network(layer)
    moments = moments_of(model)
    assert list(watched([("x", values), ("y", values)], moments)) == [("x", values), ("y", values)]
    biases = corrected_biases(model, table.weights, moments, {})
    exact, plain, found = (
        run_graph(graph, {"x": values[None]})["y"]
        for graph in (model, changed(model, table, {}), changed(model, table, biases))
    )
    over = (0, 2) if LAYERS[layer][2] else (0, 1)
    assert np.abs((plain - exact).mean(over)).max() > 0.1
    np.testing.assert_allclose(found.mean(over), exact.mean(over), atol=2e-3)


def test_a_layer_that_never_ran_and_one_without_a_bias_keep_what_they_have():
    model, table, values = network("pointwise")
    assert corrected_biases(model, table.weights, moments_of(model), {}) == {}
    del model.graph.node[0].input[2]
    moments = moments_of(model)
    moments["x"].add(values)
    assert corrected_biases(model, table.weights, moments, {}) == {}


def test_groups_of_channels_have_errors_of_their_own():
    change = np.arange(12, dtype=np.float64).reshape(2, 1, 6)  # two groups, three channels of two taps each
    point = np.array([1.0, 2.0, 3.0, 10.0, 20.0, 30.0])
    assert output_error(change, point).tolist() == [1 * 1 + 2 * 5 + 3 * 9, 10 * 13 + 20 * 17 + 30 * 21]


def inputs(ctc):
    """The calibration features, utterance by utterance."""
    return [{"features": item.features, "lengths": item.lengths} for item in ctc.features.examples()]


def output_means(ctc, graph, output):
    """Means of a tensor's channels over the calibration features, [C]."""
    stream = observe(graph.SerializeToString(), (output,), inputs(ctc))
    return np.concatenate([values for _, values in stream], axis=1).mean(1)


def coarse(entry):
    """Scales of a few codes, so that rounding is what changes the mean."""
    return WeightScale(representable(16 * entry.scales), entry.axis)


def test_offsets_of_centering_are_counted_once(ctc):
    """One layer behind centered channels alone is INT8: the mean of its output is that of full precision."""
    (model,), table, feeds = ctc.models(), ctc.table(), inputs(ctc)
    centered, carried = center(model, table.offsets), centerable(model)
    table = replace(table, weights={name: coarse(entry) for name, entry in table.weights.items()})
    shifted = {name: table.offsets[key] for key in table.offsets for name in carried[key]}
    moments = moments_of(centered)
    assert list(watched(observe(centered.SerializeToString(), tuple(moments), feeds), moments))
    biases = corrected_biases(centered, table.weights, moments, shifted)
    (layer, *_) = [node for node in centered.graph.node if node.op_type == "Conv" and node.input[0] in shifted]
    others = [glob.escape(item.node) for item in sites(model) if item.node != layer.name]
    exact, errors = output_means(ctc, model, layer.output[0]), []
    for one in (table, replace(table, corrected=biases)):
        placed = place(centered, one, T4_RTX.scaled("static"), others)
        assert placed.int8 == {layer.name}
        errors.append(np.abs(output_means(ctc, placed.model, layer.output[0]) - exact).mean())
    assert errors[1] < 0.5 * errors[0]  # the rest is rounding of activations, which depends on the processor's kernels


def test_rotated_layers_keep_the_bias_they_were_trained_with(ctc):
    """A table's bias makes up for how the weight rounds as it is: all layers of this network are convolutions."""
    [model], table = ctc.models(), ctc.table(correction="bias", rounding="nearest")
    centered, feed = center(model, table.offsets), inputs(ctc)[0]
    dynamic, static = (place(centered, table, T4_RTX.scaled(scales), ()) for scales in ("dynamic", "static"))
    assert rotated_layers(centered, table, dynamic.int8) == dynamic.int8
    exact, *found = (run_graph(one, feed)["log_probs"] for one in (model, dynamic.fp32, static.fp32))
    np.testing.assert_allclose(found[0], exact, atol=1e-4)
    assert not np.allclose(found[1], exact, atol=1e-4)


def test_a_product_keeps_the_mean_of_its_layer_behind_centered_channels(ctc, monkeypatch):
    """Its bias is that of the centered graph, from which the offsets are taken off through the new weight."""
    monkeypatch.setattr("trtasr.graph.products.weight_scale", lambda weight, axis: weight_scale(weight, axis, 7))
    [model], table = ctc.models(), ctc.table(correction="bias")
    centered, carried = center(model, table.offsets), centerable(model)
    behind = {name for key in table.offsets for name in carried[key]}
    (layer, *_) = [node for node in centered.graph.node if node.op_type == "Conv" and node.input[0] in behind]
    others = [glob.escape(item.node) for item in sites(model) if item.node != layer.name]
    kept = {name: product for name, product in table.products.items() if name == layer.name}
    trained = numpy_helper.to_array(next(i for i in centered.graph.initializer if i.name == layer.input[2]))
    exact, errors = output_means(ctc, model, layer.output[0]), []
    for product in (replace(kept[layer.name], bias=trained), kept[layer.name]):
        own = replace(table, products={layer.name: product})
        placed = place(centered, own, T4_RTX.scaled("dynamic"), others)
        assert placed.int8 == {layer.name}
        errors.append(np.abs(output_means(ctc, placed.fp32, layer.output[0]) - exact).max())
    assert errors[0] > 0.01
    assert errors[1] < 1e-4


def test_weights_and_ranges_are_no_part_of_it(tiny):
    table, plain = tiny.table(correction="bias"), tiny.table()
    assert table.corrected
    assert not table.corrected.keys() & table.weights.keys()
    assert table.activations == plain.activations
    for name, entry in table.weights.items():
        np.testing.assert_array_equal(entry.scales, plain.weights[name].scales)
