from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper, shape_inference
from quantized import with_qdq
from t4_graphs import first_part
from tiny_archive import block, config
from tiny_network import ops, sqnr_db

from trtasr.graph.check import check_model, run_graph
from trtasr.graph.conv2d import conv1d_to_conv2d
from trtasr.graph.dynamic import insert_dynamic_qdq
from trtasr.graph.export import export_onnx, fold_batchnorm
from trtasr.graph.halve import fp16_scale_lint, halve
from trtasr.graph.qdq import decide, int8_nodes
from trtasr.graph.tensors import attribute
from trtasr.models.jasper import JasperCtc
from trtasr.targets import T4
from trtasr.targets.choose import one_dimensional
from trtasr.values import TensorScale
from trtasr.zoo.network import bundled

pytestmark = pytest.mark.usefixtures("one_order_of_sums")
CHANNELS = 6


def assert_same_bits(model, feeds):
    """The model in four dimensions, which computes the same."""
    before = model.SerializeToString()
    changed = conv1d_to_conv2d(model)
    assert model.SerializeToString() == before
    check_model(changed)
    first, second = run_graph(model, feeds), run_graph(changed, feeds)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
    return changed


def convolutions_over_time(model):
    return sum(len(attribute(node, "kernel_shape", [])) == 1 for node in model.graph.node if node.op_type == "Conv")


def shuffles(model):
    return ops(model, "Unsqueeze") + ops(model, "Squeeze")


