"""Products: GPTQ on the grid that a layer is multiplied on, less noise than rounding to nearest, the same mean."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from trtasr.errors import UsageError
from trtasr.graph.bias import moments_of
from trtasr.graph.check import run_graph
from trtasr.graph.cpu_dynamic import quantize_positions_for_cpu
from trtasr.graph.dynamic import insert_dynamic_qdq
from trtasr.graph.products import Form, normalized, product_layers, products_of, with_products
from trtasr.graph.rotate import turned
from trtasr.quant.rotation import rotated
from trtasr.quant.scales import weight_scale
from trtasr.values import Product, ScaleTable

CHANNELS, OUTPUTS, POSITIONS = 32, 12, 3000
DAMPING = 0.5
LAYERS = {
    "convolution": ("Conv<kernel_shape=[1]>(x, w, b)", (OUTPUTS, CHANNELS, 1)),
    "linear": ("MatMul(x, w)  y = Add(h, b)", (CHANNELS, OUTPUTS)),
}
COARSE = 16  # times the step of INT8: so few codes that rounding of weights is all that counts


def network(layer):
    """A graph of one layer and what it reads: correlated channels that are not about zero."""
    node, shape = LAYERS[layer]
    dims, output = (f"1,{CHANNELS},T", "y") if layer == "convolution" else (f"1,T,{CHANNELS}", "h")
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[{dims}] x) => (float y) {{ [layer] {output} = {node} }}""")
    draw = np.random.default_rng(2)
    stored = {"w": draw.normal(size=shape), "b": draw.normal(size=OUTPUTS)}
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), name) for name, v in stored.items())
    mixing = draw.normal(size=(6, CHANNELS))
    rows = draw.normal(size=(POSITIONS, 6)) @ mixing + 0.1 * draw.normal(size=(POSITIONS, CHANNELS)) + 2
    values = (rows.T if layer == "convolution" else rows).astype(np.float32)
    return model, np.ascontiguousarray(values)


def seen(model, values):
    """Moments of what the layer reads."""
    moments = moments_of(model, ["x"])
    moments["x"].add(values)
    return moments


def coarse(monkeypatch):
    """Weights of few codes."""
    monkeypatch.setattr(
        "trtasr.graph.products.weight_scale", lambda weight, axis: weight_scale(weight, axis, 127 // COARSE)
    )


def nearest(node, weight, scales):
    """The product by rounding to nearest on the same grid."""
    axis = 0 if node.op_type == "Conv" else 1
    form = rotated(weight, 1 - axis) if node.op_type == "Conv" else weight
    steps = scales.reshape([-1 if index == axis else 1 for index in range(weight.ndim)])
    return Product(np.rint(form / steps).astype(np.int8), scales, np.zeros(0, np.float32))


@pytest.mark.parametrize("layer", LAYERS)
def test_it_has_less_noise_than_rounding_to_nearest_and_the_mean_of_full_precision(monkeypatch, layer):
    coarse(monkeypatch)
    model, values = network(layer)
    [node] = product_layers(model)
    [product] = products_of(model, seen(model, values), DAMPING).values()
    weight = numpy_helper.to_array(model.graph.initializer[0])
    plain = replace(nearest(node, weight, product.scales), bias=numpy_helper.to_array(model.graph.initializer[1]))
    tables = (ScaleTable({}, {}, products={"layer": one}) for one in (product, plain))
    graphs = (model, *(with_products(model, table, {"layer"}) for table in tables))
    exact, found, rounded = (run_graph(graph, {"x": values[None]})["y"] for graph in graphs)
    over = (0, 2) if layer == "convolution" else (0, 1)
    np.testing.assert_allclose(found.mean(over), exact.mean(over), atol=2e-3)
    assert np.abs((rounded - exact).mean(over)).max() > 0.05
    assert (found - exact).var(over).sum() < 0.5 * (rounded - exact).var(over).sum()


@pytest.mark.parametrize("layer", LAYERS)
def test_with_very_much_damping_it_rounds_to_nearest(layer):
    model, values = network(layer)
    [node], [product] = product_layers(model), products_of(model, seen(model, values), 1e6).values()
    plain = nearest(node, numpy_helper.to_array(model.graph.initializer[0]), product.scales)
    np.testing.assert_array_equal(product.codes, plain.codes)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("quantize", [insert_dynamic_qdq, quantize_positions_for_cpu])
def test_a_target_multiplies_with_its_codes(layer, quantize):
    """The graph with a product's weight, quantized, has the product's codes; without products it has others."""
    model, values = network(layer)
    products = products_of(model, seen(model, values), DAMPING)
    weights = {"w": weight_scale(numpy_helper.to_array(model.graph.initializer[0]), 0 if layer == "convolution" else 1)}
    table = ScaleTable({}, weights, products=products)
    made = quantize(with_products(model, table, {"layer"}), table, {"layer"})
    codes = products["layer"].codes.reshape(products["layer"].codes.shape[:2])
    matrix = codes.T if layer == "convolution" else codes
    assert any(np.array_equal(found, matrix) for found in matrices(made))
    plain = replace(table, products={})
    assert not any(np.array_equal(found, matrix) for found in matrices(quantize(model, plain, {"layer"})))


def matrices(model):
    """Stored codes, those around 128 about zero."""
    for item in model.graph.initializer:
        if item.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) and len(item.dims) == 2:
            values = numpy_helper.to_array(item)
            yield values if values.dtype == np.int8 else (values ^ np.uint8(128)).view(np.int8)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("quantize", [insert_dynamic_qdq, quantize_positions_for_cpu])
