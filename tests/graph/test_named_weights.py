import numpy as np
import onnx
from onnx import numpy_helper

from trtasr.graph.check import assert_parity, run_graph
from trtasr.graph.named_weights import named_weights


def graph(names):
    """Two products, named as given, with numbered weights."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        g (float[B,4] x) => (float[B,4] y) { a = MatMul(x, v1)
        y = MatMul(a, v2) }""")
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    draw = np.random.default_rng(0)
    for name in ("v1", "v2"):
        model.graph.initializer.append(numpy_helper.from_array(draw.normal(size=(4, 4)).astype(np.float32), name))
    return model


def stored(model):
    return [item.name for item in model.graph.initializer]


def test_weights_are_named_after_their_layers():
    before = graph(["/encoder/layers.0/linear1/MatMul", "/encoder/layers.0/linear2/MatMul"])
    after = named_weights(before)
    assert stored(after) == ["encoder.layers.0.linear1.weight", "encoder.layers.0.linear2.weight"]
    x = {"x": np.ones((3, 4), np.float32)}
    assert_parity(run_graph(before, x), run_graph(after, x), 0)
    assert stored(before) == ["v1", "v2"]


def test_two_layers_never_get_one_name():
    assert stored(named_weights(graph(["/a/MatMul", "/a/MatMul"]))) == ["a.weight", "v2"]


def test_every_linear_layer_of_a_conformer_has_a_name(conformer):
    names = stored(conformer.fp32)
    assert "encoder.layers.1.self_attn.linear_pos.weight" in names
    assert not [name for name in names if "MatMul" in name]
