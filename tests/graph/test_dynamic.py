from dataclasses import replace

import numpy as np
import onnx
import pytest
from exported import initializers
from onnx import numpy_helper
from quantized import with_qdq
from tiny_network import ops, sqnr_db, with_outputs

from trtasr.engine.build import build_rtx, rtx_version
from trtasr.engine.profile import Profile
from trtasr.errors import UsageError
from trtasr.graph.check import assert_parity, check_model, run_graph
from trtasr.graph.dynamic import UNIT_SCALE, dynamic_layers, insert_dynamic_qdq
from trtasr.graph.gains import channel_gains, gain_lint
from trtasr.graph.halve import half_caches, halve
from trtasr.graph.passes import passed
from trtasr.graph.pointwise import per_position
from trtasr.graph.qdq import decide, int8_nodes
from trtasr.graph.tensors import layer_outputs
from trtasr.quant.rotation import rotated
from trtasr.quant.scales import weight_scale
from trtasr.targets import T4_RTX
from trtasr.values import ScaleTable, TensorScale

INPUTS, OUTPUTS, FRAMES = 24, 16, 40
RANGE = TensorScale(1.0, "max")  # what calibration saw

CONVOLUTION = f"g (float[B,{INPUTS},T] x) => (float[B,{OUTPUTS},T] y) {{ [layer] y = Conv<kernel_shape=[1]>(x, w, b) }}"
PLANE = f"g (float[B,{INPUTS},T,F] x) => (float[B,{OUTPUTS},T,F] y) {{ [layer] y = Conv(x, w, b) }}"
LINEAR = f"g (float[B,T,{INPUTS}] x) => (float[B,T,{OUTPUTS}] y) {{ [layer] p = MatMul(x, w) [bias] y = Add(p, b) }}"
KINDS = {"convolution": (CONVOLUTION, (1,)), "plane": (PLANE, (1, 1)), "linear": (LINEAR, None)}


class Layer:
    """One layer with a bias in FP32 and with dynamic scales; rows are positions, channels last."""

    def __init__(self, kind, size=1.0):
        generator, (text, kernel) = np.random.default_rng(3), KINDS[kind]
        self.weight = (size * generator.normal(size=(OUTPUTS, INPUTS))).astype(np.float32)
        self.bias = generator.normal(size=OUTPUTS).astype(np.float32)
        self.kind, self.plane = kind, kind == "plane"
        stored = self.weight.T.copy() if kernel is None else self.weight.reshape(OUTPUTS, INPUTS, *kernel)
        self.fp32 = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {text}')
        self.fp32.graph.initializer.append(numpy_helper.from_array(stored, "w"))
        self.fp32.graph.initializer.append(numpy_helper.from_array(self.bias, "b"))
        self.scales = weight_scale(stored, 1 if kernel is None else 0)
        self.table = ScaleTable({"x": RANGE}, {"w": self.scales})
        self.model = insert_dynamic_qdq(self.fp32, self.table, {"layer"})
        turned = self.turned(self.weight)
        steps = weight_scale(turned, 0).scales[:, None]
        self.rounded = self.turned(np.clip(np.rint(turned / steps), -127, 127) * steps)

    def turned(self, rows):
        """Rows [.., I] as the layer rounds them: a linear layer does not rotate them."""
        return rows if self.kind == "linear" else rotated(rows, 1)

    def __call__(self, rows, model=None):
        """[T, I] -> [T, O]."""
        first = np.moveaxis(rows[None], -1, 1) if self.kind != "linear" else rows[None]
        if self.plane:
            first = first.reshape(1, INPUTS, -1, 4)
        found = run_graph(model or self.model, {"x": np.ascontiguousarray(first, np.float32)})["y"]
        return found[0] if self.kind == "linear" else found[0].reshape(OUTPUTS, -1).T


@pytest.fixture(scope="module", params=KINDS)
def layer(request):
    return Layer(request.param)


def rows(seed=0, magnitude=1.0):
    generator = np.random.default_rng(seed)
    spread = np.exp(generator.normal(0, 2, (FRAMES, 1)))  # some frames are loud
    found = (magnitude * spread * generator.normal(size=(FRAMES, INPUTS))).astype(np.float32)
    return found.clip(-30000, 30000)  # FP16 holds 65504, and a rotation may double the largest


