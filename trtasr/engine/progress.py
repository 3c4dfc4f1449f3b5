"""A progress bar for builds that take minutes."""

import sys
import threading
from typing import Any

from tqdm import tqdm

from trtasr.engine.bindings import Trt


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
