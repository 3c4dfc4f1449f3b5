"""Rotation in front of a layer: the same numbers as on arrays, no overflow in FP16, nothing for odd channels."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from trtasr.graph.check import run_graph
from trtasr.graph.pointwise import per_position
from trtasr.graph.rotate import rotated_layers, rotation_constants, rotation_nodes
from trtasr.quant.rotation import rotated
from trtasr.values import ScaleTable


def model_of(channels, kind=TensorProto.FLOAT):
    nodes, found = rotation_nodes("x", channels)
    ends = [helper.make_tensor_value_info(name, kind, [None, None, channels]) for name in ("x", found)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    for item in rotation_constants():
        values = onnx.numpy_helper.to_array(item).astype(np.float16 if kind == TensorProto.FLOAT16 else np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(values, item.name))
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize("channels", [4, 12, 512, 6, 2])
def test_the_nodes_compute_the_rotation(channels):
    x = np.random.default_rng(0).normal(size=(2, 5, channels)).astype(np.float32)
    [found] = run_graph(model_of(channels), {"x": x}).values()
    np.testing.assert_allclose(found, rotated(x, 2), atol=1e-6)


def test_an_odd_number_of_channels_is_left_as_it_is():
    assert rotation_nodes("x", 29) == ([], "x")


def test_a_sum_of_four_large_halves_does_not_overflow():
    """FP16 ends at 65504: R x of four equal numbers is twice as large, their sum four times."""
    x = np.full((1, 1, 4), 30000, np.float16)
    [found] = run_graph(model_of(4, TensorProto.FLOAT16), {"x": x}).values()
    np.testing.assert_array_equal(found[0, 0], [60000, 0, 0, 0])


def test_of_linear_layers_those_behind_activation_functions_are_rotated(conformer):
    model = conformer.fp32
    chosen = rotated_layers(model, conformer.table, {node.name for node in model.graph.node})
    convolutions = {node.name for node in model.graph.node if node.op_type == "Conv"} & per_position(model)
    second = {node.name for node in model.graph.node if node.name.endswith("/linear2/MatMul")}
    assert len(second) > 1
    assert chosen == convolutions | second


def test_layers_with_corrected_weights_of_their_own_are_not_rotated(fp32, table):
    names = {node.name for node in fp32.graph.node if node.op_type in ("Conv", "MatMul")}
    assert rotated_layers(fp32, table, names) == per_position(fp32) & names  # all of them are convolutions
    weight = next(iter(table.weights))
    one = np.ones(3, np.float32)
    assert rotated_layers(fp32, ScaleTable({}, {}, corrected={"bias": one}), names) == per_position(fp32) & names
    assert rotated_layers(fp32, ScaleTable({}, {}, corrected={weight: one[None]}), names) == set()