# what it computes


def test_the_graph_is_valid_and_its_argument_unchanged(layer):
    before = layer.fp32.SerializeToString()
    model = insert_dynamic_qdq(layer.fp32, layer.table, {"layer"})
    check_model(model)
    assert layer.fp32.SerializeToString() == before
    assert [node.op_type for node in model.graph.node if node.name == "layer"] == ["MatMul"]
    assert dynamic_layers(model) == ("layer",)
    assert ops(model, "QuantizeLinear") == 1
    quantize = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    assert initializers(model)[quantize.input[1]].tobytes() == UNIT_SCALE.tobytes()


def test_one_over_127_is_raised_to_an_fp16_value_so_that_one_never_clips():
    assert np.float32(np.float16(UNIT_SCALE)) == UNIT_SCALE
    assert 1 <= 127 * float(UNIT_SCALE) < 1.001


@pytest.mark.parametrize("magnitude", [1.0, 1e-3, 1e3])  # of the calibration range
def test_the_error_of_every_position_is_that_of_its_own_scale(layer, magnitude):
    """|y - W x| <= s a / 2 sum |Wq R| + sum |x| |W - Wq|, for each position with its own a: nothing clips."""
    x = rows(magnitude=magnitude)
    absmax = np.abs(layer.turned(x)).max(axis=1, keepdims=True)
    exact = x.astype(np.float64) @ layer.weight.T.astype(np.float64) + layer.bias
    rounding = 0.5 * float(UNIT_SCALE) * absmax * np.abs(layer.turned(layer.rounded)).sum(axis=1)
    bound = rounding + np.abs(x) @ np.abs(layer.weight - layer.rounded).T
    error = np.abs(layer(x) - exact)
    assert (error <= bound * 1.001 + 1e-5 * np.abs(exact)).all()
    assert error.max() > 0.01 * bound.max()  # it is quantized


@pytest.mark.parametrize("power", [-9, -1, 3, 10])
def test_a_position_times_a_power_of_two_is_its_product_times_that(layer, power):
    x = rows()
    scaled = x.copy()
    scaled[7] *= 2.0**power
    before, after = layer(x), layer(scaled)
    others = np.arange(FRAMES) != 7
    np.testing.assert_array_equal(after[others], before[others])
    np.testing.assert_allclose(after[7] - layer.bias, (before[7] - layer.bias) * 2.0**power, rtol=1e-4, atol=1e-5)


def test_silence_gives_the_bias(layer):
    x = rows()
    x[5] = 0
    np.testing.assert_array_equal(layer(x)[5], layer.bias)
    np.testing.assert_array_equal(layer(np.zeros_like(x)), np.tile(layer.bias, (FRAMES, 1)))


def test_what_is_smaller_than_the_smallest_normal_half_keeps_a_scale_of_that(layer):
    x = rows() * np.float32(1e-9)
    assert np.isfinite(layer(x)).all()
    np.testing.assert_allclose(layer(x), np.tile(layer.bias, (FRAMES, 1)), atol=1e-3)


def test_a_static_scale_would_clip_where_this_one_does_not(layer):
    x = rows(magnitude=1e3)
    exact = layer(x, layer.fp32)
    clipping = with_qdq(layer.fp32, layer.table)
    noise = [np.square(found - exact).sum() for found in (layer(x), layer(x, clipping))]
    assert noise[0] < 1e-3 * np.square(exact).sum()
    assert noise[1] > 0.9 * np.square(exact).sum()


# in FP16


def test_in_fp16_it_computes_the_same_from_silence_to_the_end_of_the_range(layer):
    half = halve(channel_gains(layer.model))
    check_model(half)
    x = rows()
    x *= 2.0 ** np.linspace(-9, 9, FRAMES)[:, None].astype(np.float32)
    x = np.clip(x, -3000, 3000)
    x[0] = 0
    exact, found = layer(x), layer(x, half)
    norm = np.linalg.norm(exact, axis=1)
    assert (np.linalg.norm(found - exact, axis=1) <= 0.01 * norm).all()


