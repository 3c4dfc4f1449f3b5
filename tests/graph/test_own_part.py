"""The part of a table that belongs to a graph, and a committed table that is not of the graph that is compiled."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny_archive import write_archive

from trtasr.cli import main
from trtasr.errors import RecipeError
from trtasr.graph.own_part import check_fits, own_part
from trtasr.values import ScaleTable, TensorScale, WeightScale

FAST = ["--set", "calibration.batches=1", "--set", "calibration.steps=1", "--set", "calibration.seconds=0.5"]


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fits")
    write_archive(folder / "tiny.nemo")
    (folder / "calib").mkdir()
    command = ["calibrate", str(folder / "tiny.nemo"), "--calib-dir", str(folder / "calib"), "-q", *FAST]
    assert main(command) == 0
    return folder


def lose_activation(table: dict[str, Any]) -> str:
    table["activations"].pop(name := sorted(table["activations"])[0])
    return str(name)


def lose_weight(table: dict[str, Any]) -> str:
    table["weights"].pop(name := sorted(table["weights"])[0])
    return str(name)


def turn_weight(table: dict[str, Any]) -> str:
    table["weights"][name := sorted(table["weights"])[0]]["axis"] = 7
    return str(name)


def shorten_weight(table: dict[str, Any]) -> str:
    table["weights"][name := sorted(table["weights"])[0]]["scales"].pop()
    return str(name)


def shorten_offset(table: dict[str, Any]) -> str:
    table["offsets"][name := sorted(table["offsets"])[0]].pop()
    return str(name)


def foreign_offset(table: dict[str, Any]) -> str:
    table["offsets"]["nowhere"] = [1.0]
    return "nowhere"


@pytest.mark.parametrize(
    "change", [lose_activation, lose_weight, turn_weight, shorten_weight, shorten_offset, foreign_offset]
)
def test_a_table_that_does_not_fit_is_refused(
    calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], str]
) -> None:
    table = json.loads((calibrated / "calib" / "tiny.json").read_text(encoding="utf-8"))
    name = change(table)
    (tmp_path / "tiny.json").write_text(json.dumps(table), encoding="utf-8")
    shutil.copy(calibrated / "calib" / "tiny.safetensors", tmp_path)
    command = ["compile", calibrated / "tiny.nemo", "--calib-dir", tmp_path, "-o", tmp_path / "out", "-q", *FAST]
    assert main([str(part) for part in command]) == 2
    error = capsys.readouterr().err
    assert name in error
    assert "repair: " in error
    assert not (tmp_path / "out").exists()


def test_offsets_and_corrections_may_be_of_any_graph_but_not_of_none(fp32: onnx.ModelProto, table: ScaleTable) -> None:
    conv, other = next(node for node in fp32.graph.node if node.op_type == "Conv"), onnx.ModelProto()
    own = {item.name: numpy_helper.to_array(item) for item in fp32.graph.initializer[:1]}
    corrected = replace(table, corrected=own | {f"{conv.name}.centered_bias": np.zeros(8, np.float32)})
    check_fits(corrected, [fp32, other])
    for change in ({"offsets": {"nowhere": np.zeros(8, np.float32)}}, {"corrected": {"nowhere": np.zeros(8)}}):
        with pytest.raises(RecipeError, match="nowhere"):
            check_fits(replace(table, **change), [fp32, other])


GRAPH = """<ir_version: 9, opset_import: ["" : 18]>
tiny (float[1, n, 4] x) => (float[1, n, 3] y) <float[4, 3] w = {0,0,0,0,0,0,0,0,0,0,0,0}, float[3] b = {0,0,0}>
{
    [layer] p = MatMul(x, w)
    y = Add(p, b)
}"""


def test_only_what_the_graph_has():
    scale, weight, bias = TensorScale(1.0, "max"), WeightScale(np.ones(3, np.float32), 1), np.zeros(3, np.float32)
    mine = ScaleTable({"x": scale, "p": scale}, {"w": weight}, {"layer": 0.5}, {"p": bias}, {"a": 1}, {"b": bias})
    other = {
        "activations": {"z": scale},
        "weights": {"v": weight},
        "alphas": {"elsewhere": 1.0},
        "offsets": {"q": bias},
        "corrected": {"c": bias},
    }
    both = ScaleTable(settings={"a": 1}, **{name: {**getattr(mine, name), **more} for name, more in other.items()})
    assert own_part(both, onnx.parser.parse_model(GRAPH)) == mine
