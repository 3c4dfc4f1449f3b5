"""One activation scale per position on the CPU: equal to a numpy model of it, whatever the level of a position."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from quantized import for_cpu, for_cpu_per_position
from tiny_network import ops, sqnr_db, table_of, valid

from trtasr.errors import RecipeError, UsageError
from trtasr.graph.check import check_model, run_graph
from trtasr.graph.cpu_rules import dynamic_rules
from trtasr.graph.dynamic import dynamic_layers
from trtasr.graph.qdq import decide, int8_nodes
from trtasr.graph.rotate import rotated_layers
from trtasr.quant.rotation import rotated
from trtasr.quant.scales import along, quantize_weight, weight_scale
from trtasr.values import ScaleTable

LAYERS = {  # name: node, shape of the input, axis of its channels, shape of the weight
    "linear": ("MatMul(x, w)", (2, 7, 24), 2, (24, 8)),
    "linear, one row": ("MatMul(x, w)", (1, 24), 1, (24, 8)),
    "pointwise": ("Conv<kernel_shape=[1]>(x, w, b)", (2, 24, 9), 1, (8, 24, 1)),
    "pointwise, no bias": ("Conv<kernel_shape=[1]>(x, w)", (2, 24, 9), 1, (8, 24, 1)),
    "strided": ("Conv<kernel_shape=[1], strides=[3]>(x, w, b)", (2, 24, 9), 1, (8, 24, 1)),
    "wide": ("Conv<kernel_shape=[5], pads=[2,2]>(x, w, b)", (2, 24, 9), 1, (8, 24, 5)),
    "wide, odd in all": (
        "Conv<kernel_shape=[4], pads=[2,1], strides=[2], dilations=[2]>(x, w, b)",
        (2, 24, 16),
        1,
        (8, 24, 4),
    ),
    "over two axes": (
        "Conv<kernel_shape=[3,2], pads=[1,0,1,1], strides=[2,1], dilations=[1,2]>(x, w, b)",
        (2, 24, 9, 7),
        1,
        (8, 24, 3, 2),
    ),
    "pointwise over two axes": ("Conv<kernel_shape=[1,1]>(x, w)", (2, 24, 5, 4), 1, (8, 24, 1, 1)),
}


def layer(name):
    """(graph of one layer, an input whose positions differ in loudness by four orders of magnitude)."""
    node, shape, axis, weight = LAYERS[name]
    shown = ",".join(["B", *map(str, shape[1:])])
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[{shown}] x) => (float y) {{ [layer] y = {node} }}""")
    draw = np.random.default_rng(0)
    values = {"w": draw.normal(size=weight), "b": draw.normal(size=8)}
    model.graph.initializer.extend(
        numpy_helper.from_array(values[key].astype(np.float32), key)
        for key in values
        if key in model.graph.node[0].input
    )
    x = draw.normal(size=shape) * np.exp(
        np.log(10) * draw.uniform(-2, 2, [1 if i == axis else n for i, n in enumerate(shape)])
    )
    return model, x.astype(np.float32), axis


def rounded(x, axis):
    """A tensor on the grids of its positions: a / 127 apart, a the largest magnitude over the channels."""
    largest = np.maximum(np.abs(x).max(axis, keepdims=True), np.finfo(np.float32).tiny)
    return np.rint(x * (1 / largest) * np.float32(127)) * largest / np.float32(127)


def turns(model, table):
    return bool(rotated_layers(model, table, {"layer"}))


def with_rounded_weight(model, table):
    """The model with its weight on the grid, rotated in a pointwise convolution."""
    copied, turned = onnx.ModelProto.FromString(model.SerializeToString()), turns(model, table)
    for item in copied.graph.initializer:
        if item.name in table.weights:
            entry, values = table.weights[item.name], numpy_helper.to_array(item)
            if turned:
                values = rotated(values, 1 - entry.axis)
                entry = weight_scale(values, entry.axis)
            codes = quantize_weight(values, entry.scales, entry.axis)
            stored = (codes * along(entry.scales, entry.axis, values.ndim)).astype(np.float32)
            item.CopyFrom(numpy_helper.from_array(stored, item.name))
    return copied


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_equals_the_numpy_model(name):
    model, x, axis = layer(name)
    table = table_of(model, {"x": x})
    lowered = for_cpu_per_position(model, table)
    check_model(lowered)
    assert ops(lowered, "Conv") == ops(lowered, "MatMul") == 0
    assert "layer" in {node.name for node in lowered.graph.node if node.op_type == "MatMulIntegerToFloat"}
    seen = rounded(rotated(x, axis) if turns(model, table) else x, axis)
    expected = run_graph(with_rounded_weight(model, table), {"x": seen})["y"]
    found = run_graph(lowered, {"x": x})["y"]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())
    assert not np.allclose(found, run_graph(model, {"x": x})["y"], rtol=1e-4)  # it is rounded


