import numpy as np
import onnx
import pytest
import tiny_graphs
from onnx import TensorProto, numpy_helper
from quantized import for_cpu

from trtasr.engine.signed_weights import unsigned_to_signed, unsigned_weights
from trtasr.graph.check import check_model, run_graph
from trtasr.values import ScaleTable, TensorScale, WeightScale

PRODUCT = "y = com.microsoft.MatMulIntegerToFloat(q, w, one, scales, middle, middle)"
FITTING = 0.06  # scale of weights, so that two products of codes fit 16 bits: exact on every processor


@pytest.fixture
def lowered(tmp_path):
    """A depthwise and a pointwise convolution in integers, and one that gives float32."""
    fp32 = onnx.load(tiny_graphs.fp32(tmp_path / "fp32.onnx"))
    channels = {"dw_weight": tiny_graphs.MELS, "pw_weight": tiny_graphs.HIDDEN, "head_weight": tiny_graphs.TOKENS}
    scales = {name: WeightScale(np.full(size, FITTING, np.float32), 0) for name, size in channels.items()}
    activations = {name: TensorScale(3.0, "max", name == "active") for name in ("masked", "spread", "active")}
    return for_cpu(fp32, ScaleTable(activations, scales))


def product(body=PRODUCT, middle=128):
    """y [2, 3] = q [2, 4] W, of the largest and smallest codes among others."""
    model = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["" : 20, "com.microsoft" : 1]>
        g (uint8[2,4] q) => (float[2,3] y) {{ {body} }}""")
    codes = np.array([[0, 255, 128], [1, 127, 129], [7, 200, 64], [255, 0, 90]], np.uint8)
    values = {"w": codes, "one": np.float32(1), "scales": np.ones(3, np.float32), "middle": np.uint8(middle)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(each), name) for name, each in values.items())
    return model


def stored(model):
    return {item.name: item for item in model.graph.initializer}


def test_outputs_are_the_same_bit_for_bit(lowered):
    before = lowered.SerializeToString()
    changed = unsigned_to_signed(lowered)
    check_model(changed)
    assert lowered.SerializeToString() == before
    for features, lengths in tiny_graphs.feeds([40, 17]):
        feeds = {"features": features, "lengths": lengths}
        expected, found = run_graph(lowered, feeds), run_graph(changed, feeds)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


def test_weights_keep_their_names_and_numbers(lowered):
    changed = unsigned_to_signed(lowered)
    assert unsigned_weights(lowered) == {"pw/weight", "head/weight"}
    for name in ("pw/weight", "head/weight"):
        codes = [numpy_helper.to_array(stored(model)[name]) for model in (lowered, changed)]
        assert codes[1].dtype == np.int8
        np.testing.assert_array_equal(codes[1], codes[0].astype(np.int16) - 128)
    assert stored(changed)["dw/weight"] == stored(lowered)["dw/weight"]  # int8 before


def test_the_extremes_of_both_signs():
    changed = unsigned_to_signed(product())
    expected = [[-128, 127, 0], [-127, -1, 1], [-121, 72, -64], [127, -128, -38]]
    np.testing.assert_array_equal(numpy_helper.to_array(stored(changed)["w"]), expected)
    assert [*changed.graph.node[0].input] == ["q", "w", "one", "scales", "middle", "middle_signed"]
    assert stored(changed)["middle_signed"].data_type == TensorProto.INT8


def test_zero_points_per_channel():
    model = product(PRODUCT.replace("middle)", "middles)"))
    model.graph.initializer.append(numpy_helper.from_array(np.full(3, 128, np.uint8), "middles"))
    changed = unsigned_to_signed(model)
    feeds = {"q": np.array([[0, 127, 3, 126], [77, 99, 127, 0]], np.uint8)}  # exact on every processor
    np.testing.assert_array_equal(run_graph(changed, feeds)["y"], run_graph(model, feeds)["y"])
    assert [*stored(changed)["middles_signed"].dims] == [3]


@pytest.mark.parametrize(
    "model",
    [
        product(middle=127),
        product("y = com.microsoft.MatMulIntegerToFloat(q, w, one, scales, middle)"),
        product(f"{PRODUCT} shape = Shape(w)"),
        product("moved = Identity(middle)" + PRODUCT.replace("middle)", "moved)")),
        product("whole = MatMulInteger(q, w, middle, middle) y = Cast<to=1>(whole)"),
    ],
    ids=["another zero point", "no zero point", "another reader", "a computed zero point", "another operator"],
)
def test_other_weights_are_left_alone(model):
    assert unsigned_to_signed(model) is model


def test_weights_in_a_file_of_their_own_are_left_alone():
    model = product()
    stored(model)["w"].data_location = TensorProto.EXTERNAL
    assert unsigned_to_signed(model) is model


def test_a_graph_without_such_weights_is_untouched(tmp_path):
    for make in (tiny_graphs.fp32, tiny_graphs.qdq):
        model = onnx.load(make(tmp_path / "model.onnx"))
        assert unsigned_to_signed(model) is model
