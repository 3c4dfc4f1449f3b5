"""Passes in order, and the graphs that are written for whoever asks for them."""

from functools import partial

import onnx
import pytest

from trtasr.errors import UsageError
from trtasr.graph.passes import VARIABLE, check_dump, passed

GRAPH = """<ir_version: 9, opset_import: ["" : 18]>
tiny (float[n] x) => (float[n] y) { y = Abs(x) }"""


def noted(model, word):
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.doc_string += word
    return changed


def first(model):
    return noted(model, "first ")


PASSES = (first, partial(noted, word="second"))


def test_passes_run_in_order_and_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    model = onnx.parser.parse_model(GRAPH)
    assert passed(model, PASSES, "t4.model").doc_string == "first second"
    assert model.doc_string == ""
    assert list(tmp_path.iterdir()) == []


def test_the_graph_after_each_pass_is_written_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "new" / "dump"))
    passed(onnx.parser.parse_model(GRAPH), PASSES, "t4.model", "made")
    files = sorted((tmp_path / "new" / "dump").iterdir())
    assert [file.name for file in files] == [
        "t4.model.01-made.onnx",
        "t4.model.02-first.onnx",
        "t4.model.03-noted.onnx",
    ]
    assert [onnx.load(file).doc_string for file in files] == ["", "first ", "first second"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    with pytest.raises(UsageError, match="file") as error:
        passed(onnx.parser.parse_model(GRAPH), PASSES, "t4.model")
    assert VARIABLE in error.value.repair


def test_a_dump_into_the_bundle_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "out" / "dump"))
    with pytest.raises(UsageError, match="where the bundle will be"):
        check_dump(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    check_dump(tmp_path / "other")
    assert (tmp_path / "out" / "dump").is_dir()
