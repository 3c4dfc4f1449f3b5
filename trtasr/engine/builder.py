"""The builder's steps, the same for TensorRT and TensorRT for RTX: parse, configure, build, and show how far it is."""

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trtasr.engine.bindings import Builder, BuilderConfig, Logger, Network, OptimizationProfile, TimingCache, Trt
from trtasr.engine.parsed import ParsedLayer, parsed_layers
from trtasr.errors import MissingError

MIB = 1 << 20
NO_BUILDER = (
    "check the GPU with `nvidia-smi` and what is installed with `trtasr doctor`; the driver must not be older than the "
    "CUDA that the library was built for"
)
Customize = Callable[[Network, BuilderConfig, OptimizationProfile], None]


@dataclass(frozen=True)
class NetworkRequest:
    """What to build.

    Attributes:
        onnx: graph.
        shapes: input name -> [min, opt, max] shape.
        busy: the same of a second optimization profile, with other opt shapes; empty: there is none.
        strongly_typed: the graph's own types decide (explicit quantization); False leaves them to the builder, for
            calibrators.
        timing_cache: bytes of an earlier build; None: the library's own, which is thrown away.
        workspace_mb: limit of the builder's scratch memory in MiB; 0: all of the GPU's.
    """

    onnx: Path
    shapes: Mapping[str, list[list[int]]]
    busy: Mapping[str, list[list[int]]] = field(default_factory=dict)
    strongly_typed: bool = True
    timing_cache: bytes | None = None
    workspace_mb: int = 0


@dataclass(frozen=True)
class Built:
    """The outcome of one build.

    Attributes:
        plan: serialized engine; None when the parser or the builder refused, with the reasons in the log.
        timing_cache: for the next build; empty when none was asked for.
        parsed: layers of the network that the builder refused; empty where there is a plan.
    """

    plan: bytes | None = None
    timing_cache: bytes = b""
    parsed: tuple[ParsedLayer, ...] = ()


def build_network(trt: Trt, logger: Logger, request: NetworkRequest, customize: Customize) -> Built:
    """Builds one engine.

    Args:
        trt: the module tensorrt or tensorrt_rtx.
        logger: trt.ILogger; from TensorRT for RTX it gets the layer table at VERBOSE severity.
        request: what to build.
        customize: sets on the parsed network and the configuration what only one of the libraries has.

    Raises:
        MissingError: the library gives no builder.
    """
    builder = new_builder(trt, logger)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed if request.strongly_typed else 0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(request.onnx.read_bytes()):
        return Built()
    config = builder.create_builder_config()
    profile = add_profile(trt, builder, config, request.shapes)
    if request.busy:
        add_profile(trt, builder, config, request.busy)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else no layer table is kept
    if request.workspace_mb:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_mb * MIB)
    timing = None if request.timing_cache is None else use_timing_cache(config, request.timing_cache)
    customize(network, config, profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return Built(parsed=parsed_layers(network))
    return Built(bytes(memoryview(plan)), b"" if timing is None else bytes(memoryview(timing.serialize())))


def new_builder(trt: Trt, logger: Logger) -> Builder:
    """A builder; the first call of a library that touches the GPU.

    Raises:
        MissingError: there is none. The library returns null then, most often for want of a newer driver: with one that
            is older than its CUDA, ``cuInit`` succeeds all the same.
    """
    try:
        return trt.Builder(logger)
    except TypeError as error:  # pybind11's word for null: "factory function returned nullptr"
        raise MissingError(f"TensorRT {trt.__version__} gives no builder here ({error})", NO_BUILDER) from error


def use_timing_cache(config: BuilderConfig, known: bytes) -> TimingCache:
    """The timings of earlier builds; of none where they are damaged or of another GPU, driver or CUDA version."""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def add_profile(
    trt: Trt, builder: Builder, config: BuilderConfig, shapes: Mapping[str, list[list[int]]]
) -> OptimizationProfile:
    """One optimization profile from [min, opt, max] shapes."""
    profile = builder.create_optimization_profile()
    for name, (smallest, usual, largest) in shapes.items():
        profile.set_shape(name, trt.Dims(smallest), trt.Dims(usual), trt.Dims(largest))
    config.add_optimization_profile(profile)
    return profile


def use_capabilities(trt: Trt, config: BuilderConfig, names: Sequence[str]) -> None:
    """Builds for GPUs that are not here, which only TensorRT for RTX can: for the named compute capabilities.

    ``SM75`` for instance is the T4; without any, the engine is for SM80.
    """
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    config.max_aux_streams = 0  # the order of layers in the log is then the order of execution


def make_monitor(trt: Trt) -> Any:
    """An IProgressMonitor that draws the outermost phase of a build as a bar on stdout, if that is a terminal.

    TensorRT calls it from several threads. Without a terminal nothing is written.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.bars: dict[str, Any] = {}
            self.lock = threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self.lock:
                if parent_phase in (None, ""):
                    self.bars[phase_name] = tqdm(total=num_steps, desc=phase_name, file=sys.stdout, disable=None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self.lock:
                bar = self.bars.get(phase_name)
                if bar is not None:
                    bar.update(step + 1 - bar.n)
            return True  # False would cancel the build

        def phase_finish(self, phase_name: str) -> None:
            with self.lock:
                bar = self.bars.pop(phase_name, None)
                if bar is not None:
                    bar.update(bar.total - bar.n)  # the last step is not always reported
                    bar.close()

    return Monitor()
