"""The runner against a small TensorRT and CUDA made of numpy: buffers, shapes, graphs and errors.

Capture and launch go through a recorded driver library: call order, and what happens when a call fails.
"""

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

from trtasr.engine import trt_run
from trtasr.engine.trt_run import CudaGraph, TrtRunner
from trtasr.errors import BuildError, MissingError

LARGEST = 64  # frames in the fake profile


class Cuda:
    """Device memory is a dictionary of byte arrays; every copy checks sizes as the driver would."""

    class Error(Exception):
        pass

    def __init__(self):
        self.memory, self.log, self.next = {}, [], 1000

    def mem_alloc(self, size):
        self.next += 1
        pointer, memory = self.next, self.memory
        memory[pointer] = np.zeros(size, np.uint8)

        class Allocation:
            def __int__(self):
                return pointer

            def free(self):
                del memory[pointer]

        return Allocation()

    def pagelocked_empty(self, shape, dtype):
        return np.full(shape, -1, dtype)

    def memcpy_htod_async(self, device, host, stream):
        stream.do(lambda: self.memory[int(device)].__setitem__(slice(host.nbytes), host.view(np.uint8).ravel()))

    def memcpy_dtoh_async(self, host, device, stream):
        def copy():
            host.view(np.uint8).ravel()[:] = self.memory[int(device)][: host.nbytes]

        stream.do(copy)

    def Stream(self):
        return Stream()

    def Event(self):
        return SimpleNamespace(record=lambda stream: None, time_till=lambda other: 2.5)


class Stream:
    """Runs work at once, or records it while a graph is captured."""

    handle = 77
    recording = None

    def do(self, work):
        if Stream.recording is None:
            work()
        else:
            Stream.recording.append(work)

    def synchronize(self):
        pass


class Context:
    """log_probs[b, t, :] = (sum of the frame, t); lengths halved."""

    def __init__(self, cuda):
        self.cuda, self.shapes, self.addresses, self.runs = cuda, {}, {}, 0

    def set_input_shape(self, name, shape):
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name):
        batch, _, frames = self.shapes["features"]
        return {**self.shapes, "log_probs": (batch, frames, 2), "output_lengths": (batch,)}[name]

    def set_tensor_address(self, name, pointer):
        self.addresses[name] = pointer

    def array(self, name, dtype):
        shape = self.get_tensor_shape(name)
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.cuda.memory[self.addresses[name]][:count].view(dtype).reshape(shape)

    def execute_async_v3(self, handle):
        def run():
            self.runs += 1
            features = self.array("features", np.float32)
            out = self.array("log_probs", np.float32)
            out[..., 0], out[..., 1] = features.sum(axis=1), np.arange(features.shape[2])
            self.array("output_lengths", np.int64)[:] = self.array("lengths", np.int64) // 2

        Stream().do(run)
        return handle == Stream.handle


PROFILE = {"features": [(1, 4, 1), (1, 4, 10), (4, 4, LARGEST)], "lengths": [(1,), (1,), (4,)]}
NAMES = {"features": np.float32, "lengths": np.int64, "log_probs": np.float32, "output_lengths": np.int64}


def tensorrt(cuda, loads=True):
    context = Context(cuda)
    engine = SimpleNamespace(
        num_io_tensors=4,
        get_tensor_name=lambda index: list(NAMES)[index],
        get_tensor_mode=lambda name: "in" if name in ("features", "lengths") else "out",
        get_tensor_dtype=lambda name: NAMES[name],
        get_tensor_profile_shape=lambda name, index: PROFILE[name],
        num_optimization_profiles=1,
        create_execution_context=lambda: context,
    )
    logger = lambda severity: None  # noqa: E731
    logger.WARNING = 1
    return SimpleNamespace(
        __version__="10.16.1",
        Logger=logger,
        Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine if loads else None),
        TensorIOMode=SimpleNamespace(INPUT="in"),
        nptype=lambda dtype: dtype,
        context=context,
    )


class Graph:
    """Replays what was recorded."""

    def __init__(self, record, stream):
        assert stream == Stream.handle
        Stream.recording = []
        record()
        self.work, Stream.recording = Stream.recording, None

    def launch(self):
        for work in self.work:
            work()

    def close(self):
        pass


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.setattr(trt_run, "CudaGraph", Graph)
    file = tmp_path / "model.plan"
    file.write_bytes(b"plan")
    return file


