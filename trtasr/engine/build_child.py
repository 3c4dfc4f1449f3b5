"""One build of TensorRT or TensorRT for RTX, in a process of its own.

    python -m trtasr.engine.build_child < request.json

One process per build, because a failed build spoils the next one of the same process, the first logger of a process
stays its only one, and misuse of the parser ends in a segmentation fault.

The request is that of `trtasr.engine.child.run_child`. The report holds ``ok``, ``version``, ``errors``, ``warnings``,
``layers`` (the builder's layer record, or the engine inspector's JSON), ``behind`` (ONNX nodes behind the layers that
the builder has no kernel for) and ``memory`` (bytes); where the library cannot be loaded it holds ``missing``, the
reason, alone; where trtasr itself refuses, ``refused``: class, problem and repair.
"""

import ctypes
import importlib
import json
import os
import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trtasr.engine.bindings import BuilderConfig, Logger, Network, OptimizationProfile, Trt
from trtasr.engine.builder import Built, NetworkRequest, build_network, make_monitor, use_capabilities
from trtasr.engine.calibrator import make_calibrator, read_source
from trtasr.engine.device import primary_context
from trtasr.engine.evidence import keep_inspected, log_writer
from trtasr.engine.fallback import unsupported
from trtasr.engine.implicit import keep_floating, refuse_unscaled, use_calibrator
from trtasr.engine.parsed import nodes_behind
from trtasr.errors import TrtasrError
from trtasr.files.disk import disk_faults, writing
from trtasr.files.replace import OTHER_FOLDER
from trtasr.files.write import write_bytes

RTX = "tensorrt_rtx"
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
AVERAGED = 8  # runs of every kernel that is timed, as trtexec has it; one run is mostly the clock's noise
MEMORY = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")


def main() -> None:
    """Builds the requested plan and writes the report: a refused graph or a missing library is no exit status."""
    request = json.load(sys.stdin)
    end_with(request["parent"])
    if request["library"] == RTX:
        take_turns()
    report: dict[str, Any]
    try:
        trt: Any = importlib.import_module(request["library"])
    except (ImportError, OSError) as error:
        report = {"missing": str(error) or type(error).__name__}
    else:
        try:
            with disk_faults():
                report = build_requested(trt, request)
        except TrtasrError as error:
            report = {"refused": [type(error).__name__, error.problem, error.repair]}
    try:
        Path(request["report"]).write_text(json.dumps(report), encoding="utf-8")
    except OSError:
        sys.exit(os.EX_IOERR)


