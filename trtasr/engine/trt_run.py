"""A TensorRT plan on the GPU: pinned host buffers, one stream, a CUDA graph once a shape repeats.

A captured inference is one launch instead of hundreds, which is what a small batch on a fast GPU waits for. pycuda has
no stream capture: the driver library does it.
"""

import ctypes
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trtasr.engine.bindings import Context, Engine, Trt
from trtasr.engine.build_tensorrt import load_tensorrt
from trtasr.engine.device import Arena, Shape, load_libcuda, primary_context
from trtasr.engine.profile import nearest
from trtasr.engine.sessions import Observe
from trtasr.errors import BuildError
from trtasr.values import Array, FloatArray, IntArray

log = logging.getLogger(__name__)

REBUILD = "build it on this host: plans belong to one GPU and one TensorRT version"
COMPILE = "compile the bundle again: both plans must come from one checkpoint"
BATCH = "widen engine.min_batch or engine.max_batch and build again"
SECONDS = "widen engine.min_seconds or engine.max_seconds and build again"
TOKENS = "compile the bundle again: prompt and max_length come from the checkpoint's generation_config.json"
REPAIRS = {("features", 2): SECONDS, ("cross", 2): SECONDS, ("tokens", 1): TOKENS, ("past", 2): TOKENS}
CAPTURE_MODE_THREAD_LOCAL = 1  # other threads (torch's) may go on using CUDA while this one captures


