import numpy as np
import onnx
import pytest
from exported import initializers
from onnx import numpy_helper
from quantized import with_qdq

from trtasr.engine.build import build_rtx, rtx_version
from trtasr.engine.profile import Profile
from trtasr.graph.check import assert_parity, check_model, run_graph
from trtasr.graph.gains import channel_gains, gain_lint
from trtasr.graph.halve import halve
from trtasr.graph.pointwise import pointwise_to_matmul


def depthwise(site):
    return "depthwise" if site.groups > 1 or site.kernel == (3,) else None


@pytest.fixture(scope="module")
def lowered(fp32, table):
    return pointwise_to_matmul(with_qdq(fp32, table, [depthwise]))


def test_scale_times_gain_is_the_channels_scale_and_the_network_computes_the_same(lowered, feeds):
    before = lowered.SerializeToString()
    graph = channel_gains(lowered)
    check_model(graph)
    assert lowered.SerializeToString() == before
    assert_parity(run_graph(lowered, feeds), run_graph(graph, feeds), 1e-2)
    old, new = initializers(lowered), initializers(graph)
    products = [node for node in lowered.graph.node if node.op_type == "MatMul"]
    assert len(products) == 5
    for node in products:
        scales = old[node.input[1].removesuffix("_int8_columns_dequantized") + "_scale"]
        assert new[f"{node.name}_scale"].shape == ()
        assert 0 < new[f"{node.name}_gain"].max() <= 1
        assert (new[f"{node.name}_gain"] * new[f"{node.name}_scale"]).tobytes() == scales.tobytes()


def test_products_of_one_tensor_share_a_scale(lowered):
    """So that the builder can still compute them in one kernel."""
    graph, made_by = channel_gains(lowered), {name: node for node in lowered.graph.node for name in node.output}
    scales: dict[str, set[float]] = {}
    for node in lowered.graph.node:
        if node.op_type == "MatMul":
            source = made_by[node.input[0]].input[0]  # behind the Transpose
            scales.setdefault(source, set()).add(float(initializers(graph)[f"{node.name}_scale"]))
    assert all(len(found) == 1 for found in scales.values())


def test_products_without_int8_weights_are_left_alone(fp32):
    plain = pointwise_to_matmul(fp32)
    assert channel_gains(plain).graph.node == plain.graph.node


def test_what_comes_near_the_limits_of_fp16_is_named(lowered):
    """Full-range inputs of a product with large scales; a channel a hundred thousand times smaller than another."""
    assert gain_lint(channel_gains(lowered)) == ([], [])
    assert gain_lint(halve(channel_gains(lowered))) == ([], [])
    extreme = onnx.ModelProto.FromString(lowered.SerializeToString())
    for item in extreme.graph.initializer:
        if item.name == "decoder.0.weight_scale":
            scales = numpy_helper.to_array(item).copy()
            scales[0] = 1e-5 * scales.max()
            item.CopyFrom(numpy_helper.from_array(scales, item.name))
        if item.name == "mconv.1.conv.weight_scale":
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item) * 1e5, item.name))
    subnormal, overflowing = gain_lint(channel_gains(extreme))
    assert subnormal == ["/decoder/decoder.0/Conv"]
    assert overflowing == ["/mconv.1/conv/Conv"]


@pytest.mark.skipif(rtx_version() is None, reason="TensorRT for RTX is not installed")
@pytest.mark.parametrize("capability", ["sm75", "sm86"])
@pytest.mark.parametrize("gains", [False, True])
def test_the_plan_holds_the_factor_its_products_apply_to_the_accumulator(lowered, tmp_path, gains, capability):
    """The FP32 number s_x s of each INT8 product, and its gains, are in the plan: without gains neither is."""
    reference = channel_gains(lowered)
    path = tmp_path / "m.onnx"
    onnx.save(halve(reference if gains else lowered), path)
    profile = Profile((1, 1, 2), (0.2, 1.0, 2.0), 100.0, 16)
    engine = build_rtx(path, tmp_path / "t4-rtx/model.plan", profile, {}, capability)
    plan, stored = (tmp_path / "t4-rtx/model.plan").read_bytes(), initializers(halve(reference))
    made_by = {name: node for node in reference.graph.node for name in node.output}
    assert sum(row.int8 for row in engine.layers) >= 4
    for node in reference.graph.node:
        if node.op_type == "MatMul":
            pair = made_by[made_by[node.input[0]].input[0]]
            factor = np.float32(stored[f"{pair.input[1]}_fp16"]) * np.float32(stored[f"{node.name}_scale_fp16"])
            assert (factor.tobytes() in plan) == gains
            assert (stored[f"{node.name}_gain_fp16"].tobytes() in plan) == gains