@pytest.mark.parametrize("name", ["linear", "pointwise, no bias", "pointwise over two axes"])
def test_a_position_times_a_power_of_two_gives_its_result_times_that_and_all_others_bit_for_bit(name):
    model, x, axis = layer(name)
    lowered = for_cpu_per_position(model, table_of(model, {"x": x}))
    factors = np.ones([1 if i == axis else n for i, n in enumerate(x.shape)], np.float32)
    factors.reshape(-1)[::3] = 2.0**-9
    factors.reshape(-1)[1::3] = 2.0**15
    plain, scaled = (run_graph(lowered, {"x": value})["y"] for value in (x, x * factors))
    assert np.array_equal(plain * factors, scaled)


@pytest.mark.parametrize("name", LAYERS)
def test_silence_gives_the_bias(name):
    model, x, _ = layer(name)
    lowered = for_cpu_per_position(model, table_of(model, {"x": x}))
    assert np.array_equal(run_graph(lowered, {"x": x * 0})["y"], run_graph(model, {"x": x * 0})["y"])


@pytest.mark.parametrize("name", LAYERS)
def test_a_thousand_times_the_calibrated_range_is_as_exact_as_that_range(name):
    model, x, _ = layer(name)
    table = table_of(model, {"x": x})
    loud = {"x": x * np.float32(1000)}
    exact = run_graph(model, loud)["y"]

    def error(lowered):
        return np.square(run_graph(lowered, loud)["y"] - exact).sum() / np.square(exact).sum()

    assert error(for_cpu_per_position(model, table)) < 1e-3  # 30 dB
    assert error(for_cpu(model, table)) > 0.5


@pytest.fixture(scope="module")
def lowered(fp32, table):
    return for_cpu_per_position(fp32, table)


def test_the_whole_network_stays_close_beyond_the_range_of_calibration_too(fp32, table, feeds, lowered):
    before = fp32.SerializeToString()
    check_model(for_cpu_per_position(fp32, table))
    assert fp32.SerializeToString() == before
    static = for_cpu(fp32, table)
    for factor, least, most in ((1, 55, 80), (30, 35, 25)):
        inputs = {**feeds, "features": feeds["features"] * np.float32(factor)}
        reference, found = run_graph(fp32, inputs), run_graph(lowered, inputs)
        assert sqnr_db(reference, found) > least
        assert sqnr_db(reference, run_graph(static, inputs)) < most
        assert found["output_lengths"].tolist() == reference["output_lengths"].tolist()


def test_every_convolution_but_depthwise_ones_is_an_integer_product_under_its_own_name(fp32, lowered):
    decisions = {item.node: item.rule for item in decide(fp32, dynamic_rules(fp32))}
    named = {node.name: node.op_type for node in lowered.graph.node}
    assert set(decisions.values()) == {"int8", "depthwise"}
    for node, rule in decisions.items():
        assert named[node] == ("MatMulIntegerToFloat" if rule == "int8" else "Conv")
    assert ops(lowered, "Conv") == list(decisions.values()).count("depthwise")
    assert dynamic_layers(lowered) == tuple(node for node, rule in decisions.items() if rule == "int8")


def test_depthwise_convolutions_run_over_two_axes_and_give_what_they_gave(fp32, table, feeds):
    nothing = for_cpu_per_position(
        fp32, table, exclude=[node.name for node in fp32.graph.node if node.op_type == "Conv"]
    )
    image = [
        node
        for node in nothing.graph.node
        if node.op_type == "Conv" and len(node.attribute) and "_image" in node.output[0]
    ]
    assert len(image) == 3
    reference, found = run_graph(fp32, feeds), run_graph(nothing, feeds)
    assert sqnr_db(reference, found) > 100


def test_ranges_of_activations_are_not_read(fp32, table, lowered):
    assert for_cpu_per_position(fp32, ScaleTable({}, table.weights)).SerializeToString() == lowered.SerializeToString()


def test_a_missing_scale_of_a_weight_is_refused(fp32, table):
    fewer = dict(table.weights)
    name = next(node.input[1] for node in fp32.graph.node if node.name == "/dense.0/conv/Conv")
    del fewer[name]
    with pytest.raises(UsageError, match="no scales for weight"):
        for_cpu_per_position(fp32, ScaleTable(table.activations, fewer))


def test_excluded_nodes_stay_float(fp32, table, feeds):
    result = for_cpu_per_position(fp32, table, exclude=["/dense.0/*"])
    assert "/dense.0/conv/Conv" in {node.name for node in result.graph.node if node.op_type == "Conv"}
    assert sqnr_db(run_graph(fp32, feeds), run_graph(result, feeds)) > 30
    with pytest.raises(RecipeError, match="nowhere"):
        for_cpu_per_position(fp32, table, exclude=["/nowhere/*"])


