import dataclasses

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from quantized import for_cpu
from tiny_network import sqnr_db, table_of, valid

from trtasr.errors import RecipeError, UsageError
from trtasr.graph.check import check_model, run_graph
from trtasr.values import ScaleTable, TensorScale, WeightScale


@pytest.fixture(scope="module")
def lowered(fp32, table):
    return for_cpu(fp32, table)


def ops(model, *names):
    return [node for node in model.graph.node if node.op_type in names]


def test_lowered_graph_stays_close_and_the_input_is_not_mutated(fp32, table, feeds):
    before = fp32.SerializeToString()
    result = for_cpu(fp32, table)
    check_model(result)
    assert fp32.SerializeToString() == before
    reference, found = run_graph(fp32, feeds), run_graph(result, feeds)
    assert sqnr_db(reference, found) > 25
    assert found["output_lengths"].tolist() == reference["output_lengths"].tolist()


def test_every_convolution_is_an_integer_operator_under_its_own_name(fp32, lowered):
    convolutions = {node.name for node in ops(fp32, "Conv")}
    assert {node.name for node in ops(lowered, "QLinearConv", "MatMulIntegerToFloat")} == convolutions
    assert not ops(lowered, "Conv", "Mul", "Relu", "DequantizeLinear")[1:]  # the Relu after the residual at most


def test_batch_of_mixed_lengths_equals_one_by_one_bit_for_bit(lowered, feeds):
    together = run_graph(lowered, feeds)
    for item, length in enumerate(feeds["lengths"]):
        alone = run_graph(
            lowered,
            {"features": feeds["features"][item : item + 1, :, :length], "lengths": feeds["lengths"][item : item + 1]},
        )
        assert np.array_equal(valid(together, item), valid(alone, 0))


def test_values_in_padded_frames_never_reach_valid_frames(lowered, feeds):
    padded = np.arange(61) >= feeds["lengths"][:, None, None]
    noisy = {**feeds, "features": np.where(padded, np.float32(100), feeds["features"])}
    clean, dirty = run_graph(lowered, feeds), run_graph(lowered, noisy)
    assert all(np.array_equal(valid(clean, item), valid(dirty, item)) for item in range(3))


def test_scales_are_the_tables_and_codes_are_unsigned_where_non_negative(table, lowered):
    found = {item.name: numpy_helper.to_array(item) for item in lowered.graph.initializer}
    relu = next(node for node in ops(lowered, "QLinearConv") if node.name == "/mconv.1/conv/Conv")
    entry = table.activations["/mconv.4/Mul_output_0"]
    assert entry.non_negative
    assert (found[relu.input[6]].tobytes(), int(found[relu.input[7]])) == (entry.unsigned_scale.tobytes(), 0)
    signed = next(node for node in ops(lowered, "QLinearConv") if node.name == "/mconv.0/conv/Conv")
    entry = table.activations["/mconv.1/Mul_output_0"]
    assert not entry.non_negative
    assert (found[signed.input[6]].tobytes(), int(found[signed.input[7]])) == (entry.scale.tobytes(), 128)


def test_relu_stays_where_the_table_does_not_say_non_negative(fp32, table, feeds):
    signed = {name: dataclasses.replace(entry, non_negative=False) for name, entry in table.activations.items()}
    model = for_cpu(fp32, ScaleTable(signed, table.weights))
    assert len(ops(model, "Relu")) == 4
    assert sqnr_db(run_graph(fp32, feeds), run_graph(model, feeds)) > 20


def test_excluded_nodes_stay_float(fp32, table, feeds):
    result = for_cpu(fp32, table, exclude=["/dense.0/*", "/mconv.4/*"])
    check_model(result)
    assert {node.name for node in ops(result, "Conv")} == {"/dense.0/conv/Conv", "/mconv.4/conv/Conv"}
    assert sqnr_db(run_graph(fp32, feeds), run_graph(result, feeds)) > 25
    with pytest.raises(RecipeError, match="nowhere"):
        for_cpu(fp32, table, exclude=["/nowhere/*"])


