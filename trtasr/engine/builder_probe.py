"""Whether TensorRT gives a builder at all, asked in a process of its own: one that crashes there costs nothing here.

    python -m trtasr.engine.builder_probe

ends with status 0 where it does; else stdout holds the reason, and what TensorRT said before it.
"""

import importlib
import subprocess
import sys
from functools import cache
from typing import Any

from trtasr.engine.bindings import Trt
from trtasr.engine.builder import new_builder
from trtasr.engine.child import child_environment
from trtasr.engine.driver import UPDATE
from trtasr.errors import MissingError

SECONDS = 120  # a T4 wakes in a few
LINES = 3  # of what TensorRT said


def main() -> None:
    """Makes a builder; where there is none, says why and ends with the status of a missing driver."""
    try:
        trt: Any = importlib.import_module("tensorrt")
        reasons = refusals(trt)
    except (ImportError, OSError) as error:
        reasons = [str(error) or type(error).__name__]
    if reasons:
        sys.stdout.write("\n".join(reasons))
        sys.exit(MissingError.exit_code)


def refusals(trt: Trt) -> list[str]:
    """Why there is no builder, in TensorRT's words and ours; empty where there is one."""
    said: list[str] = []

    class ProbeLog(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity.name in ("INTERNAL_ERROR", "ERROR", "WARNING"):
                said.append(message.strip())

    try:
        new_builder(trt, ProbeLog())
    except MissingError as error:
        return [*said, error.problem]
    return []


@cache
def require_builder() -> None:
    """Refuses a machine on which TensorRT gives no builder; asked once.

    Raises:
        MissingError: it gives none, or the process that asked it crashed.
    """
    command = [sys.executable, "-P", "-m", "trtasr.engine.builder_probe"]
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, check=False, env=child_environment(), timeout=SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise MissingError(f"TensorRT gives no builder within {SECONDS} s", UPDATE) from error
    if run.returncode != 0:
        raise MissingError(f"no engine can be built here: {reason(run)}", UPDATE)


def reason(run: "subprocess.CompletedProcess[str]") -> str:
    """The last lines of a probe that failed; its status where it ended without a word of its own."""
    if run.returncode == MissingError.exit_code:
        return "; ".join(run.stdout.splitlines()[-LINES:])
    last = run.stderr.strip().splitlines()[-1:] or ["no message"]
    return f"the process that asked TensorRT for a builder ended with status {run.returncode}: {last[0]}"


if __name__ == "__main__":
    main()
