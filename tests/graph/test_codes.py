"""Unsigned codes are chosen from the operators alone, and never lie about what a tensor can be."""

import math

import numpy as np
import onnx
import pytest
from tiny_network import with_outputs

from trtasr.errors import UsageError
from trtasr.graph.check import run_graph
from trtasr.graph.codes import SWISH_LOW, Codes, code_formats, codes_from, lowest
from trtasr.values import ScaleTable, TensorScale

HEADER = '<ir_version: 9, opset_import: ["" : 20]>'


def graph(body, inputs="float[B,C,T] x, float[B,C,T] w, int64[B,C,T] n", output="y"):
    return onnx.parser.parse_model(f"{HEADER} g ({inputs}) => (float[B,C,T] {output}) {{ {body} }}")


MASK = """a = Constant <value_int=0> () b = Constant <value_int=1> () c = Clip(n, a, b) m = Cast <to=1> (c)"""


@pytest.mark.parametrize(
    ("body", "low"),
    [
        ("y = Relu(x)", 0.0),
        ("y = Sigmoid(x)", 0.0),
        ("s = Sigmoid(x) y = Mul(x, s)", SWISH_LOW),
        ("s = Sigmoid(x) y = Mul(s, x)", SWISH_LOW),
        ("s = Sigmoid(w) y = Mul(x, s)", None),  # a gate, not a Swish
        ("r = Relu(w) s = Sigmoid(x) y = Mul(r, s)", 0.0),
        ("s = Sigmoid(x) t = Mul(x, s) " + MASK + " y = Mul(t, m)", SWISH_LOW),
        ("r = Relu(x) " + MASK + " y = Mul(m, r)", 0.0),
        (MASK + " y = Mul(x, m)", None),
        ("r = Relu(x) q = Relu(w) y = Add(r, q)", 0.0),
        ("r = Relu(x) s = Sigmoid(w) t = Mul(w, s) y = Add(r, t)", SWISH_LOW),
        ("r = Relu(x) y = Add(r, w)", None),
        ("r = Relu(x) y = Max(w, r)", 0.0),
        ("r = Relu(x) t = Transpose <perm=[0,2,1]> (r) y = Transpose <perm=[0,2,1]> (t)", 0.0),
        ("y = Neg(x)", None),
    ],
)
def test_the_least_value_follows_from_the_operators_and_is_true(body, low):
    model = graph(body)
    assert lowest(model).get("y") == low
    if low is not None:
        random = np.random.default_rng(0)
        feeds = {
            "x": 3 * random.normal(size=(2, 3, 400)).astype(np.float32),
            "w": 3 * random.normal(size=(2, 3, 400)).astype(np.float32),
            "n": random.integers(-1, 3, (2, 3, 400)),
        }
        used = {item.name for item in model.graph.input if any(item.name in node.input for node in model.graph.node)}
        for item in [item for item in model.graph.input if item.name not in used]:
            model.graph.input.remove(item)
        found = run_graph(with_outputs(model, ["y"]), {name: feeds[name] for name in used})["y"]
        assert low <= found.min() < low + 0.1


def test_a_cast_of_something_else_than_a_clip_is_no_mask():
    assert "y" not in lowest(graph("m = Cast <to=1> (n) r = Relu(x) y = Mul(r, m)"))


def test_codes_reach_from_the_least_value_to_the_magnitude():
    entry = TensorScale(6.35, "max")
    assert codes_from(entry, -math.inf) == codes_from(entry, -7.0) == Codes(entry.scale, 128)
    assert codes_from(entry, 0.0) == Codes(entry.unsigned_scale, 0)
    swish = codes_from(entry, SWISH_LOW)
    assert float(swish.scale) * (0 - swish.zero) == pytest.approx(SWISH_LOW, abs=float(swish.scale) / 2)
    assert float(swish.scale) * (255 - swish.zero) == pytest.approx(6.35, abs=float(swish.scale) / 2)
    assert [codes.reach for codes in (Codes(np.float32(1), 0), Codes(np.float32(1), 128), swish)] == [255, 128, 244]


def test_formats_cover_what_weighted_nodes_read_and_miss_no_scale(fp32, table):
    formats = code_formats(fp32, table)
    stored = {item.name for item in fp32.graph.initializer}
    weighted = [node for node in fp32.graph.node if node.op_type in ("Conv", "MatMul") and node.input[1] in stored]
    assert set(formats) == {node.input[0] for node in weighted}
    assert {codes.zero for codes in formats.values()} == {0, 128}
    lost = next(iter(formats))
    with pytest.raises(UsageError, match="no activation scale"):
        code_formats(fp32, ScaleTable({k: v for k, v in table.activations.items() if k != lost}, table.weights))
