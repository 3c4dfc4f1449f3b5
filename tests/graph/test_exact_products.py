"""Products of 8-bit codes are exact on every processor: the largest codes of both signs, which 16 bits cannot hold."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny_network import table_of

from trtasr.engine.sessions import open_session
from trtasr.graph.check import run_graph
from trtasr.graph.cpu_dynamic import quantize_positions_for_cpu
from trtasr.graph.cpu_qdq import quantize_for_cpu
from trtasr.graph.dynamic import insert_dynamic_qdq
from trtasr.graph.qdq import insert_qdq

QUANTIZERS = (insert_qdq, insert_dynamic_qdq, quantize_for_cpu, quantize_positions_for_cpu)
LAYERS = {
    "pointwise": ("Conv<kernel_shape=[1]>(x, w)", (1, 64, 9), (8, 64, 1)),
    "wide": ("Conv<kernel_shape=[3], pads=[1,1]>(x, w)", (1, 64, 9), (8, 64, 3)),
    "depthwise": ("Conv<kernel_shape=[9], pads=[4,4], group=64>(x, w)", (1, 64, 9), (64, 1, 9)),
    "linear": ("MatMul(x, w)", (1, 9, 64), (64, 8)),
}


def loud(layer, sign):
    """A layer and its input: all weights are the largest or its opposite, and so is all that it reads."""
    node, shape, weight = LAYERS[layer]
    dims = ",".join(map(str, shape))
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[{dims}] x) => (float y) {{ [layer] y = {node} }}""")
    model.graph.initializer.append(numpy_helper.from_array(np.full(weight, sign, np.float32), "w"))
    return model, {"x": np.ones(shape, np.float32)}


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("quantize", QUANTIZERS)
def test_the_largest_codes_give_the_largest_product(quantize, layer, sign):
    model, feeds = loud(layer, sign)
    if layer == "depthwise" and quantize is quantize_positions_for_cpu:
        pytest.skip("it leaves depthwise convolutions in floating point")
    made = quantize(model, table_of(model, feeds), ["layer"])
    expected = run_graph(model, feeds)["y"]
    session = open_session(made.SerializeToString())
    for found in (run_graph(made, feeds)["y"], session.run(["y"], feeds)[0]):
        np.testing.assert_allclose(found, expected, rtol=0.01)
