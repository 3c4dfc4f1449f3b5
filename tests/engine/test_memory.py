"""How much memory a graph takes at a length of audio, told from three short runs."""

import logging
import resource
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from trtasr.engine import memory
from trtasr.errors import AudioError

ROWS = 4


@pytest.fixture(scope="module")
def attention(tmp_path_factory):
    """Scores of every frame against every frame, once as they are and once as probabilities, then a sum of rows."""
    nodes = [
        helper.make_node("Transpose", ["features"], ["queries"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["queries", "features"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"]),
        helper.make_node("MatMul", ["features", "shares"], ["log_probs"]),
        helper.make_node("Identity", ["lengths"], ["output_lengths"]),
    ]
    inputs = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", ROWS, "T"]),
        helper.make_tensor_value_info("lengths", TensorProto.INT64, ["B"]),
    ]
    outputs = [
        helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, ["B", ROWS, "T"]),
        helper.make_tensor_value_info("output_lengths", TensorProto.INT64, ["B"]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "attention", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("seconds", [100, 1000, 3000])
def test_two_square_matrices_live_at_once(attention, seconds):
    demand = memory.Demand(attention, ROWS, 100.0)
    frames = 100 * seconds
    exact = 2 * 4 * frames**2
    assert demand.bytes(seconds) == pytest.approx(memory.ARENA * exact, rel=0.01)
    assert demand.seconds(demand.bytes(seconds)) == pytest.approx(seconds, abs=1.5)


def test_a_tensor_lives_until_its_last_reader():
    nodes = [(["x"], ["a"]), (["a"], ["b"]), (["b"], ["c"]), (["c", "a"], ["d"])]
    assert memory.most_alive(nodes, {"a": 1.0, "b": 10.0, "c": 5.0, "d": 2.0}) == 16.0
    assert memory.most_alive([*nodes[:3], (["c"], ["d"])], {"a": 1.0, "b": 10.0, "c": 5.0, "d": 2.0}) == 15.0


def test_much_is_named_and_too_much_is_refused(attention, monkeypatch, caplog):
    monkeypatch.setattr(memory, "available_bytes", lambda: 4 * 10**9)
    limit = memory.MemoryLimit(attention, ROWS, 100.0)
    caplog.set_level(logging.WARNING)
    limit(Path("short.wav"), 59.0)
    limit(Path("minutes.wav"), 150.0)
    limit(Path("minutes.wav"), 155.0)  # what has been read so far
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"minutes.wav: {seconds} s take about {gigabytes} GB of memory"
        for seconds, gigabytes in (("150.0", "2.2"), ("155.0", "2.4"))
    ]
    with pytest.raises(AudioError, match=r"3600.0 s would .* and 4.0 GB are free, enough for 1[89]\d s"):
        limit(Path("hour.wav"), 3600.0)


def test_a_batch_takes_as_much_for_each_utterance(attention, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 4 * 10**9)
    limit = memory.MemoryLimit(attention, ROWS, 100.0, 8)
    limit(Path("short.wav"), 50.0)
    with pytest.raises(AudioError, match=r"150.0 s in a batch of 8 would .* enough for 6\d s\n.*fewer at once"):
        limit(Path("minutes.wav"), 150.0)


def test_available_memory_is_the_least_of_machine_group_and_process(tmp_path, monkeypatch):
    """The group above the own one has the limit; half of the own limit is taken."""
    machine, own, pages, group = (tmp_path / name for name in ("meminfo", "own", "pages", "groups"))
    (group / "a" / "b").mkdir(parents=True)
    limit, usage = group / "a" / "memory.max", group / "a" / "memory.current"
    own.write_text("0::/a/b\n")
    pages.write_text(f"{2**20 // resource.getpagesize()} 0 0 0 0 0 0\n")
    machine.write_text("MemTotal: 900 kB\nMemAvailable:     600 kB\n")
    usage.write_text("100000\n")
    monkeypatch.setattr(memory, "MEMINFO", machine)
    monkeypatch.setattr(memory, "OWN_CGROUPS", own)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "OWN_PAGES", pages)
    for text, expected in (("300000", 200_000), ("max", 614_400), ("9223372036854771712", 614_400), ("50", 0)):
        limit.write_text(text + "\n")
        assert memory.available_bytes() == expected
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**20 + 1000, 2**21))
    limit.write_text("max\n")
    assert memory.available_bytes() == 1000
    own.write_text("4:memory:/a\n")
    (group / "memory" / "a").mkdir(parents=True)
    (group / "memory" / "a" / "memory.limit_in_bytes").write_text("900")
    (group / "memory" / "a" / "memory.usage_in_bytes").write_text("200")
    assert memory.available_bytes() == 700


def test_a_system_that_tells_nothing_limits_nothing(tmp_path, monkeypatch):
    for name in ("MEMINFO", "OWN_CGROUPS", "CGROUPS", "OWN_PAGES"):
        monkeypatch.setattr(memory, name, tmp_path / "none")
    assert memory.available_bytes() > 2**40


def test_sizes_are_those_of_the_tensors(attention):
    observe = memory.ort_observer(attention, ["scores", "log_probs"])
    assert memory.sizes_at(observe, ROWS, 50) == [4 * 50 * 50, 4 * ROWS * 50]
