from math import prod

import numpy as np
import onnx
import pytest

from trtasr.errors import QualityError
from trtasr.graph.check import assert_parity, check_model, run_graph
from trtasr.graph.edit import LARGE, outline


def test_run_graph_takes_a_model_or_a_file_and_selects_outputs(fp32, feeds, tmp_path):
    onnx.save(fp32, tmp_path / "model.onnx")
    from_model = run_graph(fp32, feeds, ["output_lengths"])
    assert list(from_model) == ["output_lengths"]
    assert from_model["output_lengths"].tolist() == [31, 20, 4]
    assert_parity(run_graph(fp32, feeds), run_graph(tmp_path / "model.onnx", feeds), 0)


def test_parity_names_the_output_and_the_difference():
    reference = {"a": np.zeros(2), "b": np.zeros(3)}
    assert_parity(reference, {"a": np.zeros(2), "b": np.full(3, 1e-4)})
    with pytest.raises(QualityError, match=r"'b'.*0\.25"):
        assert_parity(reference, {"a": np.zeros(2), "b": np.array([0, 0.25, 0])})


@pytest.mark.parametrize("broken", [np.full(3, np.nan), np.zeros(4)])
def test_nan_and_other_shapes_are_no_parity(broken):
    with pytest.raises(QualityError):
        assert_parity({"b": np.zeros(3)}, {"b": broken}, tolerance=1e9)


def test_check_model_refuses_a_malformed_graph(fp32):
    broken = onnx.ModelProto.FromString(fp32.SerializeToString())
    broken.graph.node[0].input[0] = "nothing"
    with pytest.raises(onnx.checker.ValidationError):
        check_model(broken)


def test_check_model_reads_the_type_of_large_weights(fp32):
    broken = onnx.ModelProto.FromString(fp32.SerializeToString())
    weight = next(item for item in broken.graph.initializer if prod(item.dims) > LARGE)
    check_model(broken)
    weight.data_type = onnx.TensorProto.DOUBLE
    with pytest.raises(onnx.shape_inference.InferenceError):
        check_model(broken)


def test_an_outline_keeps_what_shapes_depend_on(fp32):
    light = outline(fp32)
    assert len(light.SerializeToString()) < len(fp32.SerializeToString())
    assert {value.name for value in fp32.graph.input} < {value.name for value in light.graph.input}
    assert all(prod(item.dims) <= LARGE for item in light.graph.initializer)

    def shapes(model):
        values = onnx.shape_inference.infer_shapes(model).graph.value_info
        return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}

    assert shapes(light) == shapes(fp32)
