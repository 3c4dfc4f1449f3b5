"""CUDA graphs over a recorded driver library: call order, what happens when a call fails, and which graphs are kept."""

import ctypes

import pytest

from trtasr.engine import device
from trtasr.engine.cuda_graph import CudaGraph, Lately
from trtasr.errors import MissingError


class Driver:
    """Records the calls; the named ones fail with error 900 (capture not permitted)."""

    def __init__(self, failing=()):
        self.calls, self.failing = [], failing

    def __getattr__(self, name):
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments):
            self.calls.append(name)
            if name in ("cuStreamEndCapture", "cuGraphInstantiateWithFlags"):
                out = arguments[1] if name == "cuStreamEndCapture" else arguments[0]
                ctypes.cast(out, ctypes.POINTER(ctypes.c_void_p))[0] = 7
            return 900 if name in self.failing else 0

        return call


def test_capture_then_launch_then_free():
    driver = Driver()
    graph = CudaGraph(lambda: driver.calls.append("work"), 5, driver)
    assert driver.calls == ["cuStreamBeginCapture_v2", "work", "cuStreamEndCapture", "cuGraphInstantiateWithFlags"]
    graph.launch()
    graph.launch()
    graph.close()
    graph.close()  # twice is harmless
    assert driver.calls[4:] == ["cuGraphLaunch", "cuGraphLaunch", "cuGraphExecDestroy", "cuGraphDestroy"]


def test_capture_ends_even_when_the_work_fails():
    driver = Driver()

    def work():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        CudaGraph(work, 5, driver)
    assert driver.calls[-1] == "cuStreamEndCapture"


@pytest.mark.parametrize("name", ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags"])
def test_a_refused_capture_names_the_call(name):
    with pytest.raises(RuntimeError, match=f"{name}: CUDA error 900"):
        CudaGraph(lambda: None, 5, Driver([name]))


def test_without_a_driver_the_error_says_so(monkeypatch):
    def absent(name):
        raise OSError(name)

    monkeypatch.setattr(device.ctypes, "CDLL", absent)
    with pytest.raises(MissingError, match="no NVIDIA driver"):
        CudaGraph(lambda: None, 5)


class Thing:
    """What says when it is closed."""

    def __init__(self, name, closed):
        self.name, self.closed = name, closed

    def close(self):
        self.closed.append(self.name)


def test_what_was_used_longest_ago_is_closed_first():
    kept, closed = Lately(2, 9), []
    for name in "ab":
        kept.put(name, Thing(name, closed))
    assert kept.get("a").name == "a"
    kept.put("c", Thing("c", closed))
    assert (closed, kept.get("b")) == (["b"], None)
    kept.clear()
    assert closed == ["b", "a", "c"]
    assert kept.get("a") is None


def test_a_key_is_met_again_while_few_others_are():
    kept = Lately(1, 2)
    assert [kept.again(key) for key in "abacb"] == [False, False, True, False, False]
    kept.clear()
    assert kept.again("b")
