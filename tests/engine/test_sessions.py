from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_graphs
from onnx import TensorProto, numpy_helper

from trtasr.engine import sessions
from trtasr.engine.sessions import (
    OrtRunner,
    cpu_name,
    expose,
    folder_of,
    load_model,
    observe,
    open_session,
    ort_observer,
)
from trtasr.errors import BundleError
from trtasr.graph import edit as storing
from trtasr.values import CalibrationSet


def _batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.normal(0, 1, (3, tiny_graphs.MELS, 40)).astype(np.float32), np.array([40, 0, 17], np.int64)


def test_runner_gives_what_onnx_runtime_gives(tmp_path: Path) -> None:
    path = tiny_graphs.fp32(tmp_path / "fp32.onnx")
    features, lengths = _batch()
    log_probs, output_lengths = OrtRunner(path, threads=1)(features, lengths)
    plain = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(log_probs, plain.run(None, {"features": features, "lengths": lengths})[0], atol=1e-6)
    assert log_probs.shape == (3, 40, tiny_graphs.TOKENS)
    assert log_probs.dtype == np.float32
    np.testing.assert_array_equal(output_lengths, lengths)
    assert np.exp(log_probs).sum(axis=-1) == pytest.approx(1, abs=1e-5)


def test_expose_adds_what_is_no_output_yet(tmp_path: Path) -> None:
    session = open_session(expose(tiny_graphs.fp32(tmp_path / "fp32.onnx"), ["spread", "log_probs"]), threads=1)
    assert [output.name for output in session.get_outputs()] == ["log_probs", "output_lengths", "spread"]


def test_observe_streams_valid_frames_only(tmp_path: Path) -> None:
    path = tiny_graphs.fp32(tmp_path / "fp32.onnx")
    features, lengths = _batch()
    calibration = CalibrationSet((features, features[:1]), (lengths, lengths[:1]), "noise")
    seen = list(observe(path, ["masked", "active"], tiny_graphs.inputs(calibration), threads=1))
    assert [(name, value.shape) for name, value in seen] == [
        ("masked", (16, 40)),
        ("active", (32, 40)),
        ("masked", (16, 17)),
        ("active", (32, 17)),
        ("masked", (16, 40)),
        ("active", (32, 40)),
    ]
    np.testing.assert_array_equal(seen[2][1], features[2, :, :17])
    assert all(value.dtype == np.float32 for _, value in seen)


def test_observe_holds_one_utterance_at_a_time(tmp_path: Path) -> None:
    features, lengths = _batch()
    stream = iter(tiny_graphs.inputs(CalibrationSet((features,), (lengths,), "noise")))
    seen = observe(tiny_graphs.fp32(tmp_path / "fp32.onnx"), ["active"], stream, threads=1)
    assert next(seen)[1].shape == (32, 40)
    assert [feed["lengths"].tolist() for feed in stream] == [[17]]


def test_an_observer_gives_inner_tensors_and_outputs_by_name(tmp_path: Path) -> None:
    path = tiny_graphs.fp32(tmp_path / "fp32.onnx")
    features, lengths = _batch()
    found = ort_observer(path, ["active", "log_probs"])({"features": features, "lengths": lengths})
    assert list(found) == ["active", "log_probs"]
    assert found["active"].shape == (len(features), 32, features.shape[2])
    np.testing.assert_array_equal(found["log_probs"], OrtRunner(path)(features, lengths)[0])


