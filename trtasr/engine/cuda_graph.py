"""CUDA graphs through the driver library: pycuda has no stream capture.

A captured inference is one launch instead of hundreds, which is what a small batch on a fast GPU waits for.
"""

import ctypes
from typing import Any

from trtasr.errors import MissingError

CAPTURE_MODE_THREAD_LOCAL = 1  # other threads (torch's) may go on using CUDA while this one captures
DRIVER = "libcuda.so.1"


class CudaGraph:
    """Work recorded from one stream, to be launched as a whole.

    Args:
        record: enqueues the work on the stream; nothing runs while it does.
        stream: handle of the stream (an integer pointer).
        cuda: the driver library; None loads it.

    Raises:
        MissingError: no driver.
        RuntimeError: the work cannot be captured, for instance because it synchronizes.
    """

    def __init__(self, record: Any, stream: int, cuda: Any = None) -> None:
        self._cuda = load_libcuda() if cuda is None else cuda
        self._stream = ctypes.c_void_p(stream)
        self._graph, self._executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, CAPTURE_MODE_THREAD_LOCAL)
        try:
            record()
        finally:  # a stream left in capture mode refuses everything else
            status = self._cuda.cuStreamEndCapture(self._stream, ctypes.byref(self._graph))
        _check("cuStreamEndCapture", status)
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._executable), self._graph, ctypes.c_ulonglong(0))

    def launch(self) -> None:
        """Enqueue the recorded work once on its stream."""
        self._call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Free the graph; it cannot be launched any more."""
        if self._executable:
            self._call("cuGraphExecDestroy", self._executable)
        if self._graph:
            self._call("cuGraphDestroy", self._graph)
        self._graph, self._executable = ctypes.c_void_p(), ctypes.c_void_p()

    def _call(self, name: str, *arguments: Any) -> None:
        _check(name, getattr(self._cuda, name)(*arguments))


def load_libcuda() -> Any:
    """The CUDA driver library.

    Raises:
        MissingError: no NVIDIA driver.
    """
    try:
        return ctypes.CDLL(DRIVER)
    except OSError as error:
        raise MissingError(
            f"{DRIVER} cannot be loaded: no NVIDIA driver", "run on a host with an NVIDIA GPU (docker run --gpus all)"
        ) from error


def _check(name: str, status: int) -> None:
    if status != 0:
        raise RuntimeError(f"{name}: CUDA error {status}")