def speech(frames, batch=2, seed=0):
    features = np.random.default_rng(seed).standard_normal((batch, 4, frames), np.float32)
    return features, np.arange(batch, dtype=np.int64) + frames - batch + 1


def check(runner, frames, batch=2, seed=0):
    features, lengths = speech(frames, batch, seed)
    log_probs, counts = runner(features, lengths)
    np.testing.assert_allclose(log_probs[..., 0], features.sum(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(counts, lengths // 2)


def test_every_shape_gives_its_own_result(plan):
    cuda = Cuda()
    runner = TrtRunner(plan, tensorrt(cuda), cuda)
    for seed, (frames, batch) in enumerate([(10, 2), (20, 1), (5, 3), (10, 2)]):
        check(runner, frames, batch, seed)
    assert runner.device_ms == 2.5


def test_a_repeated_shape_runs_as_a_graph_with_fresh_data(plan):
    cuda = Cuda()
    trt = tensorrt(cuda)
    runner = TrtRunner(plan, trt, cuda)
    for seed in range(4):
        check(runner, 12, seed=seed)
    assert isinstance(runner._graph, Graph)
    assert trt.context.runs == 4
    check(runner, 13)
    assert runner._graph is None


def test_results_do_not_change_when_the_next_utterance_runs(plan):
    cuda = Cuda()
    runner = TrtRunner(plan, tensorrt(cuda), cuda)
    first, _ = runner(*speech(12, seed=1))
    kept = first.copy()
    runner(*speech(12, seed=2))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("cuStreamEndCapture: CUDA error 901"),
        Cuda.Error("operation not permitted when stream is capturing"),
        BuildError("TensorRT could not launch the plan", "see the log"),
    ],
)
def test_where_capture_is_refused_plain_launches_go_on(plan, monkeypatch, error):
    def refuse(record, stream):
        raise error

    monkeypatch.setattr(trt_run, "CudaGraph", refuse)
    cuda = Cuda()
    runner = TrtRunner(plan, tensorrt(cuda), cuda)
    for seed in range(3):
        check(runner, 12, seed=seed)


def test_memory_is_reused_for_smaller_shapes_and_freed_at_the_end(plan):
    cuda = Cuda()
    runner = TrtRunner(plan, tensorrt(cuda), cuda)
    check(runner, 20)
    before = set(cuda.memory)
    check(runner, 10)
    assert set(cuda.memory) == before
    check(runner, 40)
    assert len(cuda.memory) == 4
    runner.close()
    assert not cuda.memory


def test_a_shape_outside_the_profile_is_refused_and_the_runner_goes_on(plan):
    cuda = Cuda()
    runner = TrtRunner(plan, tensorrt(cuda), cuda)
    check(runner, 10)
    with pytest.raises(BuildError, match=r"input features is .* has 1 to 64 at axis 2"):
        runner(*speech(LARGEST + 1))
    check(runner, 10)


def test_a_plan_of_another_gpu_is_refused(plan):
    cuda = Cuda()
    with pytest.raises(BuildError, match="cannot load this plan"):
        TrtRunner(plan, tensorrt(cuda, loads=False), cuda)


def test_memory_that_runs_out_is_said_and_freed_once(plan):
    cuda = Cuda()
    runner = TrtRunner(plan, tensorrt(cuda), cuda)
    check(runner, 10)

    def full(size):
        raise Cuda.Error("cuMemAlloc failed: out of memory")

    cuda.mem_alloc = full
    with pytest.raises(BuildError, match="no GPU memory for features"):
        runner(*speech(40))
    runner.close()
    assert not cuda.memory


def test_forgoing_graphs_drops_the_captured_one(plan):
    cuda = Cuda()
    runner = TrtRunner(plan, tensorrt(cuda), cuda)
    for seed in range(3):
        check(runner, 12, seed=seed)
    assert runner.captured
    runner.forgo_graphs()
    for seed in range(3):
        check(runner, 12, seed=seed)
    assert not runner.captured


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

    monkeypatch.setattr(trt_run.ctypes, "CDLL", absent)
    with pytest.raises(MissingError, match="no NVIDIA driver"):
        CudaGraph(lambda: None, 5)
