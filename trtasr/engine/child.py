"""Runs one build in a child process: a crash, a leak or a spoiled library there cannot reach this one."""

import ctypes
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtasr import errors
from trtasr.engine.fallback import MEMORY, unsupported
from trtasr.errors import BuildError, DiskError, MissingError, NoKernelError
from trtasr.files.disk import OTHER_PLACE
from trtasr.files.replace import OTHER_FOLDER
from trtasr.files.workspace import workspace

log = logging.getLogger(__name__)

ADDR_NO_RANDOMIZE, QUERY = 0x0040000, 0xFFFFFFFF  # personality(2)
STDERR = 2  # file descriptor


@dataclass(frozen=True)
class Product:
    """Which builder is used.

    Attributes:
        name: for people; library: module name.
        repair: how to install it again.
        capability: that the plan's header must name; empty: not checked.
    """

    name: str
    library: str
    repair: str
    capability: str = ""


@dataclass(frozen=True)
class Done:
    """A finished build: the child's report, wall seconds, and the plan's size and hash."""

    report: Mapping[str, Any]
    seconds: float
    size_bytes: int
    sha256: str


def build_plan(request: Mapping[str, Any], onnx_path: Path, plan_path: Path, product: Product) -> Done:
    """Builds one plan in a child process; the file appears at `plan_path` only when it is complete and checked.

    Args:
        request: for the child, without ``plan``, ``report`` and ``parent``.
        onnx_path: graph, named in errors.
        plan_path: engine file to write.
        product: the builder.

    Raises:
        MissingError: the library cannot be loaded. BuildError: the builder refused the graph, or built for another
        compute capability. NoKernelError: it has no kernel for the named nodes.
    """
    start = time.perf_counter()
    plan_path.parent.mkdir(parents=True, exist_ok=True)
    with workspace(plan_path.parent, OTHER_FOLDER) as folder:
        partial = folder / plan_path.name
        files = {"plan": str(partial), "report": str(folder / "report.json")}
        report = run_child({**request, **files, "parent": os.getpid()})
        if "missing" in report:
            raise MissingError(f"{product.name} cannot be loaded: {report['missing']}", product.repair)
        if "refused" in report:  # by trtasr itself: a user error
            kind, problem, repair = report["refused"]
            raise getattr(errors, kind)(problem, repair)
        if not report["ok"]:
            raise refusal(onnx_path, report["errors"], product, tuple(report.get("behind", ())))
        plan = partial.read_bytes()
        check_capability(plan, onnx_path, product)
        partial.replace(plan_path)
    seconds = round(time.perf_counter() - start, 2)
    log.info("built %s: %.1f MB in %.1f s", plan_path.name, len(plan) / 1e6, seconds)
    return Done(report, seconds, len(plan), hashlib.sha256(plan).hexdigest())


def run_child(request: Mapping[str, Any]) -> dict[str, Any]:
    """Runs `trtasr.engine.build_child` on a request and returns its report.

    The child's progress bars reach this process's terminal; Ctrl-C ends the child, and so does the end of this process.

    Returns:
        the report, with ``reproducible``: whether address randomization was off in the child. After a crash it holds
        ``ok: false`` and the reason in ``errors``.

    Raises:
        DiskError: the child could not even write its report.
    """
    report = Path(request["report"])
    log_file = report.with_suffix(".log")
    with fixed_addresses() as fixed, log_file.open("w", encoding="utf-8") as stderr:
        child = subprocess.run(  # ends the child on any exception here, KeyboardInterrupt included
            [sys.executable, "-P", "-m", "trtasr.engine.build_child"],
            input=json.dumps(request),
            stdout=STDERR,  # the child's stdout carries its progress bar, its stderr the reason of a crash
            stderr=stderr,
            text=True,
            check=False,
            env=child_environment(),
        )
    if child.returncode == os.EX_IOERR:
        raise DiskError(f"{report.parent.parent}: the builder could not write here", OTHER_PLACE)
    if child.returncode != 0 or not report.is_file():
        reason = log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] or ["no message"]
        ended = f"the builder process ended with status {child.returncode}: {reason[0]}"
        return {"ok": False, "errors": [ended], "reproducible": fixed}
    answer: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return {**answer, "reproducible": fixed}


def child_environment() -> dict[str, str]:
    """The environment of a process that imports this package from where this one did."""
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))}


@contextmanager
def fixed_addresses() -> Iterator[bool]:
    """Starts child processes at fixed addresses; yields False where the system does not allow that.

    TensorRT for RTX 1.7.1 numbers symbolic dimensions in the order of a hash of addresses: with address-space
    randomization a few bytes of the plan differ from build to build.
    """
    libc = ctypes.CDLL(None)
    before = libc.personality(QUERY) if sys.platform == "linux" else -1
    fixed = before != -1 and libc.personality(before | ADDR_NO_RANDOMIZE) != -1
    if not fixed:
        log.warning("address randomization cannot be switched off here: plans of one graph may differ in a few bytes")
    try:
        yield fixed
    finally:
        if fixed:
            libc.personality(before)


def check_capability(plan: bytes, onnx_path: Path, product: Product) -> None:
    """Compares the compute capability in a plan's header with the wanted one.

    Raises:
        BuildError: another one, or none.
    """
    named = re.findall(rb"accelerators=\{ *([^}]*?) *\}", plan)
    found = {name.decode() for name in named} - {"*"}  # a part for any GPU: the constants of kernels fused at run time
    if product.capability and found != {product.capability}:
        reason = f"the plan is for {' '.join(sorted(found)) or 'an unknown device'}, not for {product.capability}"
        raise refusal(onnx_path, [reason], product)


def refusal(onnx_path: Path, messages: list[str], product: Product, behind: tuple[str, ...] = ()) -> BuildError:
    """The builder's refusal of a graph: `NoKernelError` when it names nodes it has no kernel for.

    Args:
        onnx_path: graph, named in the error.
        messages: the builder's errors.
        product: the builder.
        behind: nodes of that graph behind the names in the messages, as the child found them in the parsed network.
    """
    reasons = "\n  ".join(dict.fromkeys(message.strip() for message in messages[:8])) or "no reason given"
    problem = f"{product.name} could not build {onnx_path}:\n  {reasons}"
    nodes = unsupported(messages)
    if nodes:
        repair = "keep the named operation out of INT8: --set quantization.exclude='[...]'"
        return NoKernelError(problem, repair, nodes, behind)
    if MEMORY.search(reasons):
        return BuildError(problem, "raise engine.workspace_mb, lower engine.max_batch, or free the GPU's memory")
    return BuildError(problem, "keep the named operation out of this target, or compile for another one (--target cpu)")