class Plan:
    """An engine with an execution context per optimization profile, whose tensors live wherever they are bound.

    Args:
        path: engine file.
        trt: the tensorrt module; runtime: its Runtime, shared by all plans.

    Attributes:
        context: its execution context, of the profile that `choose` took; at first the first one.
        inputs: name -> type; outputs: likewise.

    Raises:
        BuildError: the plan cannot be loaded here.
    """

    def __init__(self, path: Path, trt: Trt, runtime: Any) -> None:
        self.path = path
        engine: Engine | None = runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise BuildError(f"{path}: TensorRT {trt.__version__} cannot load this plan", REBUILD)
        self._engine = engine
        context: Context | None = engine.create_execution_context()
        if context is None:
            raise BuildError(f"{path}: no GPU memory for its activations", "free GPU memory or lower engine.max_batch")
        self.context = context
        self._contexts = {0: self.context}  # each keeps its profile: changing it would cost a synchronization
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        types = {name: np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))) for name in names}
        given = {name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
        self.inputs = {name: types[name] for name in names if name in given}
        self.outputs = {name: types[name] for name in names if name not in given}

    @cached_property
    def limits(self) -> dict[str, tuple[Shape, Shape]]:
        """Input -> smallest and largest shape of the plan's optimization profiles, which differ only in between."""
        shapes = {name: self._engine.get_tensor_profile_shape(name, 0) for name in self.inputs}
        return {name: (as_tuple(smallest), as_tuple(largest)) for name, (smallest, _, largest) in shapes.items()}

    @cached_property
    def tuned(self) -> list[Shape]:
        """Shape of the first input that each optimization profile is tuned for."""
        name = next(iter(self.inputs))
        profiles = range(self._engine.num_optimization_profiles)
        return [as_tuple(self._engine.get_tensor_profile_shape(name, index)[1]) for index in profiles]

    def choose(self, shape: Shape, stream: int) -> None:
        """Take the optimization profile that is tuned nearest to a shape; all inputs need their shapes anew after it.

        Args:
            shape: of the first input.
            stream: handle of the stream that the plan will be launched on.
        """
        index = nearest(self.tuned, shape)
        if index not in self._contexts:
            self._contexts[index] = self._context_of(index, stream)
        self.context = self._contexts[index]

    def set_shape(self, name: str, shape: Shape) -> None:
        """Give an input its shape for the next run.

        Raises:
            BuildError: the shape is outside the plan's optimization profile; names what widens it.
        """
        for axis, (least, size, most) in enumerate(zip(self.limits[name][0], shape, self.limits[name][1], strict=True)):
            if not least <= size <= most:
                raise BuildError(
                    f"{self.path}: input {name} is {shape}, but its optimization profile has {least} to "
                    f"{most} at axis {axis}",
                    repair(name, axis),
                )
        if not self.context.set_input_shape(name, shape):
            raise BuildError(f"{self.path}: TensorRT refuses {shape} for input {name}", "see TensorRT's log above")

    def shape(self, name: str) -> Shape:
        """Shape of a tensor, once all inputs have theirs."""
        return as_tuple(self.context.get_tensor_shape(name))

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Say where tensors lie on the GPU; no two outputs may share a place, nor an output and an input."""
        for name, address in addresses.items():
            self.context.set_tensor_address(name, address)

    def enqueue(self, stream: int) -> None:
        """Launch on a stream, given by its handle.

        Raises:
            BuildError: TensorRT refused.
        """
        if not self.context.execute_async_v3(stream):
            raise BuildError(
                f"{self.path}: TensorRT could not launch the plan", "see TensorRT's log above; build the plan again"
            )

    def close(self) -> None:
        """Free the plan's GPU memory."""
        del self.context, self._contexts, self._engine  # TensorRT wants them gone in this order

    def _context_of(self, profile: int, stream: int) -> Context:
        """A context of a further profile; where there is none, the first one, which takes the same shapes."""
        context: Context | None = self._engine.create_execution_context()
        if context is None or not context.set_optimization_profile_async(profile, stream):
            log.warning(
                "%s: no context for optimization profile %d: its shapes run under the first", self.path, profile
            )
            return self._contexts[0]
        return context


def repair(name: str, axis: int) -> str:
    """What widens the limits of an input."""
    kind = name.partition("_")[0]
    if axis == 0 and kind != "token":
        return BATCH
    return REPAIRS.get((kind, axis), COMPILE)


def as_tuple(dims: Any) -> Shape:
    """TensorRT's dimensions as numbers."""
    return tuple(dims[axis] for axis in range(len(dims)))


class CudaGraph:
    """Work recorded from one stream, to be launched as a whole.

    Args:
        record: enqueues the work on the stream; nothing runs while it does.
        stream: handle of the stream (an integer pointer).
        cuda: the driver library; None loads it.

    Raises:
        MissingError: no driver.
        RuntimeError: the work cannot be captured, for instance because it synchronizes.
    """

    def __init__(self, record: Any, stream: int, cuda: Any = None) -> None:
        self._cuda = load_libcuda() if cuda is None else cuda
        self._stream = ctypes.c_void_p(stream)
        self._graph, self._executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, CAPTURE_MODE_THREAD_LOCAL)
        try:
            record()
        finally:  # a stream left in capture mode refuses everything else
            status = self._cuda.cuStreamEndCapture(self._stream, ctypes.byref(self._graph))
        check_status("cuStreamEndCapture", status)
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._executable), self._graph, ctypes.c_ulonglong(0))

    def launch(self) -> None:
        """Enqueue the recorded work once on its stream."""
        self._call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Free the graph; it cannot be launched any more."""
        if self._executable:
            self._call("cuGraphExecDestroy", self._executable)
        if self._graph:
            self._call("cuGraphDestroy", self._graph)
        self._graph, self._executable = ctypes.c_void_p(), ctypes.c_void_p()

    def _call(self, name: str, *arguments: Any) -> None:
        check_status(name, getattr(self._cuda, name)(*arguments))


def check_status(name: str, status: int) -> None:
    """Refuse to go on where a call of CUDA's driver failed.

    Raises:
        RuntimeError: naming the call.
    """
    if status != 0:
        raise RuntimeError(f"{name}: CUDA error {status}")


@contextmanager
def open_plan(plan: Path, graphs: bool = True) -> Iterator["TrtRunner"]:
    """A plan ready to run on this machine's GPU, inside the block.

    Raises:
        MissingError: no TensorRT, pycuda, driver or GPU. BuildError: the plan cannot be loaded here.
    """
    trt = load_tensorrt()
    with primary_context() as cuda:
        runner = TrtRunner(plan, trt, cuda, graphs)
        try:
            yield runner
        finally:
            runner.close()


@contextmanager
def plan_observer(plan: Path) -> Iterator[Observe]:
    """Outputs of a plan run on the GPU, inside the block.

    Raises:
        MissingError: no GPU, TensorRT or pycuda. BuildError: the plan cannot be loaded here.
    """
    with open_plan(plan, graphs=False) as runner:

        def observed(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            runner(inputs["features"], inputs["lengths"])
            return runner.outputs()

        yield observed


class TrtRunner:
    """An acoustic model run by TensorRT on the current CUDA context.

    A plan whose shape repeats is captured as a CUDA graph at the second run and launched as a whole from then on;
    where TensorRT cannot be captured (it synchronizes inside), plain launches go on and the log says so.

    Args:
        plan: engine file with inputs ``features`` and ``lengths``; its first two outputs are the log-probabilities
            and their lengths.
        trt: the tensorrt module.
        cuda: pycuda's driver module, with a context pushed.
        graphs: False never captures.

    Raises:
        BuildError: the plan cannot be loaded here.
    """

    def __init__(self, plan: Path, trt: Trt, cuda: Any, graphs: bool = True) -> None:
        self._trt, self._cuda, self._graphs = trt, cuda, graphs
        self._graph: CudaGraph | None = None
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._plan = Plan(plan, trt, self._runtime)
        self._arena = Arena(cuda)
        self._places: dict[str, int] = {}
        self._host: dict[str, Array] = {}
        self._shape: Shape | None = None
        self._stream = cuda.Stream()
        self._events = cuda.Event(), cuda.Event()
        self.device_ms = float("nan")

    def __call__(self, features: FloatArray, lengths: IntArray) -> tuple[FloatArray, IntArray]:
        """Features float32 [B, mel, T], lengths int64 [B] -> log-probabilities [B, T', V + 1], lengths [B].

        Afterwards `device_ms` is the time of the copies and of the engine on the GPU, by CUDA events.

        Raises:
            BuildError: a shape outside the plan's optimization profile, or a failed launch.
        """
        repeated = features.shape == self._shape
        if not repeated:
            self._bind({"features": features, "lengths": lengths})
        for name, array in (("features", features), ("lengths", lengths)):
            np.copyto(self._host[name], array, casting="same_kind")
        start, stop = self._events
        start.record(self._stream)
        self._launch(repeated)
        stop.record(self._stream)
        self._stream.synchronize()
        self.device_ms = start.time_till(stop)
        log_probs, counts = list(self.outputs().values())[:2]
        return log_probs.astype(np.float32, copy=False), counts.astype(np.int64, copy=False)

    @property
    def captured(self) -> bool:
        """True while the runs of the current shape are launches of one CUDA graph."""
        return self._graph is not None

    def forgo_graphs(self) -> None:
        """Launch layer by layer from now on."""
        self._drop_graph()
        self._graphs = False

    def outputs(self) -> dict[str, np.ndarray[Any, Any]]:
        """Every output of the last run by name, in the plan's order and types."""
        return {name: self._host[name].copy() for name in self._plan.outputs}

    def layer_times(self, features: FloatArray, lengths: IntArray, runs: int) -> dict[str, list[float]]:
        """Milliseconds of every engine layer in each of `runs` runs, by TensorRT's own profiler.

        Profiled layers run one after another, so that their sum exceeds the time of an undisturbed run. For a runner
        opened with ``graphs=False``: a captured graph cannot be profiled.
        """
        times: dict[str, list[float]] = {}
        self(features, lengths)

        class Profiler(self._trt.IProfiler):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times.setdefault(layer_name, []).append(ms)

        profiler = Profiler()
        self._plan.context.profiler = profiler
        for _ in range(runs):
            self(features, lengths)
        return times

    def close(self) -> None:
        """Free the GPU memory; the runner cannot be used any more."""
        self._drop_graph()
        self._arena.close()
        self._plan.close()
        del self._plan, self._runtime  # TensorRT wants them gone in this order

    def _bind(self, arrays: Mapping[str, Any]) -> None:
        """Give every tensor a place of its current shape; the addresses stay until the next shape."""
        self._drop_graph()
        self._shape = None
        self._plan.choose(arrays["features"].shape, self._stream.handle)
        for name in self._plan.inputs:
            self._plan.set_shape(name, arrays[name].shape)
        for name, dtype in {**self._plan.inputs, **self._plan.outputs}.items():
            shape = self._plan.shape(name)
            self._places[name] = self._arena.reserve(name, shape, dtype)
            self._host[name] = self._arena.host(name, shape, dtype)
        self._plan.bind(self._places)
        self._shape = tuple(arrays["features"].shape)

    def _launch(self, repeated: bool) -> None:
        if repeated and self._graphs and self._graph is None:
            try:
                self._graph = CudaGraph(self._enqueue, self._stream.handle)
            except (RuntimeError, BuildError, self._cuda.Error) as error:
                log.warning("no CUDA graph (%s): plain launches", error)
                self._graphs = False
        if self._graph is None:
            self._enqueue()
        else:
            self._graph.launch()

    def _enqueue(self) -> None:
        for name in self._plan.inputs:
            self._cuda.memcpy_htod_async(self._places[name], self._host[name], self._stream)
        self._plan.enqueue(self._stream.handle)
        for name in self._plan.outputs:
            self._cuda.memcpy_dtoh_async(self._host[name], self._places[name], self._stream)

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._graph.close()
        self._graph = None