def test_in_fp16_infinity_in_one_position_stays_there_and_is_no_nan(layer):
    """FP16 ends at 65504: what is beyond becomes infinite, and infinity over infinity would be NaN."""
    half, x = halve(channel_gains(layer.model)), rows()
    x[3, [2, 8, 20]] = 1e6, -1e6, 1e6  # 2, 8 and 20 are mixed with each other
    found = layer(x, half)
    assert not np.isnan(found).any()
    others = np.arange(FRAMES) != 3
    np.testing.assert_allclose(found[others], layer(rows(), half)[others], rtol=1e-3)


def test_the_product_before_its_magnitude_cannot_overflow(layer):
    """|R x / a| <= 1 bounds it by sum |W|, however loud x is; weights as large as that are named."""
    assert gain_lint(channel_gains(layer.model)) == ([], [])
    assert gain_lint(channel_gains(Layer(layer.kind, size=1e4).model)) == ([], ["layer"])


# which layers


def test_kernels_over_several_positions_keep_their_static_pair(fp32, table):
    before, model = with_qdq(fp32, table), insert_dynamic_qdq(fp32, table, all_names(fp32))
    check_model(model)
    wide = {node.name for node in before.graph.node if node.op_type == "Conv"} - per_position(fp32)
    assert len(wide) == 4  # depthwise, and /dense.0
    assert set(dynamic_layers(model)) == per_position(fp32)
    kept = {node.name: node for node in model.graph.node}
    for node in before.graph.node:
        if node.name in wide:
            assert kept[node.name] == node


def test_what_only_dynamic_layers_read_needs_no_calibrated_scale(fp32, table):
    """A table without these tensors will do; a static layer's tensor has to be there."""
    read = {node.input[0] for node in fp32.graph.node if node.name in per_position(fp32)}
    kept = {name: entry for name, entry in table.activations.items() if name not in read}
    assert len(kept) < len(table.activations)
    insert_dynamic_qdq(fp32, ScaleTable(kept, table.weights), per_position(fp32))
    with pytest.raises(UsageError, match="no activation scale"):
        insert_dynamic_qdq(fp32, ScaleTable({}, table.weights), all_names(fp32))


def test_layers_that_read_one_tensor_share_its_codes(conformer):
    model = dynamic(conformer.fp32, conformer.table)
    heads = [f"/encoder/layers.0/self_attn/linear_{part}/MatMul" for part in "qkv"]
    assert set(heads) <= set(dynamic_layers(model))
    assert len({node.input[0] for node in model.graph.node if node.name in heads}) == 1


def test_gemm_and_a_strided_convolution_stay_static():
    text = """g (float[N,8] x, float[B,8,T] c) => (float[N,8] y, float[B,8,U] z) {
        [gemm] y = Gemm(x, w, b) [strided] z = Conv<kernel_shape=[1], strides=[2]>(c, v) }"""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {text}')
    for name, shape in {"w": (8, 8), "b": (8,), "v": (8, 8, 1)}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    weights = {"w": weight_scale(np.ones((8, 8), np.float32), 1), "v": weight_scale(np.ones((8, 8, 1), np.float32), 0)}
    quantized = insert_dynamic_qdq(model, ScaleTable({"x": RANGE, "c": RANGE}, weights), {"gemm", "strided"})
    assert dynamic_layers(quantized) == ()
    assert ops(quantized, "QuantizeLinear") == 2


def test_weights_are_rotated_and_have_scales_of_their_own(fp32, table):
    stored, after = initializers(fp32), initializers(insert_dynamic_qdq(fp32, table, all_names(fp32)))
    codes = [name for name in after if name.endswith("_int8_columns")]
    assert len(codes) == 5
    for name in codes:
        weight = name.removesuffix("_rotated_int8_columns")
        matrix = rotated(stored[weight][:, :, 0].T, 0)
        scales = after[f"{weight}_rotated_scale"]
        np.testing.assert_array_equal(scales, weight_scale(matrix, 1).scales)
        assert np.abs(after[name] * scales - matrix).max() <= 0.5001 * scales.max()


