"""One step in a process of its own: a crash, a hang or a spoiled CUDA context there reaches no other step."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from trtasr.engine.child import STDERR, child_environment
from trtasr.engine.device import gpu_report
from trtasr.errors import DiskError, MissingError, UsageError
from trtasr.files.disk import OTHER_PLACE
from trtasr.files.read import Source
from trtasr.files.write import write_text
from trtasr.pipeline.acceptance.findings import BROKEN, DONE, REFUSED, Fault, Outcome, State, Told
from trtasr.pipeline.acceptance.steps import Request

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "trtasr.pipeline.acceptance.step")
LIMIT = 3 * 3600.0  # seconds of one step; what takes longer hangs
INTERRUPTED = 130
TOLD, CRASH, SMI = "told.json", "crash.txt", "nvidia-smi.txt"  # in a step's folder
AGAIN = "run the same command again: it completes what is missing"


def attempt(name: str, request: Request) -> Outcome:
    """Run one step and say what became of it; what it had found before it failed counts.

    Raises:
        KeyboardInterrupt: it was interrupted. DiskError: it could not even say what it found.
    """
    started = time.monotonic()
    shutil.rmtree(request.folder, ignore_errors=True)
    request.folder.mkdir(parents=True)
    status = launch(request.to_json() | {"parent": os.getpid(), "level": logging.getLogger().getEffectiveLevel()})
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status == os.EX_IOERR:
        raise DiskError(f"{request.folder}: the step {name!r} could not write here", OTHER_PLACE)
    told = told_in(request.folder)
    fault = told.error or ended(status)
    if fault:
        keep_report(request.folder)
    state: State = DONE if fault is None else BROKEN if fault.again else REFUSED
    return Outcome(name, state, round(time.monotonic() - started, 1), told.found, fault)


def launch(request: Mapping[str, Any]) -> int | None:
    """Run `trtasr.pipeline.acceptance.step` on a request; its exit status, None where it did not end in time."""
    with suppress(subprocess.TimeoutExpired):
        return subprocess.run(  # ends the child on any exception here, KeyboardInterrupt included
            COMMAND,
            input=json.dumps(request),
            stdout=STDERR,
            text=True,
            check=False,
            env=child_environment(),
            timeout=LIMIT,
        ).returncode
    return None


def told_in(folder: Path) -> Told:
    """What a step's process has written until its end; a record of its crash stays only where it crashed."""
    file, crash = folder / TOLD, folder / CRASH
    if crash.is_file() and not crash.stat().st_size:
        crash.unlink()
    if not file.is_file():
        return Told()
    found = Source(file, UsageError, AGAIN).json(Told)
    file.unlink()
    return found


def ended(status: int | None) -> Fault | None:
    """Why a process that names no error did not end well; None where it did."""
    if status == 0:
        return None
    if status is None:
        return Fault("Timeout", f"no end within {LIMIT / 60:g} minutes", AGAIN, True)
    if status < 0:
        return Fault("Crash", f"the process ended with {signal_name(-status)}", AGAIN, True)
    return Fault("Crash", f"the process ended with status {status}", AGAIN, True)


def signal_name(number: int) -> str:
    """``SIGSEGV`` for 11."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def keep_report(folder: Path) -> None:
    """Keep what nvidia-smi says of the card behind a step that failed; that it says nothing is no failure."""
    try:
        write_text(folder / SMI, gpu_report())
    except MissingError as error:
        logger.warning("no report on the GPU: %s", error.problem)
