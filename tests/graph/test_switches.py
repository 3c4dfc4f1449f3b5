import numpy as np
import onnx
import pytest
from quantized import with_qdq

from trtasr.graph.check import run_graph
from trtasr.graph.edit import constants
from trtasr.graph.switches import SWITCHES, switched
from trtasr.values import ScaleTable, TensorScale, WeightScale

VALUES = ",".join(f"{value:.2f}" for value in np.linspace(-1, 1, 9))
MODEL = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["" : 20]>
    agraph (float[1,4,3] features) => (float[1,4,3] y) <
        float[3,3] w1 = {{{VALUES}}}, float[3,3] w2 = {{{VALUES}}}> {{
        [first] a = MatMul(features, w1)
        [second] y = MatMul(a, w2)
    }}""")
TABLE = ScaleTable(
    {"features": TensorScale(2.0, "max"), "a": TensorScale(3.0, "max")},
    {name: WeightScale(np.full(3, 1 / 20, np.float32), 1) for name in ("w1", "w2")},
)
FEATURES = np.random.default_rng(0).standard_normal((1, 4, 3)).astype(np.float32)


def outcome(model, **switches):
    feeds = {"features": FEATURES} | {name: np.array(values, np.float32) for name, values in switches.items()}
    return run_graph(model, feeds)["y"]


@pytest.fixture(scope="module")
def graphs():
    quantized = with_qdq(MODEL, TABLE, ())
    return quantized, switched(MODEL, quantized, ["first", "second"], constants(MODEL))


def test_all_switches_off_is_full_precision_and_all_on_is_int8(graphs):
    quantized, found = graphs
    np.testing.assert_allclose(outcome(found, **{SWITCHES: [0, 0]}), outcome(MODEL), rtol=1e-5)
    np.testing.assert_allclose(outcome(found, **{SWITCHES: [1, 1]}), outcome(quantized), rtol=1e-5, atol=1e-5)
    assert np.abs(outcome(quantized) - outcome(MODEL)).max() > 0.01


@pytest.mark.parametrize("place", [0, 1])
def test_one_switch_is_one_layer(graphs, place):
    _, found = graphs
    names = ["first", "second"]
    alone = with_qdq(MODEL, TABLE, (lambda site: None if site.node == names[place] else "other",))
    switches = [float(index == place) for index in range(2)]
    np.testing.assert_allclose(outcome(found, **{SWITCHES: switches}), outcome(alone), rtol=1e-5, atol=1e-5)


def test_layers_that_are_not_quantized_have_no_switch():
    part = with_qdq(MODEL, TABLE, (lambda site: "other" if site.node == "first" else None,))
    found = switched(MODEL, part, ["second"], constants(MODEL))
    np.testing.assert_allclose(outcome(found, **{SWITCHES: [1]}), outcome(part), rtol=1e-5, atol=1e-5)
