"""One step, in its own process: a request on stdin, ``told.json`` in the step's folder.

    python -m trtasr.pipeline.acceptance.step < request.json

What is found is written at once, so that a later crash of the process loses nothing. The exit status is 0, that of the
error, 130 where it was interrupted, or ``EX_IOERR`` where nothing could be written.
"""

import faulthandler
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from trtasr.engine.build_child import end_with
from trtasr.errors import DiskError, MissingError, TrtasrError
from trtasr.files.disk import disk_faults
from trtasr.files.signals import interrupt_on_signals
from trtasr.files.write import write_json
from trtasr.pipeline.acceptance.building import build_baseline, build_variant, prepare
from trtasr.pipeline.acceptance.findings import Fault, Told
from trtasr.pipeline.acceptance.measuring import (
    compare_inside,
    compare_outputs,
    measure_latency,
    measure_layers,
    measure_wer,
)
from trtasr.pipeline.acceptance.process import AGAIN, CRASH, INTERRUPTED, TOLD
from trtasr.pipeline.acceptance.sealing import seal_bundle
from trtasr.pipeline.acceptance.steps import PREPARE, Request, request_of
from trtasr.pipeline.acceptance.trial import run_trial
from trtasr.results import plain

logger = logging.getLogger(__name__)

Tell = Callable[[Mapping[str, Any]], None]  # what a step has found so far
KINDS: Mapping[str, Callable[[Request, Tell], None]] = {
    "trial": run_trial,
    PREPARE: prepare,
    "baseline": build_baseline,
    "variant": build_variant,
    "latency": measure_latency,
    "WER": measure_wer,
    "comparison": compare_outputs,
    "layer times": measure_layers,
    "layer SQNR": compare_inside,
    "bundle": seal_bundle,
}


def main() -> None:
    """Run the step that stdin asks for."""
    data = json.load(sys.stdin)
    end_with(data["parent"])
    logging.basicConfig(level=data["level"], format="%(message)s")
    interrupt_on_signals()
    sys.exit(answered(data))


def answered(data: Mapping[str, Any]) -> int:
    """Run one step; the exit status."""
    request = request_of(data)
    with (request.folder / CRASH).open("w", encoding="utf-8") as crash:
        faulthandler.enable(crash)
        try:
            return answered_or_told(request)
        except KeyboardInterrupt:
            return INTERRUPTED
        except (DiskError, OSError):
            return os.EX_IOERR
        finally:
            faulthandler.disable()


def answered_or_told(request: Request) -> int:
    """Run one step; an error of any kind is told.

    Raises:
        DiskError, OSError: not even that can be written.
    """
    found: dict[str, Any] = {}

    def tell(more: Mapping[str, Any]) -> None:
        found.update(plain(more))
        write_json(request.folder / TOLD, plain(Told(found)))

    try:
        with disk_faults():
            KINDS[request.kind](request, tell)
    except Exception as error:  # of CUDA or a library: hours on a borrowed T4 must leave what they found
        fault = fault_of(error)
        logger.warning("%s", fault.problem, exc_info=not isinstance(error, TrtasrError))
        write_json(request.folder / TOLD, plain(Told(found, fault)))
        return fault.exit_code
    return 0


def fault_of(error: Exception) -> Fault:
    """An error as a finding: one of ours says what is wrong, any other is a crash that a later run may not see."""
    name = type(error).__name__
    if isinstance(error, TrtasrError):
        return Fault(name, error.problem, error.repair, isinstance(error, MissingError), error.exit_code)
    return Fault(name, f"{name}: {error}", AGAIN, True)


if __name__ == "__main__":
    main()
