"""CUDA graphs: work captured from a stream, launched as a whole; and the few that were launched most recently.

pycuda has no stream capture: the driver library does it.
"""

import ctypes
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

from trtasr.engine.device import load_libcuda

CAPTURE_MODE_THREAD_LOCAL = 1  # other threads (torch's) may go on using CUDA while this one captures


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

    def __init__(self, record: Callable[[], None], stream: int, cuda: Any = None) -> None:
        self._cuda = load_libcuda() if cuda is None else cuda
        self._stream = ctypes.c_void_p(stream)
        self._graph, self._executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, CAPTURE_MODE_THREAD_LOCAL)
        try:
            record()
        finally:  # a stream left in capture mode refuses everything else
            status = self._cuda.cuStreamEndCapture(self._stream, ctypes.byref(self._graph))
        check_status("cuStreamEndCapture", status)
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
        check_status(name, getattr(self._cuda, name)(*arguments))


def check_status(name: str, status: int) -> None:
    """Refuse to go on where a call of CUDA's driver failed.

    Raises:
        RuntimeError: naming the call.
    """
    if status != 0:
        raise RuntimeError(f"{name}: CUDA error {status}")


class Held(Protocol):
    """What is kept for its next use."""

    def close(self) -> None:
        """Give up what it holds."""


Kept = TypeVar("Kept", bound=Held)


class Lately(Generic[Kept]):
    """Things by their keys; where one is too many, that which was used longest ago is closed and forgotten.

    Args:
        most: that are kept.
        remembered: keys that `again` knows.
    """

    def __init__(self, most: int, remembered: int) -> None:
        self._most, self._remembered = most, remembered
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()
        self._met: OrderedDict[Hashable, None] = OrderedDict()

    def get(self, key: Hashable) -> Kept | None:
        """What is kept for a key, which counts as its use."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: Hashable, kept: Kept) -> None:
        """Keep something from now on, for a key that nothing is kept for."""
        self._kept[key] = kept
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)[1].close()

    def again(self, key: Hashable) -> bool:
        """Whether a key has been met lately; from now on it has."""
        known = key in self._met
        self._met[key] = None
        self._met.move_to_end(key)
        while len(self._met) > self._remembered:
            self._met.popitem(last=False)
        return known

    def clear(self) -> None:
        """Close all that is kept; met keys stay known."""
        while self._kept:
            self._kept.popitem(last=False)[1].close()