def test_corrected_weights_keep_their_grid_and_are_not_rotated(fp32, table):
    weight = next(name for name in table.weights if initializers(fp32)[name].shape[2] == 1)
    own = replace(table, corrected={weight: initializers(fp32)[weight]})
    before, model = initializers(with_qdq(fp32, own)), insert_dynamic_qdq(fp32, own, all_names(fp32))
    assert ops(model, "Split") == 0
    for name, values in initializers(model).items():
        if name.endswith("_int8_columns"):
            np.testing.assert_array_equal(values, before[name.removesuffix("_columns")][:, :, 0].T)


def test_a_missing_scale_is_refused(fp32, table):
    with pytest.raises(UsageError, match="no scales for weight"):
        insert_dynamic_qdq(fp32, ScaleTable(table.activations, {}), all_names(fp32))


def all_names(model):
    return [node.name for node in model.graph.node if node.op_type in ("Conv", "MatMul")]


# whole networks, with the rules of t4-rtx


def int8(model):
    return int8_nodes(decide(model, T4_RTX.rules))


def dynamic(model, table):
    return T4_RTX.scaled("auto").quantize(model, table, int8(model))


def static(model, table):
    return T4_RTX.scaled("static").quantize(model, table, int8(model))


def check_network(model, feeds, table):
    """As near to FP32 as with static scales, with the names of its tensors, and the same behind every pass."""
    exact, graph = run_graph(model, feeds), dynamic(model, table)
    assert set(layer_outputs(model)) <= {name for node in graph.graph.node for name in node.output}
    found, layers = run_graph(graph, feeds), dynamic_layers(graph)
    assert len(layers) > 4
    by_static = sqnr_db(exact, run_graph(static(model, table), feeds))
    assert sqnr_db(exact, found) > max(by_static - 3, 20)  # random weights have no outliers to spread
    for number, change in enumerate(T4_RTX.passes, 1):
        after = passed(graph, T4_RTX.passes[:number], "test")
        check_model(after)
        assert dynamic_layers(after) == layers, change
        error = np.linalg.norm(run_graph(after, feeds)["log_probs"] - found["log_probs"])
        # a rounding may tip a code over to its neighbour
        assert error < (0.01 if change in (halve, half_caches) else 3e-3) * np.linalg.norm(found["log_probs"]), change


def test_every_pass_keeps_what_a_jasper_computes(fp32, feeds, table):
    check_network(fp32, feeds, table)


def test_every_pass_keeps_what_a_conformer_computes(conformer):
    check_network(conformer.fp32, conformer.feeds, conformer.table)


def test_inner_tensors_agree_behind_the_passes(fp32, feeds, table):
    graph = dynamic(fp32, table)
    lowered = passed(graph, T4_RTX.passes[:3], "test")
    names = [name for name in layer_outputs(fp32) if name != "log_probs"]
    assert_parity(*(run_graph(with_outputs(each, names), feeds) for each in (graph, lowered)), 1e-2)


@pytest.mark.skipif(rtx_version() is None, reason="TensorRT for RTX is not installed")
def test_the_builder_makes_no_kernel_more_than_with_static_scales(fp32, table, tmp_path):
    profile, kinds = Profile((1, 1, 2), (0.2, 1.0, 2.0), 100.0, 16), {}
    for name, graph in {"static": static(fp32, table), "dynamic": dynamic(fp32, table)}.items():
        path = tmp_path / f"{name}.onnx"
        onnx.save(passed(graph, T4_RTX.passes, "test"), path)
        layers = build_rtx(path, tmp_path / name / "model.plan", profile, {}).layers
        kinds[name] = [row.kind for row in layers if row.kind in ("gemm", "kgen", "correlation")]
        assert sum(row.int8 for row in layers) == 5
    assert len(kinds["dynamic"]) <= len(kinds["static"])
    front = [row for row in layers if any(node.endswith("/ReduceMax") for node in row.onnx_nodes)]
    assert {"Int8"} <= {kind for row in front for kind in row.outputs}
    assert all(any(node.endswith("/QuantizeLinear") for node in row.onnx_nodes) for row in front)
