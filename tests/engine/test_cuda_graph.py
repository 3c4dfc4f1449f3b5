"""Capture and launch through a recorded driver library: call order, and what happens when a call fails."""

import ctypes

import pytest

from trtasr.engine import cuda_graph
from trtasr.engine.cuda_graph import CudaGraph
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

    monkeypatch.setattr(cuda_graph.ctypes, "CDLL", absent)
    with pytest.raises(MissingError, match="no NVIDIA driver"):
        CudaGraph(lambda: None, 5)
