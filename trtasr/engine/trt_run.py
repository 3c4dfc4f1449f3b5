"""An acoustic model as a TensorRT plan on the GPU: buffers that stay, shapes in buckets, a CUDA graph for each.

A captured inference is one launch instead of hundreds, which is what a small batch on a fast GPU waits for. A graph is
of one shape, and speech has any length. So frames are padded to a bucket (`trtasr.engine.profile.bucketed`): `lengths`
says which are valid, and the network's masks keep the others away from these. Few shapes remain, each comes again, and
the graphs of those that were run last are kept.

A plan without masks (`trtasr.graph.masks.without_masks`) saves their kernels, but takes no padding: one has no masks or
few shapes. Where there is such a plan, one utterance alone runs in it, at its own length, which gets a graph only where
that very length comes again; everything else is padded and runs in the plan with masks. Which plan runs depends on the
batch alone, never on what ran before.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trtasr.engine.bindings import Context, Trt
from trtasr.engine.build_tensorrt import load_tensorrt
from trtasr.engine.cuda_graph import CudaGraph, Lately
from trtasr.engine.device import Arena, Shape, primary_context
from trtasr.engine.plan import COMPILE, Plan
from trtasr.engine.profile import bucketed
from trtasr.engine.sessions import Observe
from trtasr.errors import BuildError
from trtasr.values import Array, FloatArray, IntArray

log = logging.getLogger(__name__)

MOST_GRAPHS = 32  # kept: as many as 20 s at batch 1 have buckets
REMEMBERED = 256  # shapes: one that comes again gets a graph
FEATURES, LENGTHS, ACTIVATIONS = "features", "lengths", "activations"
BYTES = np.dtype(np.uint8)


@contextmanager
def open_plan(plan: Path, unmasked: Path | None = None, *, graphs: bool = True) -> Iterator["TrtRunner"]:
    """A plan ready to run on this machine's GPU, inside the block; arguments as those of `TrtRunner`.

    Raises:
        MissingError: no TensorRT, pycuda, driver or GPU. BuildError: a plan cannot be loaded here, or the two do not
            fit each other.
    """
    trt = load_tensorrt()
    with primary_context() as cuda:
        runner = TrtRunner([path for path in (plan, unmasked) if path is not None], trt, cuda, graphs)
        try:
            yield runner
        finally:
            runner.close()


@contextmanager
def plan_observer(plan: Path) -> Iterator[Observe]:
    """Outputs of a plan run on the GPU, inside the block; every shape runs as it is.

    Raises:
        MissingError: no GPU, TensorRT or pycuda. BuildError: the plan cannot be loaded here.
    """
    with open_plan(plan, graphs=False) as runner:

        def observed(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            runner(inputs[FEATURES], inputs[LENGTHS])
            return runner.outputs()

        yield observed


class Key(NamedTuple):
    """What one CUDA graph is of.

    Attributes:
        plan: its number among the runner's.
        shape: of the features as they are run.
    """

    plan: int
    shape: Shape


@dataclass
class Bound:
    """A plan at one shape, with a place for every tensor.

    Attributes:
        key: plan and shape.
        plan: to which the context belongs.
        context: that has the shape.
        places: tensor -> address on the GPU.
        host: tensor -> page-locked array of its shape.
        own: whether the context is of this shape for good, so that it can be captured.
        graph: None: launched layer by layer.
    """

    key: Key
    plan: Plan
    context: Context
    places: Mapping[str, int]
    host: Mapping[str, Array]
    own: bool = False
    graph: CudaGraph | None = None

    def fill(self, features: FloatArray, lengths: IntArray) -> None:
        """Take the inputs; frames behind them are zero, as those of shorter utterances of a batch are."""
        padded, frames = self.host[FEATURES], features.shape[2]
        np.copyto(padded[:, :, :frames], features, casting="same_kind")
        padded[:, :, frames:] = 0
        np.copyto(self.host[LENGTHS], lengths, casting="same_kind")

    def close(self) -> None:
        """Free the graph; its context, which must not go before, goes with this."""
        if self.graph is not None:
            self.graph.close()
        self.graph = None


class TrtRunner:
    """An acoustic model run by TensorRT on the current CUDA context.

    A shape that comes again is captured as a CUDA graph behind its second run, and launched as a whole from then on;
    where TensorRT cannot be captured (it synchronizes inside), plain launches go on and the log says so once.

    Args:
        plans: engine file with inputs ``features`` and ``lengths``, whose first two outputs are the log-probabilities
            and their lengths; behind it one of the same network without masks, or none.
        trt: the tensorrt module.
        cuda: pycuda's driver module, with a context pushed.
        graphs: False never captures, and runs every shape as it is, unpadded.

    Attributes:
        device_ms: of the last run, the time of its copies and of the engine on the GPU, by CUDA events.

    Raises:
        BuildError: a plan cannot be loaded here, or the two do not fit each other.
    """

    def __init__(self, plans: Sequence[Path], trt: Trt, cuda: Any, graphs: bool = True) -> None:
        self._trt, self._cuda, self._padded = trt, cuda, graphs
        self._wanted = self._capturable = graphs
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._plans = [Plan(path, trt, self._runtime) for path in plans]
        check_alike(self._plans)
        self._arena = Arena(cuda)
        self._graphs: Lately[Bound] = Lately(MOST_GRAPHS, REMEMBERED)
        self._loose: Bound | None = None  # in a context that is shared by all shapes
        self._last: Bound | None = None
        self._moved = 0  # places, when what is bound was last known to be where it was
        self._stream = cuda.Stream()
        self._events = cuda.Event(), cuda.Event()
        self.device_ms = float("nan")

    def __call__(self, features: FloatArray, lengths: IntArray) -> tuple[FloatArray, IntArray]:
        """Features float32 [B, mel, T], lengths int64 [B] -> log-probabilities [B, T', V + 1], lengths [B].

        T' is the largest of these lengths.

        Raises:
            BuildError: a shape outside the plan's optimization profile, or a failed launch.
        """
        bound = self._last = self._bound(self._key(features, lengths))
        bound.fill(features, lengths)
        start, stop = self._events
        start.record(self._stream)
        if bound.graph is not None and self._wanted:
            bound.graph.launch()
        else:
            self._enqueue(bound)
        stop.record(self._stream)
        self._stream.synchronize()
        self.device_ms = start.time_till(stop)
        log_probs, counts = [bound.host[name] for name in bound.plan.outputs][:2]
        found = log_probs[:, : int(counts.max())].astype(np.float32), counts.astype(np.int64)
        if bound.own and bound.graph is None:
            self._capture(bound)
        return found

    @property
    def captured(self) -> bool:
        """True while the next run of the last shape will be one launch of a CUDA graph."""
        return self._wanted and self._last is not None and self._last.graph is not None

    def use_graphs(self, wanted: bool) -> None:
        """Launch layer by layer from now on, or by CUDA graphs again; the graphs are kept, and shapes stay padded."""
        self._wanted = wanted

    def outputs(self) -> dict[str, np.ndarray[Any, Any]]:
        """Every output of the last run by name, in the plan's order, types and shapes, padding included."""
        assert self._last is not None, "nothing has been run"
        return {name: self._last.host[name].copy() for name in self._last.plan.outputs}

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
        assert self._last is not None
        self._last.context.profiler = profiler
        for _ in range(runs):
            self(features, lengths)
        return times

    def close(self) -> None:
        """Free the GPU memory; the runner cannot be used any more."""
        self._forget()
        self._last = None
        self._arena.close()
        for plan in self._plans:
            plan.close()
        del self._plans, self._runtime  # TensorRT wants them gone in this order

    def _key(self, features: FloatArray, lengths: IntArray) -> Key:
        """Which plan runs a batch, and at which shape."""
        batch, rows, frames = features.shape
        masked, *unmasked = self._plans
        if unmasked and batch == 1 and int(lengths[0]) == frames and unmasked[0].takes(features.shape):
            return Key(1, features.shape)
        most = masked.limits[FEATURES][1][2]
        return Key(0, (batch, rows, bucketed(frames, most) if self._padded else frames))

    def _bound(self, key: Key) -> Bound:
        """The plan at a shape: with its graph, with a context to capture from, or in the context of all shapes."""
        self._settle()
        kept = self._graphs.get(key)
        if kept is not None:
            return kept
        plan = self._plans[key.plan]
        if self._wanted and self._capturable and plan.takes(key.shape) and self._graphs.again(key):
            own = self._own(key)
            if own is not None:
                return own
        if self._loose is None or self._loose.key != key:
            self._loose = None  # should it fail, no shape is set
            plan.choose(key.shape, self._stream.handle)
            self._loose = self._bind(key, plan.context)
        return self._loose

    def _own(self, key: Key) -> Bound | None:
        """The plan at a shape, in a context of its own; None where TensorRT or the GPU's memory has none."""
        plan, stream = self._plans[key.plan], self._stream.handle
        try:
            context = plan.own_context(key.shape, stream, lambda size: self._arena.reserve(ACTIVATIONS, (size,), BYTES))
            if context is not None:
                return replace(self._bind(key, context), own=True)
        except BuildError as error:
            self._give_up(error.problem)
        else:
            self._give_up("TensorRT gives no execution context for one")
        return None

    def _bind(self, key: Key, context: Context) -> Bound:
        """Give a context its shape, and every tensor a place."""
        plan = self._plans[key.plan]
        plan.context = context
        for name in plan.inputs:
            plan.set_shape(name, key.shape[: 1 if name == LENGTHS else None])
        types = {**plan.inputs, **plan.outputs}
        shapes = {name: plan.shape(name) for name in types}
        places = {name: self._arena.reserve(name, shapes[name], dtype) for name, dtype in types.items()}
        host = {name: self._arena.host(name, shapes[name], dtype) for name, dtype in types.items()}
        self._settle()
        plan.bind(places)
        return Bound(key, plan, context, places, host)

    def _capture(self, bound: Bound) -> None:
        """Keep a CUDA graph of the run that was just made; TensorRT wants one between a new shape and a capture."""
        try:
            bound.graph = CudaGraph(lambda: self._enqueue(bound), self._stream.handle)
        except (RuntimeError, BuildError, self._cuda.Error) as error:
            self._give_up(str(error))
        else:
            self._graphs.put(bound.key, bound)

    def _give_up(self, reason: str) -> None:
        log.warning("no CUDA graph (%s): plain launches", reason)
        self._capturable = False

    def _enqueue(self, bound: Bound) -> None:
        for name in bound.plan.inputs:
            self._cuda.memcpy_htod_async(bound.places[name], bound.host[name], self._stream)
        bound.plan.context = bound.context
        bound.plan.enqueue(self._stream.handle)
        for name in bound.plan.outputs:
            self._cuda.memcpy_dtoh_async(bound.host[name], bound.places[name], self._stream)

    def _settle(self) -> None:
        """Forget graphs and shapes that still have a place which has moved since."""
        if self._arena.moved != self._moved:
            self._moved = self._arena.moved
            self._forget()

    def _forget(self) -> None:
        """Free all graphs, and take no shape for bound."""
        self._graphs.clear()
        self._loose = None


def check_alike(plans: Sequence[Plan]) -> None:
    """Refuse plans that do not read and give the same: they share their tensors' places.

    Raises:
        BuildError: naming the plan that is unlike the first.
    """
    for plan in plans[1:]:
        if (plan.inputs, plan.outputs) != (plans[0].inputs, plans[0].outputs):
            raise BuildError(f"{plan.path}: other inputs or outputs than {plans[0].path.name}", COMPILE)