def end_with(parent: int) -> None:
    """Has the system kill this process when its parent ends, however that ends: nobody would wait for the plan."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it was faster
        sys.exit(os.EX_TEMPFAIL)


def take_turns() -> None:
    """Lets only one thread of this process run at a time, each until it waits.

    The builder hands small tasks to a worker thread, and both release shared objects: whoever is last decides where
    later objects lie, and so a few bytes of the plan. On one core, without preemption, that order is always the same.
    Where real-time scheduling is not allowed, batch scheduling makes preemption rare.
    """
    if sys.platform != "linux":
        return
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def build_requested(trt: Trt, request: dict[str, Any]) -> dict[str, Any]:
    """Writes the requested plan, unless the graph was refused; returns the report."""
    messages: list[tuple[str, str]] = []
    keep = log_writer(request.get("evidence"))

    class BuilderLog(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            # Of 26 000 verbose lines only the layer table is kept: lines with timings differ in length from build to
            # build, and memory held for them moves the builder's own (see take_turns).
            keep(severity.name, message)
            if severity.name != "VERBOSE" or message.startswith("Layers:"):
                messages.append((severity.name, message))

    logger = BuilderLog()
    built, extra = (build_rtx if request["library"] == RTX else build_tensorrt)(trt, logger, request)
    if built.plan is not None:
        write_plan(Path(request["plan"]), built.plan)
    found = digest(messages)
    behind = nodes_behind(built.parsed, unsupported(found["errors"]))
    return {"ok": built.plan is not None, "version": trt.__version__, "behind": behind, **found, **extra}


def write_plan(path: Path, plan: bytes) -> None:
    """Write the plan, or nothing: what a full disk took of it goes again, so that the report finds room.

    Raises:
        DiskError: the disk takes no more. UsageError: the file cannot be written.
    """
    try:
        with writing(path, OTHER_FOLDER, len(plan)):
            path.write_bytes(plan)
    except TrtasrError:
        path.unlink(missing_ok=True)
        raise


def build_rtx(trt: Trt, logger: Logger, request: dict[str, Any]) -> tuple[Built, dict[str, Any]]:
    """A plan for the requested compute capability.

    A thread of its own gets a heap of its own, so that the builder's heap addresses, which reach the plan through hash
    orders, do not depend on what Python allocated before (paths, environment, byte-code caches).
    """

    def customize(_network: Network, config: BuilderConfig, _profile: OptimizationProfile) -> None:
        use_capabilities(trt, config, request["capabilities"])

    wanted = NetworkRequest(Path(request["onnx"]), request["shapes"])
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(build_network, trt, logger, wanted, customize).result(), {}


def build_tensorrt(trt: Trt, logger: Logger, request: dict[str, Any]) -> tuple[Built, dict[str, Any]]:
    """A plan for the GPU that is here: progress bar, timing cache, engine inspector, and a calibrator if asked for."""
    source = read_source(Path(request["calibration"])) if request.get("calibration") else None
    timing = Path(request["timing_cache"]) if request.get("timing_cache") else None
    known = None if timing is None else timing.read_bytes() if timing.is_file() else b""
    graph, typed = Path(request["onnx"]), source is None
    wanted = NetworkRequest(graph, request["shapes"], request["busy"], typed, known, request["workspace_mb"])
    with primary_context() as cuda:
        calibrator = None if source is None else make_calibrator(trt, source, cuda)

        def customize(network: Network, config: BuilderConfig, profile: OptimizationProfile) -> None:
            config.progress_monitor = make_monitor(trt)
            config.avg_timing_iterations = AVERAGED
            if calibrator is not None:
                calibrator.cover(network)
                refuse_unscaled(network, calibrator.cache, request["floating"])
                keep_floating(trt, network, config, request["floating"])
                use_calibrator(trt, config, profile, calibrator)

        built = build_network(trt, logger, wanted, customize)
        if calibrator is not None:
            calibrator.check(built.plan is not None)
        extra = {} if built.plan is None else {"layers": inspected(trt, logger, built.plan, request["shapes"])}
        keep_inspected(request.get("evidence"), extra.get("layers", ""))
    if timing is not None and built.timing_cache:
        extra["unsaved"] = write_aside(timing, built.timing_cache)
    return built, extra


def inspected(trt: Trt, logger: Logger, plan: bytes, shapes: dict[str, list[list[int]]]) -> str:
    """The engine inspector's JSON of a plan; empty when the plan cannot be loaded here.

    Args:
        trt: the module tensorrt.
        logger: trt.ILogger.
        plan: serialized engine.
        shapes: input name -> [min, opt, max]; until a context knows its input shapes, the inspector says
            "N/A due to dynamic shapes" in place of every tensor's type.
    """
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return ""
    context = engine.create_execution_context()
    if context is not None:
        for name, (_, usual, _) in shapes.items():
            context.set_input_shape(name, tuple(usual))
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def write_aside(path: Path, content: bytes) -> str:
    """Replaces a file in one step, so that a reader never sees half of it; the reason where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    except OSError as error:
        return f"{path}: {error.strerror}"
    except TrtasrError as error:
        return error.problem
    return ""


def digest(messages: list[tuple[str, str]]) -> dict[str, Any]:
    """What the parent needs from the builder's log of (severity, message)."""
    texts = "\n".join(message for severity, message in messages if severity == "INFO")
    return {
        "errors": [message for severity, message in messages if "ERROR" in severity],
        "warnings": [message for severity, message in messages if severity == "WARNING"],
        "layers": "\n".join(message for _, message in messages if message.startswith("Layers:")),
        "memory": {kind.lower(): int(size) for kind, size in MEMORY.findall(texts)},
    }


if __name__ == "__main__":
    main()
