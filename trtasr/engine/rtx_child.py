"""One TensorRT for RTX build for compute capability 7.5, in a process of its own.

    python -m trtasr.engine.rtx_child < request.json

One process per build, because a failed build spoils the next one of the same process, the first logger of a process
stays its only one, and misuse of the parser ends in a segmentation fault.

The request names ``onnx``, ``plan`` and ``report`` (files) and ``shapes`` (input -> [min, opt, max]). The report holds
``ok``, ``version``, ``errors``, ``warnings``, ``layers`` (the builder's layer record) and ``memory`` (bytes);
where the library cannot be loaded it holds ``missing``, the reason, alone.
"""

import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

MEMORY = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")


def main() -> None:
    """Builds the requested plan and writes the report: a refused graph or a missing library is no exit status."""
    request = json.load(sys.stdin)
    take_turns()
    try:
        import tensorrt_rtx as trt  # noqa: PLC0415 - the import that may fail
    except (ImportError, OSError) as error:
        report = {"missing": str(error) or type(error).__name__}
    else:
        report = compile_plan(trt, request)
    Path(request["report"]).write_text(json.dumps(report), encoding="utf-8")


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


def compile_plan(trt: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Writes the requested plan, unless the graph was refused; returns the report."""
    messages: list[tuple[str, str]] = []

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            # Of 26 000 verbose lines only the layer table is kept: lines with timings differ in length from build to
            # build, and memory held for them moves the builder's own (see take_turns).
            if severity.name != "VERBOSE" or message.startswith("Layers:"):
                messages.append((severity.name, message))

    # A thread of its own gets a heap of its own, so that the builder's heap addresses, which reach the plan through
    # hash orders, do not depend on what Python allocated before (paths, environment, byte-code caches).
    with ThreadPoolExecutor(max_workers=1) as pool:
        plan = pool.submit(build, trt, Logger(), request).result()
    if plan is not None:
        Path(request["plan"]).write_bytes(plan)
    return {"ok": plan is not None, "version": trt.__version__, **digest(messages)}


def build(trt: Any, logger: Any, request: dict[str, Any]) -> bytes | None:
    """The serialized engine; None when the parser or the builder refused, with the reasons in the log."""
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(Path(request["onnx"]).read_bytes()):
        return None
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM75, 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the layer table is not logged
    config.max_aux_streams = 0
    profile = builder.create_optimization_profile()
    for name, (smallest, usual, largest) in request["shapes"].items():
        profile.set_shape(name, smallest, usual, largest)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    return None if plan is None else bytes(plan)


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