@pytest.mark.parametrize("exact", [True, False])
def test_convolutions_with_a_bias_run_in_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact: bool) -> None:
    """The optimizer that is switched off for FP16 graphs is the one that FP32 Q/DQ graphs need for INT8.

    Where products of codes are not exact, none runs in INT8.
    """
    monkeypatch.setattr(sessions, "multiplies_codes_exactly", lambda: exact)
    optimized = tmp_path / "optimized.onnx"
    open_session(tiny_graphs.cpu(tmp_path / "cpu.onnx"), threads=1, optimized=optimized)
    assert (b"QLinearConv" in optimized.read_bytes()) is exact


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    """A matrix product whose weight is stored around 128, behind a sum."""
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["" : 20, "com.microsoft" : 1]>
        g (uint8[2,64] q) => (float[2,32] y) {
            product = com.microsoft.MatMulIntegerToFloat(q, w, one, one, middle, middle)
            y = Add(product, large) }""")
    weight = np.random.default_rng(0).integers(0, 256, (64, 32)).astype(np.uint8)
    values = {"w": weight, "one": np.float32(1), "middle": np.uint8(128), "large": np.ones((2, 32), np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(each), name) for name, each in values.items())
    onnx.save(model, tmp_path / "codes.onnx")
    return tmp_path / "codes.onnx"


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("read", [Path, Path.read_bytes])
def test_weights_are_signed_where_their_products_are_exact(
    codes: Path, monkeypatch: pytest.MonkeyPatch, exact: bool, read: Callable[[Path], Path | bytes]
) -> None:
    monkeypatch.setattr(sessions, "multiplies_codes_exactly", lambda: exact)
    before, optimized = codes.read_bytes(), codes.with_name("optimized.onnx")
    session = open_session(read(codes), threads=1, optimized=optimized)
    (weight,) = [item for item in load_model(optimized).graph.initializer if item.name == "w"]
    assert weight.data_type == (TensorProto.INT8 if exact else TensorProto.UINT8)
    assert codes.read_bytes() == before
    q = np.random.default_rng(1).integers(0, 128, (2, 64)).astype(np.uint8)  # two products fit 16 bits
    weights = numpy_helper.to_array(load_model(codes).graph.initializer[0]).astype(np.int32) - 128
    np.testing.assert_array_equal(session.run(None, {"q": q})[0], (q.astype(np.int32) - 128) @ weights + 1)


def test_half_graph_is_run_without_the_wrong_optimizer(tmp_path: Path) -> None:
    path = tiny_graphs.half_conv(tmp_path / "half.onnx")
    features, lengths = _batch()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    expected = plain.run(None, {"features": features, "lengths": lengths})[0]
    np.testing.assert_allclose(OrtRunner(path, threads=1)(features, lengths)[0], expected, atol=1e-3)


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A graph whose weights have a file of their own."""
    monkeypatch.setattr(storing, "LARGEST", 0)
    storing.write_model(load_model(tiny_graphs.fp32(tmp_path / "whole.onnx")), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").stat().st_size > 1000
    return tmp_path / "model.onnx"


def test_weights_in_a_file_of_their_own_are_found(outside: Path) -> None:
    features, lengths = _batch()
    whole = outside.with_name("whole.onnx")
    expected, found = (OrtRunner(path, 1)(features, lengths)[0] for path in (whole, outside))
    np.testing.assert_array_equal(found, expected)
    calibration = CalibrationSet((features,), (lengths,), "noise")
    wanted, found = (
        list(observe(path, ["active"], tiny_graphs.inputs(calibration), threads=1)) for path in (whole, outside)
    )
    assert len(found) == 2
    for (_, expected), (name, value) in zip(wanted, found, strict=True):
        assert name == "active"
        np.testing.assert_array_equal(value, expected)


def test_weights_in_a_file_of_their_own_stay_there(outside: Path) -> None:
    exposed = expose(outside, ["active"])
    assert len(exposed) < outside.with_name("whole.onnx").stat().st_size / 2
    session = open_session(exposed, 1, folder=folder_of(outside))
    assert "active" in [output.name for output in session.get_outputs()]
    assert folder_of(outside) == outside.parent
    assert folder_of(exposed) is None
    assert all(tensor.raw_data for tensor in load_model(outside).graph.initializer)
    assert not all(tensor.raw_data for tensor in load_model(outside, weights=False).graph.initializer)


def test_signed_weights_lie_beside_those_in_a_file_of_their_own(codes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "multiplies_codes_exactly", lambda: True)
    model, apart = load_model(codes), codes.with_name("apart.onnx")
    onnx.save(model, apart, save_as_external_data=True, location="apart.data", size_threshold=200)
    mixed = load_model(apart, weights=False)
    mixed.graph.initializer[0].CopyFrom(load_model(codes).graph.initializer[0])
    apart.write_bytes(mixed.SerializeToString())
    q = {"q": np.full((2, 64), 100, np.uint8)}
    expected = open_session(codes, 1).run(None, q)
    np.testing.assert_array_equal(open_session(apart, 1).run(None, q), expected)
    np.testing.assert_array_equal(ort_observer(apart, ["y"], 1)(q)["y"], expected[0])


def test_graphs_of_other_weights_are_loaded_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "multiplies_codes_exactly", lambda: True)
    given = []
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda source, *_, **__: given.append(source))
    path = tiny_graphs.fp32(tmp_path / "fp32.onnx")
    open_session(path, 1)
    assert given == [str(path)]


def test_a_spoiled_weight_names_the_model(codes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "multiplies_codes_exactly", lambda: True)
    model = load_model(codes)
    model.graph.initializer[0].raw_data = b"short"
    onnx.save(model, codes)
    with pytest.raises(BundleError, match=r"codes\.onnx"):
        open_session(codes, 1)


def test_without_its_weights_a_graph_is_refused(outside: Path) -> None:
    outside.with_name("model.onnx.data").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx"):
        load_model(outside)


@pytest.mark.parametrize("content", [None, b"no protobuf"])
def test_unreadable_model(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.onnx"):
        OrtRunner(path)


def test_cpu_has_a_name() -> None:
    assert cpu_name().strip()


def test_a_graph_that_cannot_run_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = tiny_graphs.fp32(tmp_path / "fp32.onnx").read_bytes()
    (tmp_path / "spoiled.onnx").write_bytes(content.replace(b"LogSoftmax", b"LogSoftma\xff"))
    with pytest.raises(BundleError, match=r"spoiled\.onnx: is no model"):
        open_session(tmp_path / "spoiled.onnx")
    assert capfd.readouterr().out == ""
