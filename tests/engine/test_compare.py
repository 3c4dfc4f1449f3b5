import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_graphs
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from polygraphy.comparator import RunResults
from polygraphy.tools import main as polygraphy_main

from trtasr.engine.compare import (
    RESULTS_FILE,
    Files,
    compare,
    compare_tensor,
    layer_sqnr,
    ort_observer,
    polygraphy_command,
    shared_tensors,
    sqnr_db,
)
from trtasr.errors import QualityError, UsageError

FEEDS = tiny_graphs.feeds([60, 31])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundle")
    return tiny_graphs.fp32(folder / "model.fp32.onnx"), tiny_graphs.qdq(folder / "model.qdq.onnx")


def test_comparison(pair: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    folder = pair[0].parent
    result = compare(*pair, FEEDS, folder, ("fp32", "int8"), "synthetic")
    assert capfd.readouterr().out == ""
    assert (result.reference, result.candidate, result.features) == ("fp32", "int8", "synthetic")
    assert result.frames == 91
    (log_probs,) = result.tensors
    assert log_probs.tensor == "log_probs"
    assert 20 < log_probs.sqnr_db < 80
    assert 0.99 < log_probs.cosine < 1
    assert log_probs.max_abs > 0
    assert 0.9 < result.token_agreement <= 1
    assert (folder / result.results_file).stat().st_size < 100_000


def test_polygraphy_loads_the_results(pair: tuple[Path, Path]) -> None:
    compare(*pair, FEEDS, pair[0].parent, ("fp32", "int8"))
    results = RunResults.load(str(pair[0].parent / RESULTS_FILE))
    assert list(results.keys()) == ["fp32", "int8"]
    assert [iteration["log_probs"].shape for iteration in results["int8"]] == [(1, 60, 8), (1, 31, 8)]


def test_the_printed_command_runs_and_its_verdict_means_something(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pair[0].parent
    monkeypatch.chdir(folder)
    result = compare(*pair, FEEDS, folder)
    assert str(folder) not in result.command
    assert _shell(result.command) == 0

    bad = _coarse(pair[1], folder / "model.bad.onnx")
    assert compare(pair[0], bad, FEEDS, folder).tensors[0].sqnr_db < 20
    assert _shell(result.command.partition(" && ")[2].replace(pair[1].name, bad.name)) == 1


def _coarse(path: Path, out: Path) -> Path:
    """The model with an activation scale that is a hundred times too large."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "spread_scale":
            tensor.CopyFrom(numpy_helper.from_array(np.array(100 * tiny_graphs.SCALE, np.float32), tensor.name))
    onnx.save(model, out)
    return out


def _shell(command: str) -> int:
    """Runs the printed commands through Polygraphy's own command line, in this process: starting it takes seconds."""
    for part in command.split(" && "):
        program, *options = shlex.split(part)
        assert program == "polygraphy"
        status = polygraphy_main(options)
        if status != 0:
            return int(status)
    return 0


def test_half_graphs_are_replayed_without_the_wrong_optimizer(pair: tuple[Path, Path], tmp_path: Path) -> None:
    half = tiny_graphs.half_conv(tmp_path / "half.onnx")
    command = polygraphy_command(pair[0], half, Files(tmp_path))
    assert command.count("ORT_DISABLE_ALL") == 1
    assert " run half.onnx " in command


def test_padding_is_not_compared(pair: tuple[Path, Path]) -> None:
    features = np.concatenate([FEEDS[1][0], np.full((1, tiny_graphs.MELS, 20), 9, np.float32)], axis=2)
    padded = compare(*pair, [(features, FEEDS[1][1])], pair[0].parent)
    plain = compare(*pair, [FEEDS[1]], pair[0].parent)
    assert padded.frames == plain.frames == 31
    assert padded.tensors == plain.tensors


def test_nan_fails(pair: tuple[Path, Path]) -> None:
    poisoned = FEEDS[0][0].copy()
    poisoned[0, 0, 5] = np.nan
    with pytest.raises(QualityError, match="NaN"):
        compare(*pair, [(poisoned, FEEDS[0][1])], pair[0].parent)


def test_nothing_to_compare(pair: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="nothing to compare"):
        compare(*pair, [(FEEDS[0][0], np.array([0], np.int64))], pair[0].parent)


def test_layer_sqnr_covers_the_shared_tensors(pair: tuple[Path, Path]) -> None:
    names = shared_tensors(pair, ["spread", "active", "quantized", "nowhere"])
    result = layer_sqnr(*(ort_observer(path, names) for path in pair), names, FEEDS)
    assert list(result) == ["spread", "active"]
    assert result["spread"] == np.inf
    assert 20 < result["active"] < 80


@given(st.floats(1e-3, 1e3), st.floats(1e-6, 1))
def test_sqnr_of_a_scaled_copy(size: float, error: float) -> None:
    reference = np.linspace(-size, size, 12).reshape(3, 4)
    result = compare_tensor("x", reference, reference * (1 + error))
    assert result.sqnr_db == pytest.approx(-20 * np.log10(error), abs=1e-3)
    assert result.cosine == pytest.approx(1)
    assert result.max_abs == pytest.approx(size * error)


def test_sqnr_limits() -> None:
    assert sqnr_db(1.0, 0.0) == np.inf
    assert sqnr_db(0.0, 1.0) == -np.inf
