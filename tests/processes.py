"""Processes that die in the middle of something."""

import os
from collections.abc import Callable


def killed(task: Callable[[], object]) -> None:
    """Run a task in a process that dies in it as by kill -9."""
    pid = os.fork()
    if pid == 0:
        try:
            task()
        finally:
            os._exit(1)  # the task kills its process before
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
