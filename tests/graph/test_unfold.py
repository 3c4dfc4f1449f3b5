import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from quantized import with_qdq
from tiny_network import ops

from trtasr.engine.build import build_rtx, rtx_version
from trtasr.engine.profile import Profile
from trtasr.graph.check import assert_parity, check_model, run_graph
from trtasr.graph.halve import fp16_scale_lint, halve
from trtasr.graph.pointwise import pointwise_to_matmul
from trtasr.graph.traffic import macs_per_second
from trtasr.graph.unfold import unfold_convolutions
from trtasr.quant.scales import weight_scale
from trtasr.values import ScaleTable, TensorScale

CHANNELS, OUTPUTS = 5, 7


def convolution(kernel, stride=1, dilation=1, bias=True, group=1, pads=None):
    """x -> Relu -> Conv -> y, with a second, pointwise reader of the same tensor."""
    generator = np.random.default_rng(kernel)
    left, right = pads or [dilation * (kernel - 1) // 2] * 2
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[B,{CHANNELS * group},T] x) => (float[B,{OUTPUTS * group},U] y, float[B,{OUTPUTS},T] z) {{
            r = Relu(x)
            y = Conv<kernel_shape=[{kernel}], strides=[{stride}], dilations=[{dilation}], pads=[{left},{right}],
                     group={group}>(r, w{", b" if bias else ""})
            z = Conv<kernel_shape=[1]>(r, v)
        }}""")
    arrays = {"w": (OUTPUTS * group, CHANNELS, kernel), "v": (OUTPUTS, CHANNELS * group, 1), "b": (OUTPUTS * group,)}
    for name in arrays if bias else ("w", "v"):
        values = generator.normal(size=arrays[name]).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    for node, name in zip(model.graph.node, ("relu", "/wide/Conv", "/point/Conv"), strict=True):
        node.name = name
    return model


def quantized(model):
    stored = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    weights = {name: weight_scale(stored[name], 0) for name in ("w", "v")}
    return with_qdq(model, ScaleTable({"r": TensorScale(3.0, "max")}, weights), [])


def features(channels=CHANNELS, batch=3, frames=61):
    return {"x": np.random.default_rng(1).normal(size=(batch, channels, frames)).astype(np.float32)}


@pytest.mark.parametrize("kernel", [1, 3, 11])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_product_computes_what_the_quantized_convolution_computes(kernel, stride, dilation):
    model = quantized(convolution(kernel, stride, dilation))
    before = model.SerializeToString()
    lowered = unfold_convolutions(model)
    check_model(lowered)
    assert model.SerializeToString() == before
    assert ops(lowered, "Conv") == (1 if (kernel, stride) != (1, 1) else 2)
    for batch, frames in ((1, 61), (3, 60), (2, kernel)):
        feeds = features(batch=batch, frames=frames)
        assert_parity(run_graph(model, feeds), run_graph(lowered, feeds), 1e-4)


@pytest.mark.parametrize("changes", [{"bias": False}, {"pads": [4, 0]}, {"pads": [0, 0]}, {"pads": [0, 3]}])
def test_without_bias_and_with_any_padding(changes):
    model = quantized(convolution(5, **changes))
    lowered = unfold_convolutions(model)
    assert ops(lowered, "Conv") == 1
    assert_parity(run_graph(model, features()), run_graph(lowered, features()), 1e-4)


def test_codes_are_moved_and_scales_kept_bit_for_bit():
    """Same codes, same scales, one quantization with the scale of the tensor for both of its readers."""
    model = quantized(convolution(3))
    lowered = unfold_convolutions(model)
    before, after = ({item.name: numpy_helper.to_array(item) for item in m.graph.initializer} for m in (model, lowered))
    assert after["w_int8_columns"].dtype == np.int8
    codes = after["w_int8_columns"].reshape(3, CHANNELS, OUTPUTS)
    assert np.array_equal(codes, before["w_int8"].transpose(2, 1, 0))
    assert "w_int8" not in after
    assert {name: after[name].tobytes() for name in ("w_scale", "v_scale", "r_scale")} == {
        name: before[name].tobytes() for name in ("w_scale", "v_scale", "r_scale")
    }
    pairs = [node for node in lowered.graph.node if node.op_type == "QuantizeLinear"]
    assert [list(node.input[1:]) for node in pairs] == [["r_scale", "int8_zero"]] * 2
    names = {node.name: node.op_type for node in lowered.graph.node}
    assert (names["/wide/Conv"], names["/point/Conv"]) == ("MatMul", "Conv")


def test_grouped_and_floating_convolutions_are_left_alone():
    grouped = convolution(3, group=2)
    assert ops(unfold_convolutions(quantized(grouped)), "Conv") == 2
    plain = convolution(3)
    assert unfold_convolutions(plain).graph.node == plain.graph.node


def test_the_network_computes_the_same_with_every_pass_behind(fp32, table, feeds):
    model = with_qdq(fp32, table, [lambda site: "depthwise" if site.groups > 1 else None])
    lowered = pointwise_to_matmul(unfold_convolutions(model))
    check_model(lowered)
    assert ops(lowered, "Conv") == 3  # depthwise
    assert_parity(run_graph(model, feeds), run_graph(lowered, feeds), 1e-2)
    half = halve(lowered)
    check_model(half)
    assert fp16_scale_lint(half) == fp16_scale_lint(halve(pointwise_to_matmul(model)))


@pytest.mark.skipif(rtx_version() is None, reason="TensorRT for RTX is not installed")
def test_the_builder_makes_one_int8_product_and_one_kernel_around_it(fp32, table, tmp_path):
    model = with_qdq(fp32, table, [lambda site: "depthwise" if site.groups > 1 else None])
    half, path = halve(pointwise_to_matmul(unfold_convolutions(model))), tmp_path / "m.onnx"
    onnx.save(half, path)
    macs = macs_per_second(fp32, 100.0)
    engine = build_rtx(path, tmp_path / "t4-rtx/model.plan", Profile((1, 1, 2), (0.2, 1.0, 2.0), 100.0, 16), macs)
    wide = next(row for row in engine.layers if "/dense.0/conv/Conv" in row.onnx_nodes and row.macs)
    assert (wide.kind, wide.operands, wide.outputs, wide.int8) == ("gemm", ("Int8", "Int8"), ("Half",), True)
    assert wide.macs == macs["/dense.0/conv/Conv"]
    around = [row for row in engine.layers if "/dense.0/conv/Conv/copies" in row.onnx_nodes]
    assert [(row.kind, row.outputs[-1:]) for row in around] == [("kgen", ("Int8",))]