def graph(body, constants, outputs="float[B,C,U] y"):
    """A graph of one input x [B, 6, T]."""
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[B,{CHANNELS},T] x) => ({outputs}) {{ {body} }}""")
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"node{index}"
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    return model


def normal(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


FEEDS = {"x": normal(2, CHANNELS, 31)}


@pytest.mark.parametrize("quantize", [False, True])
def test_a_network_is_one_run_between_input_and_head(fp32, table, feeds, quantize):
    changed = assert_same_bits(with_qdq(fp32, table, T4.rules) if quantize else fp32, feeds)
    assert convolutions_over_time(fp32) == 9
    assert convolutions_over_time(changed) == 0
    assert ops(changed, "Squeeze") == 1
    assert ops(changed, "Unsqueeze") == ops(fp32, "Unsqueeze") + 1  # masks are made with two axes
    assert {node.name for node in fp32.graph.node} - {node.name for node in changed.graph.node} <= {
        node.name for node in fp32.graph.node if node.op_type in ("Constant", "Unsqueeze")
    }


def scales_and_codes(model):
    stored = {item.name: numpy_helper.to_array(item).tobytes() for item in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    return [(node.name, node.op_type, stored.get(node.input[0]), stored[node.input[1]]) for node in pairs]


def test_scales_and_codes_stay(fp32, table):
    quantized = with_qdq(fp32, table, T4.rules)
    assert scales_and_codes(conv1d_to_conv2d(quantized)) == scales_and_codes(quantized)


def test_what_fp16_could_spoil_is_found_in_both_forms(fp32, table):
    quiet = replace(table, activations={name: TensorScale(1e-4, "max") for name in table.activations})
    quantized = with_qdq(fp32, quiet, T4.rules)
    found = fp16_scale_lint(halve(conv1d_to_conv2d(quantized)))
    assert found == fp16_scale_lint(halve(quantized)) != []


@pytest.mark.parametrize("quantize", [False, True])
def test_a_conformer_has_a_run_in_each_layer(conformer, quantize):
    model = with_qdq(conformer.fp32, conformer.table, T4.rules) if quantize else conformer.fp32
    changed = assert_same_bits(model, conformer.feeds)
    assert convolutions_over_time(changed) == 0
    layers = 2
    assert (
        shuffles(changed) - shuffles(model) == 2 * layers + 2 + 1
    )  # the head, and the mask, which attention reads too
    assert shuffles(changed) - shuffles(model) < 2 * convolutions_over_time(model)


def test_scales_at_run_time_leave_short_runs_between_products(fp32, table, feeds):
    model = insert_dynamic_qdq(fp32, table, int8_nodes(decide(fp32, T4.rules)))
    changed = assert_same_bits(model, feeds)
    saved = convolutions_over_time(model) - convolutions_over_time(changed)
    assert saved >= 3
    assert shuffles(changed) - shuffles(model) <= 2 * saved


def test_a_decoder_has_nothing_to_change(pair):
    assert conv1d_to_conv2d(pair.decoder) is pair.decoder
    assert convolutions_over_time(conv1d_to_conv2d(pair.encoder)) == 0


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("settings", ["strides=[2]", "dilations=[2]", "pads=[3,1]", "group=3", "auto_pad='SAME_UPPER'"])
def test_the_settings_of_a_convolution_follow(kernel, settings):
    inputs = CHANNELS // (3 if "group" in settings else 1)
    settings = settings.replace("'", '"')
    model = graph(
        f"y = Conv<kernel_shape=[{kernel}], {settings}>(x, w, b)", {"w": normal(9, inputs, kernel), "b": normal(9)}
    )
    changed = assert_same_bits(model, FEEDS)
    assert (convolutions_over_time(changed), shuffles(changed)) == (0, 2)


def test_a_convolution_may_leave_its_settings_out():
    assert_same_bits(graph("y = Conv(x, w)", {"w": normal(4, CHANNELS, 5)}), FEEDS)


CASES = {
    "constants that are broadcast": (
        "c = Conv(x, w) s = Mul(c, column) t = Add(s, row) u = Sub(one, t) y = Div(u, box)",
        {"column": normal(4, 1), "row": normal(29), "one": np.float32(1), "box": normal(1, 4, 1)},
    ),
    "pads": (
        "c = Conv(x, w) p = Pad(c, pads, zero) r = Relu(p) y = Conv(r, v)",
        {"pads": np.array([0, 0, 4, 0, 0, 1]), "zero": np.float32(2), "v": normal(5, 4, 3)},
    ),
    "gates": ("c = Conv(x, w) a, b = Split<axis=1, num_outputs=2>(c) s = Sigmoid(b) y = Mul(a, s)", {}),
    "concatenated channels": ("c = Conv(x, w) r = Relu(c) y = Concat<axis=1>(c, r)", {}),
    "a size": (
        "c = Conv(x, w) s = Shape(c) n = Gather(s, last) m = Gather(s, channels) "
        "f = Cast<to=1>(n) g = Cast<to=1>(m) d = Div(c, f) y = Div(d, g)",
        {"last": np.array(-1), "channels": np.array(1)},
    ),
    "a whole shape": ("c = Conv(x, w) s = Shape(c) z = Expand(half, s) y = Mul(c, z)", {"half": np.float32(0.5)}),
    "a time that is reversed": ("c = Conv(x, w) t = Transpose<perm=[0,2,1]>(c) y = Relu(t)", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_stands_between_convolutions_follows(case):
    body, constants = CASES[case]
    changed = assert_same_bits(graph(body, {"w": normal(4, CHANNELS, 3), **constants}), FEEDS)
    assert convolutions_over_time(changed) == 0


def test_an_output_within_a_run_keeps_its_form():
    body = "c = Conv(x, w) r = Relu(c) y = Conv(r, v) t = Transpose<perm=[2,1,0]>(c)"
    model = graph(
        body, {"w": normal(4, CHANNELS, 3), "v": normal(5, 4, 1)}, "float[B,C,U] y, float[B,4,U] c, float[U,4,B] t"
    )
    assert convolutions_over_time(assert_same_bits(model, FEEDS)) == 0


def test_nothing_is_shuffled_without_a_convolution_or_for_more_than_it_saves():
    alone = graph("r = Relu(x) y = Mul(r, r)", {})
    assert conv1d_to_conv2d(alone) is alone
    wide = graph(
        "c = Conv(x, w) r = Relu(c) s = Tanh(c) t = Add(r, s)",
        {"w": normal(4, CHANNELS, 3)},
        "float[B,C,U] c, float[B,C,U] r, float[B,C,U] s, float[B,C,U] t",
    )
    assert conv1d_to_conv2d(wide) is wide


BLOCKS = {
    "streaming": [block(32, 11, stride=[2], future_context=2), block(32, 7, residual=True, future_context=1)],
    "dense": [block(32, 7, residual=True, residual_dense=True), block(32, 5, residual=True, residual_dense=True)],
    "largest": [block(32, 7, residual=True, residual_mode="max"), block(32, 5, separable=False, dilation=[2])],
}


@pytest.mark.parametrize("activation", ["relu", "hardtanh", "selu", "swish", "gelu"])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_every_kind_of_jasper_block_follows(blocks, activation, tmp_path):
    settings = config()
    encoder = settings["encoder"] | {"jasper": BLOCKS[blocks], "activation": activation}
    torch.manual_seed(0)
    network = JasperCtc(encoder, settings["decoder"] | {"feat_in": 32}).eval()
    export_onnx(fold_batchnorm(network), tmp_path / "model.onnx", 64)
    model = onnx.load(tmp_path / "model.onnx")
    changed = assert_same_bits(model, {"features": normal(2, 64, 81), "lengths": np.array([81, 40])})
    assert convolutions_over_time(changed) == 0
    assert 1 <= ops(changed, "Squeeze") <= max(1, ops(model, "Pad"))


@pytest.mark.parametrize("name", ["quartznet", "jasper", "conformer", "whisper"])
def test_bundled_networks_compute_the_same_bits(name, tmp_path):
    part = first_part(bundled(name), tmp_path)
    for model in (part.fp32, part.quantized()):
        assert convolutions_over_time(assert_same_bits(model, part.feeds)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quartznet15x5", "conformer_ctc_small"])
def test_published_networks_compute_the_same_bits(name, shared, tmp_path):
    part = first_part(shared / "data" / "models" / f"{name}.nemo", tmp_path)
    for model in (part.fp32, part.quantized()):
        assert convolutions_over_time(assert_same_bits(model, part.feeds)) == 0


@pytest.mark.parametrize("index", [None, 0, 1], ids=["int8", "fp16", "fp32"])
def test_plans_and_baselines_have_both_forms(index, tmp_path):
    part = first_part(bundled("quartznet"), tmp_path)
    deep, flat = (target if index is None else target.baselines[index] for target in (T4, one_dimensional(T4)))
    models = part.lowered(deep), part.lowered(flat)
    assert [convolutions_over_time(model) for model in models] == [0, 41]
    assert float_types(models[0]) == float_types(models[1])
    first, second = (run_graph(model, part.feeds) for model in models)
    if deep.rest == "FP32":
        np.testing.assert_array_equal(first["log_probs"], second["log_probs"])
    else:  # on the CPU, ONNX Runtime computes FP16 in FP32 and rounds where its optimizer has left the conversions
        assert sqnr_db(first, second) > 40


def float_types(model):
    """Node -> type of what it makes, where that is a floating-point number."""
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    kinds = {
        node.name: types.get(node.output[0]) for node in model.graph.node if node.op_type in ("Conv", "Mul", "Relu")
    }
    return {name: kind for name, kind in kinds.items() if kind in (TensorProto.FLOAT, TensorProto.FLOAT16)}