def test_large_channels_are_smoothed(layer, quantize, monkeypatch):
    """The graph computes the same function with less noise than that of codes that two channels set the scales of."""
    monkeypatch.setattr("trtasr.graph.products.normalized", lambda model: {"x"})
    model, values = network(layer)
    large = np.ones(CHANNELS, np.float32)
    large[:2] = 60
    values = values * (large[:, None] if layer == "convolution" else large)
    products = products_of(model, seen(model, values), DAMPING)
    assert (products["layer"].smoothing[:2] > products["layer"].smoothing[2:].max()).all()
    axis = 0 if layer == "convolution" else 1
    table = ScaleTable({}, {"w": weight_scale(numpy_helper.to_array(model.graph.initializer[0]), axis)})
    exact, errors = run_graph(model, {"x": values[None]})["y"], []
    for one in (replace(table, products=products), table):
        made = quantize(with_products(model, one, {"layer"}), one, {"layer"})
        errors.append(np.square(run_graph(made, {"x": values[None]})["y"] - exact).mean())
    assert errors[0] < 0.5 * errors[1]
    assert errors[0] < 1e-3 * exact.var()


def test_layers_that_read_the_same_tensor_share_its_factors(conformer):
    model = conformer.fp32
    nodes = product_layers(model)
    moments = moments_of(model, [node.input[0] for node in nodes])
    draw = np.random.default_rng(0)
    for one in moments.values():
        values = draw.normal(size=(40, one.channels)).astype(np.float32) * draw.lognormal(0, 2, one.channels)
        one.add(np.ascontiguousarray(values.T if one.first else values, np.float32))
    products, shared = products_of(model, moments, DAMPING), {}
    for node in nodes:
        shared.setdefault(node.input[0], []).append(products[node.name].smoothing)
    assert max(map(len, shared.values())) > 2
    for found in shared.values():
        assert all(np.array_equal(found[0], other) for other in found)
    smoothed = {name for name, found in shared.items() if found[0].size}
    assert smoothed <= normalized(model)
    assert len(smoothed) > len(normalized(model)) / 2


def test_what_a_layer_norm_gives_is_normalized_and_what_a_relu_gives_is_not(fp32, conformer):
    assert not normalized(fp32)
    made = {name: node.op_type for node in conformer.fp32.graph.node for name in node.output}
    assert {made[name] for name in normalized(conformer.fp32)} == {"LayerNormalization", "Transpose"}


