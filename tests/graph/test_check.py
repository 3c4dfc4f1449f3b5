import numpy as np
import onnx
import pytest

from trtasr.errors import QualityError
from trtasr.graph.check import assert_parity, check_model, max_difference, run_graph


def test_run_graph_takes_a_model_or_a_file_and_selects_outputs(fp32, feeds, tmp_path):
    onnx.save(fp32, tmp_path / "model.onnx")
    from_model = run_graph(fp32, feeds, ["output_lengths"])
    assert list(from_model) == ["output_lengths"]
    assert from_model["output_lengths"].tolist() == [31, 20, 4]
    assert max_difference(run_graph(fp32, feeds), run_graph(tmp_path / "model.onnx", feeds))["log_probs"] == 0


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
