"""Corrected weights reach the layers that are INT8, and the biases behind them; nothing else changes."""

import numpy as np
import onnx
import pytest
from exported import initializers
from onnx import numpy_helper

from trtasr.errors import UsageError
from trtasr.graph.corrected import with_corrections
from trtasr.values import ScaleTable

NAMES = ("w1", "b1", "w2", "b2")


def network():
    """Two linear layers with biases of their own."""
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["" : 20]> g (float[N,2] x) => (float[N,2] y) {
        [first] a = MatMul(x, w1)  [bias] c = Add(a, b1)  [second] d = MatMul(c, w2)  [end] y = Add(d, b2) }""")
    values = {"w1": np.eye(2), "b1": np.ones(2), "w2": 2 * np.eye(2), "b2": np.zeros(2)}
    stored = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    model.graph.initializer.extend(stored)
    return model


def corrected(**changes):
    return ScaleTable({}, {}, corrected=changes)


ALL = {"w1": np.full((2, 2), 3.0), "b1": np.full(2, 4.0), "w2": np.full((2, 2), 5.0), "b2": np.full(2, 6.0)}


@pytest.mark.parametrize(
    ("quantized", "changed"),
    [((), ()), (("first",), ("w1", "b1")), (("second",), ("w2", "b2")), (("first", "second"), NAMES)],
)
def test_layers_that_are_int8_and_their_biases_change(quantized, changed):
    model = network()
    before = model.SerializeToString()
    found = initializers(with_corrections(model, corrected(**ALL), quantized))
    for name in NAMES:
        expected = ALL[name] if name in changed else initializers(network())[name]
        np.testing.assert_array_equal(found[name], expected)
        assert found[name].dtype == np.float32
    assert model.SerializeToString() == before


def test_without_corrections_the_graph_is_the_same():
    model = network()
    assert with_corrections(model, corrected(), ["first"]) is model


@pytest.mark.parametrize("wrong", [{"nowhere": np.zeros(2)}, {"w1": np.zeros((2, 3))}])
def test_corrections_of_another_graph_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))) as error:
        with_corrections(network(), corrected(**wrong), ["first"])
    assert "calibrate again" in error.value.repair