def test_layers_in_floating_point_keep_what_they_were_trained_with():
    model, values = network("convolution")
    table = ScaleTable({}, {}, products=products_of(model, seen(model, values), DAMPING))
    kept = with_products(model, table, ())
    assert [item.SerializeToString() for item in kept.graph.initializer] == [
        item.SerializeToString() for item in model.graph.initializer
    ]


def test_a_layer_that_never_ran_and_a_weight_that_two_layers_read_have_none():
    model, _ = network("linear")
    assert products_of(model, moments_of(model, ["x"]), DAMPING) == {}
    again = onnx.helper.make_node("MatMul", ["x", "w"], ["other"], name="again")
    model.graph.node.append(again)
    assert product_layers(model) == []


def test_depthwise_and_wide_convolutions_have_none(fp32, conformer):
    found = {node.name: node for node in product_layers(fp32)}
    assert found
    assert all(node.op_type == "Conv" and "depthwise" not in name for name, node in found.items())
    linear = [node for node in product_layers(conformer.fp32) if node.op_type == "MatMul"]
    assert linear


def test_a_product_of_another_graph_is_refused():
    model, values = network("linear")
    [product] = products_of(model, seen(model, values), DAMPING).values()
    few = np.ones(3, np.float32)
    for change in ({"codes": product.codes[:, :3]}, {"bias": few}, {"scales": few}, {"smoothing": few}):
        with pytest.raises(UsageError, match=r"layer has arrays of other sizes there.*\n.*make calib"):
            with_products(model, ScaleTable({}, {}, products={"layer": replace(product, **change)}), {"layer"})
    with pytest.raises(UsageError, match=r"nowhere is no matrix product"):
        with_products(model, ScaleTable({}, {}, products={"nowhere": product}), {"layer"})


def test_readers_of_a_tensor_with_different_factors_are_refused(conformer):
    model = conformer.fp32
    [one, other, *_] = [
        node for node in product_layers(model) if node.name.endswith(("linear_q/MatMul", "linear_k/MatMul"))
    ]
    assert one.input[0] == other.input[0]
    moments = moments_of(model, [one.input[0]])
    moments[one.input[0]].add(
        np.random.default_rng(0).normal(size=(40, moments[one.input[0]].channels)).astype(np.float32)
    )
    products = products_of(model, moments, DAMPING)
    spoilt = replace(products[one.name], smoothing=np.full(moments[one.input[0]].channels, 2, np.float32))
    with pytest.raises(UsageError, match=r"has other factors there than another layer"):
        with_products(model, ScaleTable({}, {}, products=products | {one.name: spoilt}), ())


def test_an_input_that_is_constant_is_rounded_to_nearest():
    """Nothing varies, so no error can make up for another; the mean is kept all the same."""
    model, values = network("linear")
    values[:] = 1000.0 + np.arange(CHANNELS, dtype=np.float32)
    moments = moments_of(model, ["x"])
    for start in range(0, POSITIONS, 500):
        moments["x"].add(values[start : start + 500])
    [node], [product] = product_layers(model), products_of(model, moments, DAMPING).values()
    weight = numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_array_equal(product.codes, nearest(node, weight, product.scales).codes)


def test_a_bias_that_two_convolutions_read_keeps_both_from_having_products():
    model, _ = network("convolution")
    again = onnx.helper.make_node("Conv", ["x", "other", "b"], ["z"], name="again", kernel_shape=[1])
    model.graph.node.append(again)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((OUTPUTS, CHANNELS, 1), np.float32), "other"))
    assert product_layers(model) == []


def test_very_wide_inputs_have_no_covariance(monkeypatch):
    monkeypatch.setattr("trtasr.graph.products.WIDEST", CHANNELS - 1)
    assert product_layers(network("linear")[0]) == []


def test_the_stored_form_of_a_rotated_layer_is_not_rotated():
    model, values = network("convolution")
    [node], [product] = product_layers(model), products_of(model, seen(model, values), DAMPING).values()
    weight = numpy_helper.to_array(model.graph.initializer[0])
    assert turned(model) == {"layer"}
    np.testing.assert_allclose(Form(node, turn=True).stored(product), weight, atol=2 * product.scales.max())
    assert not np.allclose(product.codes * product.scales[:, None, None], weight, atol=0.3)
