"""The builder's steps, the same for TensorRT and TensorRT for RTX: parse, configure, build."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trtasr.engine.bindings import Builder, BuilderConfig, Logger, Network, OptimizationProfile, TimingCache, Trt

MIB = 1 << 20
Customize = Callable[[Network, BuilderConfig, OptimizationProfile], None]


@dataclass(frozen=True)
class NetworkRequest:
    """What to build.

    Attributes:
        onnx: graph.
        shapes: input name -> [min, opt, max] shape.
        strongly_typed: the graph's own types decide (explicit quantization); False leaves them to the builder, for
            calibrators.
        timing_cache: bytes of an earlier build; None: the library's own, which is thrown away.
        workspace_mb: limit of the builder's scratch memory in MiB; 0: all of the GPU's.
    """

    onnx: Path
    shapes: Mapping[str, list[list[int]]]
    strongly_typed: bool = True
    timing_cache: bytes | None = None
    workspace_mb: int = 0


@dataclass(frozen=True)
class Built:
    """The outcome of one build.

    Attributes:
        plan: serialized engine; None when the parser or the builder refused, with the reasons in the log.
        timing_cache: for the next build; empty when none was asked for.
    """

    plan: bytes | None = None
    timing_cache: bytes = b""


def build_network(trt: Trt, logger: Logger, request: NetworkRequest, customize: Customize) -> Built:
    """Builds one engine.

    Args:
        trt: the module tensorrt or tensorrt_rtx.
        logger: trt.ILogger; from TensorRT for RTX it gets the layer table at VERBOSE severity.
        request: what to build.
        customize: sets on the parsed network and the configuration what only one of the libraries has.
    """
    builder = trt.Builder(logger)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed if request.strongly_typed else 0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(request.onnx.read_bytes()):
        return Built()
    config = builder.create_builder_config()
    profile = add_profile(trt, builder, config, request.shapes)
    configure(trt, config, request)
    timing = None if request.timing_cache is None else use_timing_cache(config, request.timing_cache)
    customize(network, config, profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return Built()
    return Built(bytes(memoryview(plan)), b"" if timing is None else bytes(memoryview(timing.serialize())))


def configure(trt: Trt, config: BuilderConfig, request: NetworkRequest) -> None:
    """Verbosity and memory."""
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else no layer table is kept
    if request.workspace_mb:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_mb * MIB)


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
