"""Graphs in one file, and graphs whose weights lie in a file beside it."""

import numpy as np
import onnx
import pytest
from onnx import external_data_helper

from trtasr.engine.sessions import open_session
from trtasr.graph import edit
from trtasr.graph.edit import SMALL, write_model


@pytest.fixture
def large(monkeypatch):
    """The tiny graph is too large for one file."""
    monkeypatch.setattr(edit, "LARGEST", 1000)


def test_a_small_graph_is_one_file(fp32, tmp_path):
    write_model(fp32, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert onnx.load(tmp_path / "model.onnx", load_external_data=False) == fp32


@pytest.mark.parametrize("spare", [-1, 0])
def test_the_limit_is_that_of_the_weights(fp32, tmp_path, monkeypatch, spare):
    monkeypatch.setattr(edit, "LARGEST", sum(len(item.raw_data) for item in fp32.graph.initializer) + spare)
    write_model(fp32, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").exists() == (spare < 0)


def test_weights_of_a_large_graph_lie_beside_it_and_come_back(fp32, tmp_path, large):
    before = fp32.SerializeToString()
    write_model(fp32, tmp_path / "model.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert fp32.SerializeToString() == before
    bare = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    outside = {item.name for item in bare.graph.initializer if external_data_helper.uses_external_data(item)}
    assert outside == {item.name for item in fp32.graph.initializer if len(item.raw_data) >= SMALL}
    assert 0 < len(outside) < len(bare.graph.initializer)  # shapes and axes stay
    kept = {item.name: onnx.numpy_helper.to_array(item) for item in fp32.graph.initializer}
    again = onnx.load(tmp_path / "model.onnx")
    assert list(again.graph.node) == list(fp32.graph.node)
    for item in again.graph.initializer:
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(item), kept[item.name])


def test_onnx_runtime_runs_a_large_graph(fp32, feeds, tmp_path, large):
    write_model(fp32, tmp_path / "model.onnx")
    wanted = open_session(fp32.SerializeToString(), 1).run(None, feeds)
    for expected, found in zip(wanted, open_session(tmp_path / "model.onnx", 1).run(None, feeds), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_large_graph_is_replaced_whole(fp32, tmp_path, large):
    sizes = []
    for _ in range(2):
        write_model(fp32, tmp_path / "model.onnx")
        sizes.append((tmp_path / "model.onnx.data").stat().st_size)
    assert sizes[0] == sizes[1]
    for item, kept in zip(onnx.load(tmp_path / "model.onnx").graph.initializer, fp32.graph.initializer, strict=True):
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(item), onnx.numpy_helper.to_array(kept))
