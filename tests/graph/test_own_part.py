"""The part of a table that belongs to a graph: everything it has, nothing it lacks."""

import numpy as np
import onnx

from trtasr.graph.own_part import own_part
from trtasr.values import ScaleTable, TensorScale, WeightScale

GRAPH = """<ir_version: 9, opset_import: ["" : 18]>
tiny (float[1, n, 4] x) => (float[1, n, 3] y) <float[4, 3] w = {0,0,0,0,0,0,0,0,0,0,0,0}, float[3] b = {0,0,0}>
{
    [layer] p = MatMul(x, w)
    y = Add(p, b)
}"""


def test_only_what_the_graph_has():
    scale, weight, bias = TensorScale(1.0, "max"), WeightScale(np.ones(3, np.float32), 1), np.zeros(3, np.float32)
    mine = ScaleTable({"x": scale, "p": scale}, {"w": weight}, {"layer": 0.5}, {"p": bias}, {"a": 1}, {"b": bias})
    other = {
        "activations": {"z": scale},
        "weights": {"v": weight},
        "alphas": {"elsewhere": 1.0},
        "offsets": {"q": bias},
        "corrected": {"c": bias},
    }
    both = ScaleTable(settings={"a": 1}, **{name: {**getattr(mine, name), **more} for name, more in other.items()})
    assert own_part(both, onnx.parser.parse_model(GRAPH)) == mine