def test_batch_of_mixed_lengths_equals_one_by_one(lowered, feeds):
    together = run_graph(lowered, feeds)
    for item, length in enumerate(feeds["lengths"]):
        alone = run_graph(
            lowered,
            {"features": feeds["features"][item : item + 1, :, :length], "lengths": feeds["lengths"][item : item + 1]},
        )
        assert np.abs(valid(together, item) - valid(alone, 0)).max() < 1e-4


def test_values_in_padded_frames_never_reach_valid_frames(lowered, feeds):
    padded = np.arange(61) >= feeds["lengths"][:, None, None]
    for value in (100, 1e30):
        noisy = {**feeds, "features": np.where(padded, np.float32(value), feeds["features"])}
        clean, dirty = run_graph(lowered, feeds), run_graph(lowered, noisy)
        assert all(np.array_equal(valid(clean, item), valid(dirty, item)) for item in range(3))


def test_a_convolution_that_no_mask_stands_before_reads_padding_as_it_did():
    """One wide convolution without a mask: no mask may be dropped, in front of the pointwise one neither."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        g (float[B,8,T] x, int64[B,T] n) => (float[B,8,T] y)
            <int64 zero = {0}, int64 one = {1}, int64[1] axis = {1}> {
            kept = Clip(n, zero, one)
            cast = Cast<to=1>(kept)
            mask = Unsqueeze(cast, axis)
            m = Mul(x, mask)
            p = Conv<kernel_shape=[1]>(m, v, b)
            y = Conv<kernel_shape=[3], pads=[1,1]>(p, w) }""")
    for index, node in enumerate(model.graph.node):
        node.name = f"node{index}"
    draw = np.random.default_rng(0)
    values = {"v": draw.normal(size=(8, 8, 1)), "w": draw.normal(size=(8, 8, 3)), "b": draw.normal(size=8)}
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items())
    inputs = {"x": draw.normal(size=(2, 8, 9)).astype(np.float32), "n": np.array([[1] * 9, [1] * 4 + [0] * 5])}
    found = run_graph(for_cpu_per_position(model, table_of(model, inputs)), inputs)["y"]
    exact = run_graph(model, inputs)["y"]
    assert np.square(found - exact).sum() < 1e-3 * np.square(exact).sum()


def test_conformer_is_as_close_and_its_layers_share_codes(conformer):
    lowered = for_cpu_per_position(conformer.fp32, conformer.table)
    check_model(lowered)
    reference = run_graph(conformer.fp32, conformer.feeds)
    static = sqnr_db(reference, run_graph(for_cpu(conformer.fp32, conformer.table), conformer.feeds))
    assert sqnr_db(reference, run_graph(lowered, conformer.feeds)) > max(static - 3, 40)  # its weights have no outliers
    made = {node.name: node for node in lowered.graph.node}
    assert len({made[f"/encoder/layers.0/self_attn/linear_{part}/MatMul"].input[0] for part in "qkv"}) == 1
    decisions = decide(conformer.fp32, dynamic_rules(conformer.fp32))
    assert {item.rule for item in decisions} == {"int8", "activations", "depthwise"}
    assert all(made[node].op_type == "MatMulIntegerToFloat" for node in int8_nodes(decisions))


def test_padding_of_a_conformer_never_reaches_valid_frames(conformer):
    lowered = for_cpu_per_position(conformer.fp32, conformer.table)
    padded = np.arange(97) >= conformer.feeds["lengths"][:, None, None]
    noisy = {**conformer.feeds, "features": np.where(padded, np.float32(100), conformer.feeds["features"])}
    clean, dirty = run_graph(lowered, conformer.feeds), run_graph(lowered, noisy)
    assert all(np.array_equal(valid(clean, item), valid(dirty, item)) for item in range(3))


def test_convolutions_of_whisper_are_int8_though_a_gelu_follows(pair):
    features = np.random.default_rng(0).normal(size=(1, 16, 80)).astype(np.float32)
    decisions = decide(pair.encoder, dynamic_rules(pair.encoder))
    assert {item.rule for item in decisions} == {"int8", "activations"}
    inputs = {"features": features, "lengths": np.array([80])}
    table = table_of(pair.encoder, inputs)
    exact = run_graph(pair.encoder, inputs)
    found, static = (run_graph(make(pair.encoder, table), inputs) for make in (for_cpu_per_position, for_cpu))
    for name, value in ((name, value) for name, value in exact.items() if value.dtype == np.float32):
        noise = [np.square(other[name] - value).sum() for other in (found, static)]
        assert noise[0] < 1e-3 * np.square(value).sum()
        assert noise[0] < noise[1]
