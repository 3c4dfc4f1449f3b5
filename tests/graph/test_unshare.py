import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from tiny_network import MEL, Tiny
from torch import nn

from trtasr.graph.check import assert_parity, check_model, run_graph
from trtasr.graph.export import export_onnx, fold_batchnorm
from trtasr.graph.tensors import WEIGHTED
from trtasr.graph.unshare import unshare

CONV = "Conv<kernel_shape=[1]>"


def graph(body, inputs="float[3,3,5] x", outputs="float[3,3,5] y", rank=3):
    """A graph in ONNX's text form over constants w, v [3,3,1] (or [3,3]) and b [3]."""
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 20]>
        g ({inputs}) => ({outputs}) {{ {body} }}""")
    generator = np.random.default_rng(0)
    shapes = {"w": (3, 3, 1)[:rank], "v": (3, 3, 1)[:rank], "b": (3,)}
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(generator.normal(size=shape).astype(np.float32), name))
    return model


def layer_constants(model):
    """Weights and biases in graph order, once for each reader."""
    stored = {item.name for item in model.graph.initializer}
    return [name for node in model.graph.node if node.op_type in WEIGHTED for name in node.input[1:] if name in stored]


def assert_separate(model):
    names, stored = layer_constants(model), {item.name for item in model.graph.initializer}
    others = {name for node in model.graph.node for name in node.input if node.op_type not in WEIGHTED}
    assert len(set(names)) == len(names)
    assert not others & set(names)
    outputs = {value.name for value in model.graph.output}
    assert not [
        node
        for node in model.graph.node
        if node.op_type == "Identity" and node.input[0] in stored and node.output[0] not in outputs
    ]


BODIES = {
    "identity": f"c = Identity(b) h = {CONV}(x, w, b) y = {CONV}(h, v, c)",
    "chain": f"c = Identity(b) d = Identity(c) h = {CONV}(x, w, d) y = {CONV}(h, v, c)",
    "identity read twice": f"c = Identity(b) h = {CONV}(x, w, c) y = {CONV}(h, v, c)",
    "weight": f"h = {CONV}(x, w, b) y = {CONV}(h, w)",
    "no layer": f"c = Identity(v) h = {CONV}(x, w) y = Mul(h, c)",
    "layer and sum": f"h = {CONV}(x, w) i = Add(h, w) y = {CONV}(i, w, b)",
    "activation": f"c = Identity(b) i = Identity(x) h = {CONV}(i, w, b) y = {CONV}(h, v, c)",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_the_graph_computes_the_same_and_layers_share_nothing(body):
    model = graph(body)
    before = model.SerializeToString()
    separate = unshare(model)
    assert model.SerializeToString() == before
    check_model(separate)
    assert_separate(separate)
    x = np.random.default_rng(1).normal(size=(3, 3, 5)).astype(np.float32)
    np.testing.assert_array_equal(run_graph(model, {"x": x})["y"], run_graph(separate, {"x": x})["y"])
    assert unshare(separate) is separate


@pytest.mark.parametrize(
    "body",
    [
        "h = MatMul(x, w) y = MatMul(h, w)",
        "c = Identity(w) y = Gemm(x, w, c)",
        "h = MatMul(w, x) y = MatMul(h, w)",
        "y = Gemm(x, w, w)",
    ],
)
def test_matrix_products_are_layers_too(body):
    model = graph(body, "float[3,3] x", "float[3,3] y", rank=2)
    separate = unshare(model)
    assert_separate(separate)
    x = np.eye(3, dtype=np.float32)
    np.testing.assert_array_equal(run_graph(model, {"x": x})["y"], run_graph(separate, {"x": x})["y"])


def test_copies_are_named_after_what_read_the_constant():
    assert layer_constants(unshare(graph(BODIES["identity"]))) == ["w", "b", "v", "c"]
    assert layer_constants(unshare(graph(BODIES["weight"]))) == ["w", "b", "y.weight"]


def test_identity_that_makes_a_graph_output_stays():
    model = graph(f"c = Identity(b) d = Identity(c) y = {CONV}(x, w, c)", outputs="float[3,3,5] y, float[3] c")
    separate = unshare(model)
    check_model(separate)
    assert_separate(separate)
    assert [node.op_type for node in separate.graph.node] == ["Identity", "Conv"]
    feeds = {"x": np.ones((3, 3, 5), np.float32)}
    for name, values in run_graph(model, feeds).items():
        np.testing.assert_array_equal(values, run_graph(separate, feeds)[name])


def test_a_graph_without_sharing_is_returned_as_it_is(fp32):
    assert unshare(fp32) is fp32


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    """A network whose layers have equal biases, as batch norm without mean and shift leaves them."""
    torch.manual_seed(0)
    model = Tiny().eval()
    nn.init.zeros_(model.decoder[0].bias)
    model.res[0].conv.weight = nn.Parameter(model.mconv[1].conv.weight.detach().clone())
    path = tmp_path_factory.mktemp("alike") / "model.onnx"
    export_onnx(fold_batchnorm(model), path, MEL)
    return model, onnx.load(path)


def test_exported_layers_of_equal_constants_have_their_own(alike, feeds):
    model, exported = alike
    check_model(exported)
    assert_separate(exported)
    assert {name for name in layer_constants(exported) if name.endswith("bias")} == {
        "stem.1.conv.bias",
        "mconv.1.conv.bias",
        "mconv.5.conv.bias",
        "res.0.conv.bias",
        "dense.0.conv.bias",
        "decoder.0.bias",
    }
    with torch.no_grad():
        log_probs, lengths = model(*(torch.from_numpy(feeds[name]) for name in ("features", "lengths")))
    expected = {"log_probs": log_probs.numpy(), "output_lengths": lengths.numpy()}
    assert_parity(expected, run_graph(exported, feeds))
