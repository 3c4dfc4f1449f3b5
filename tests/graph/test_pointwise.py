import numpy as np
import onnx
import pytest
from quantized import with_qdq
from tiny_network import ops

from trtasr.graph.check import assert_parity, check_model, run_graph
from trtasr.graph.pointwise import pointwise_to_matmul


def test_fp32_graph_computes_the_same(fp32, feeds):
    before = fp32.SerializeToString()
    lowered = pointwise_to_matmul(fp32)
    check_model(lowered)
    assert (ops(lowered, "MatMul"), ops(lowered, "Conv")) == (5, 4)
    assert_parity(run_graph(fp32, feeds), run_graph(lowered, feeds), 1e-5)
    assert fp32.SerializeToString() == before


def test_matmul_keeps_the_name_of_its_convolution(fp32):
    names = {node.name: node.op_type for node in pointwise_to_matmul(fp32).graph.node}
    assert names["/mconv.1/conv/Conv"] == "MatMul"


def test_lowering_after_quantization_keeps_scales_and_values(fp32, table, feeds):
    quantized = with_qdq(fp32, table, [])
    lowered = pointwise_to_matmul(quantized)
    check_model(lowered)
    assert ops(lowered, "MatMul") == 5
    scales = {item.name: item.raw_data for item in quantized.graph.initializer if item.name.endswith("_scale")}
    after = {item.name: item.raw_data for item in lowered.graph.initializer if item.name.endswith("_scale")}
    assert scales == after
    assert_parity(run_graph(quantized, feeds), run_graph(lowered, feeds), 1e-2)


@pytest.mark.parametrize(
    "attributes", ["kernel_shape=[1], strides=[2]", "kernel_shape=[1], pads=[1,0]", "kernel_shape=[1], group=2"]
)
def test_other_convolutions_are_left_alone(attributes):
    inputs = 2 if "group" in attributes else 4
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[B,4,T] x, float[4,{inputs},1] w) => (float[B,4,U] y) {{ y = Conv<{attributes}>(x, w) }}""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, inputs, 1), np.float32), "w"))
    assert ops(pointwise_to_matmul(model), "Conv") == 1
