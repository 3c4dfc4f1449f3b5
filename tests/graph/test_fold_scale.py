import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from trtasr.graph.check import assert_parity, check_model, run_graph
from trtasr.graph.fold_scale import fold_scale
from trtasr.graph.tensors import data_path

GRAPHS = {
    "bias": "p = MatMul(x, w) a = Add(b, p) y = Mul(a, c)",
    "no bias": "p = MatMul(x, w) y = Mul(c, p)",
    "then more": "p = MatMul(x, w) a = Add(b, p) m = Mul(a, c) y = Add(m, x)",
}
LEFT = {
    "read twice": "p = MatMul(x, w) a = Add(b, p) m = Mul(a, c) y = Add(m, a)",
    "vector": "p = MatMul(x, w) a = Add(b, p) y = Mul(a, b)",
    "no linear layer": "a = Add(x, b) y = Mul(a, c)",
    "the second of two": "p = MatMul(x, w) m = Mul(p, c) y = Mul(m, c)",
    "an inner output": "p = MatMul(x, w) z = Add(p, b) y = Mul(z, c)",
    "two activations": "p = MatMul(x, x) y = Mul(p, c)",
}


def graph(body):
    """Nodes over x [B,4,4], a weight, a bias and the constant 0.3; an Identity behind, because the output stays."""
    lines = body.replace(") ", ")\n") + ("" if "z =" in body else "\nz = Identity(y)")
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[B,4,4] x) => (float[B,4,4] z) {{ {lines} }}""")
    draw = np.random.default_rng(0)
    values = {"w": draw.normal(size=(4, 4)), "b": draw.normal(size=4), "c": np.array(0.3)}
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items())
    return model


def multiplications(model):
    return [node for node in model.graph.node if node.op_type == "Mul"]


@pytest.mark.parametrize("name", GRAPHS)
def test_factor_moves_into_weight_and_bias(name):
    before = graph(GRAPHS[name])
    after = fold_scale(before)
    check_model(after)
    assert not multiplications(after)
    x = {"x": np.random.default_rng(1).normal(size=(2, 4, 4)).astype(np.float32)}
    assert_parity(run_graph(before, x), run_graph(after, x), 1e-6)
    assert multiplications(before)  # the given graph is as it was


@pytest.mark.parametrize("name", LEFT)
def test_other_products_stay(name):
    before = graph(LEFT[name])
    assert len(multiplications(fold_scale(before))) == 1


def test_conformer_has_no_constant_factor_left(conformer):
    """Swish, GLU and masks multiply two computed tensors; halves, query and model scales are in the weights."""
    stored = {item.name for item in conformer.fp32.graph.initializer}
    stored |= {node.output[0] for node in conformer.fp32.graph.node if node.op_type == "Constant"}
    activations = set(data_path(conformer.fp32))
    scaled = [node for node in multiplications(conformer.fp32) if stored & set(node.input)]
    assert scaled  # positions, masks and sizes
    assert not [node.name for node in scaled if activations & set(node.input)]
