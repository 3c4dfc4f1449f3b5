from pathlib import Path

import numpy as np
import pytest
import tiny_graphs

from trtasr.engine.polygraphy import Kept, keep_foreign, polygraphy_command, run_both
from trtasr.errors import MissingError, UsageError

LABELS = ("fp32", "int8")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return tiny_graphs.fp32(tmp_path / "model.fp32.onnx"), tiny_graphs.qdq(tmp_path / "model.qdq.onnx")


def test_files_are_named_after_the_part() -> None:
    first, later = Kept(Path("b")), Kept(Path("b"), "decoder")
    assert (first.inputs, first.results) == ("comparison_inputs.json", "comparison.json")
    assert (later.inputs, later.results) == ("comparison_decoder_inputs.json", "comparison_decoder.json")
    assert {first.reference, later.reference} == {"comparison_reference.json", "comparison_decoder_reference.json"}


def test_both_graphs_are_fed_the_same_and_asked_for_everything(pair: tuple[Path, Path], tmp_path: Path) -> None:
    inputs = [{"features": features, "lengths": lengths} for features, lengths in tiny_graphs.feeds([60, 31])]
    found = run_both(pair, inputs, LABELS, Kept(tmp_path))
    assert [[item["log_probs"].shape[1] for item in side] for side in found] == [[60, 31], [60, 31]]
    assert all(list(item) == ["log_probs", "output_lengths"] for side in found for item in side)
    assert not np.array_equal(found[0][1]["log_probs"], found[1][1]["log_probs"])
    assert {path.name for path in tmp_path.glob("*.json")} == {"comparison.json", "comparison_inputs.json"}


@pytest.mark.parametrize("name", ["comparison_decoder.json", "comparison_decoder_inputs.json"])
def test_what_is_no_comparison_stays(pair: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine", encoding="utf-8")
    keep_foreign(Kept(tmp_path))
    with pytest.raises(UsageError, match=name):
        run_both(pair, [], LABELS, Kept(tmp_path, "decoder"))
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


def test_without_polygraphy(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingError, match="pip install"):
        run_both(pair, [], LABELS, Kept(tmp_path))


def test_half_graphs_are_replayed_without_the_wrong_optimizer(pair: tuple[Path, Path], tmp_path: Path) -> None:
    half = tiny_graphs.half_conv(tmp_path / "half.onnx")
    command = polygraphy_command(pair[0], half, Kept(tmp_path))
    assert command.count("ORT_DISABLE_ALL") == 1
    assert " run half.onnx " in command


def test_a_plan_is_replayed_by_tensorrt_and_a_graph_elsewhere_by_its_whole_path(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second = polygraphy_command(pair[0], tmp_path / "out" / "a b.plan", Kept(tmp_path / "out")).split(" && ")
    assert f" run {pair[0]} --onnxrt " in first
    assert " run --trt 'a b.plan' --model-type engine " in second