def test_bias_of_a_dead_channel_survives(fp32, table, feeds):
    """All weights zero, scale at a tiny floor, a bias of ordinary size: int32 must not overflow."""
    model = onnx.ModelProto.FromString(fp32.SerializeToString())
    reader = next(node for node in model.graph.node if node.name == "/mconv.1/conv/Conv")
    weight = next(item for item in model.graph.initializer if item.name == reader.input[1])
    values = numpy_helper.to_array(weight).copy()
    values[0] = 0
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    scales = table.weights[weight.name].scales.copy()
    scales[0] = 1e-12
    weights = {**table.weights, weight.name: WeightScale(scales, 0)}
    lowered = for_cpu(model, ScaleTable(table.activations, weights))
    assert sqnr_db(run_graph(model, feeds), run_graph(lowered, feeds)) > 25


def test_missing_and_broken_scales_are_refused(fp32, table):
    fewer = dict(table.activations)
    del fewer["/mconv.4/Mul_output_0"]
    with pytest.raises(UsageError, match=r"/mconv\.4/Mul_output_0"):
        for_cpu(fp32, ScaleTable(fewer, table.weights))
    broken = {**table.activations, "/mconv.4/Mul_output_0": TensorScale(float("nan"), "max")}
    with pytest.raises(UsageError, match="not positive and finite"):
        for_cpu(fp32, ScaleTable(broken, table.weights))


def test_other_operators_run_in_float_between_integer_convolutions():
    """Sigmoid has no integer form: codes -> float -> Sigmoid -> codes."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        g (float[B,4,T] x) => (float[B,4,T] y) {
            a = Conv<kernel_shape=[3], pads=[1,1]>(x, w)
            s = Sigmoid(a)
            y = Conv<kernel_shape=[3], pads=[1,1]>(s, w) }""")
    for index, node in enumerate(model.graph.node):
        node.name = f"node{index}"
    weight = np.random.default_rng(0).normal(size=(4, 4, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    scales = (np.abs(weight).max((1, 2)) / 127).astype(np.float32)
    table = ScaleTable(
        {
            "x": TensorScale(4, "max"),
            "a": TensorScale(20, "max"),
            "s": TensorScale(1, "max", True),
            "y": TensorScale(12, "max"),
        },
        {"w": WeightScale(scales, 0)},
    )
    x = {"x": np.random.default_rng(1).normal(size=(2, 4, 30)).astype(np.float32)}
    lowered = for_cpu(model, table)
    check_model(lowered)
    assert np.abs(run_graph(model, x)["y"] - run_graph(lowered, x)["y"]).max() < 0.3


MIXED = {
    "codes turned for another convolution": """a = Conv<kernel_shape=[3], pads=[1,1]>(x, w)
        t = Transpose<perm=[0,2,1]>(a)
        y = Conv<kernel_shape=[3], pads=[1,1]>(t, v)""",
    "codes turned for a convolution and a linear layer": """a = Conv<kernel_shape=[3], pads=[1,1]>(x, w)
        t = Transpose<perm=[0,2,1]>(a)
        c = Conv<kernel_shape=[3], pads=[1,1]>(t, v)
        l = MatMul(t, m)
        y = Add(c, l)""",
    "a tensor read by a convolution, then by a linear layer": """c = Conv<kernel_shape=[3], pads=[1,1]>(x, w)
        l = MatMul(x, m)
        y = Add(c, l)""",
    "a tensor read by a linear layer, then by a convolution": """l = MatMul(x, m)
        c = Conv<kernel_shape=[3], pads=[1,1]>(x, w)
        y = Add(c, l)""",
    "a bias that is one number": """p = MatMul(x, m)
        y = Add(p, one)""",
    "a product that two nodes read": """p = MatMul(x, m)
        a = Add(p, b)
        y = Add(a, p)""",
}


@pytest.mark.parametrize("name", MIXED)
def test_convolutions_and_linear_layers_may_meet(name):
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[B,6,6] x) => (float[B,6,6] y) {{ {MIXED[name]} }}""")
    for index, node in enumerate(model.graph.node):
        node.name = f"node{index}"
    draw = np.random.default_rng(0)
    values = {
        "w": draw.normal(size=(6, 6, 3)),
        "v": draw.normal(size=(6, 6, 3)),
        "m": draw.normal(size=(6, 6)),
        "b": draw.normal(size=6),
        "one": draw.normal(size=1),
    }
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32), key) for key, value in values.items() if key in used
    )
    x = {"x": draw.normal(size=(3, 6, 6)).astype(np.float32)}
    lowered = for_cpu(model, table_of(model, x))
    check_model(lowered)
    expected, found = run_graph(model, x)["y"], run_graph(lowered, x)["y"]
    assert np.square(expected - found).sum() < 1e-3 * np.square(expected).sum()  # 30 dB
