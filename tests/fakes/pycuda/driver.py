"""The calls of pycuda.driver that trtasr makes, with host memory as device memory and one "Tesla T4 (fake)".

Addresses are real ones, so that the fake tensorrt finds its inputs behind them. Copies check their sizes and are noted
in `copies`; a context must be pushed before memory is touched, as on a GPU, and at most `state["limit"]` bytes can be
allocated. An event pair gives the time the fake engine claims to have taken.

`libcuda` captures streams: what is enqueued meanwhile does not run, and is done at every launch of the graph, at the
addresses of then, which must still be valid. With `state["capture"]` False it refuses, as where a plan synchronizes.
"""

import ctypes
import itertools
import weakref

import numpy as np


class Error(Exception):
    pass


class LogicError(Error):
    pass


class MemoryError(Error):  # noqa: A001 - pycuda's own name
    pass


state = {"stack": 0, "ms": 1.0, "allocated": 0, "limit": float("inf"), "capture": True, "launches": 0}
memory: dict[int, np.ndarray] = {}
pinned = weakref.WeakValueDictionary()  # address -> page-locked array
streams = weakref.WeakValueDictionary()  # handle -> stream
handles = itertools.count(1)
copies: list[tuple[str, int]] = []  # direction and bytes, in order


def init():
    pass


def get_version():
    return (13, 0, 0)


def need_context():
    if not state["stack"]:
        raise LogicError("invalid device context")


class Context:
    def push(self):
        state["stack"] += 1

    @staticmethod
    def pop():
        need_context()
        state["stack"] -= 1


class Device:
    def __init__(self, ordinal):
        assert ordinal == 0

    @staticmethod
    def count():
        return 1

    def name(self):
        return "Tesla T4 (fake)"

    def compute_capability(self):
        return (7, 5)

    def pci_bus_id(self):
        return "0000:00:1E.0"

    def retain_primary_context(self):
        return Context()


class DeviceAllocation:
    def __init__(self, size):
        self.data = np.zeros(size, np.uint8)
        memory[int(self)] = self.data
        state["allocated"] += size

    def __int__(self):
        return self.data.ctypes.data

    def free(self):
        state["allocated"] -= memory.pop(int(self)).nbytes


def need_no_capture():
    """What synchronizes, as allocating does, is not permitted meanwhile."""
    if any(stream.captured is not None for stream in streams.values()):
        raise LogicError("operation not permitted when stream is capturing")


def mem_alloc(size):
    need_context()
    need_no_capture()
    if not size:
        raise LogicError("cuMemAlloc failed: invalid argument")
    if state["allocated"] + size > state["limit"]:
        raise MemoryError("cuMemAlloc failed: out of memory")
    return DeviceAllocation(size)


def pagelocked_empty(shape, dtype):
    need_context()
    need_no_capture()
    array = np.empty(shape, dtype)
    array.view(np.uint8)[...] = 0xA5  # what lay there before
    pinned[array.ctypes.data] = array
    return array


def inside(device, size):
    """The address of an allocation, or one inside of it, that so many bytes follow."""
    need_context()
    address = int(device)
    assert any(start <= address and address + size <= start + data.nbytes for start, data in memory.items())
    return address


def memcpy_htod(device, host):
    assert host.flags.c_contiguous
    ctypes.memmove(inside(device, host.nbytes), host.ctypes.data, host.nbytes)
    copies.append(("htod", host.nbytes))


def page_locked(address, size):
    """Whether an array lies in page-locked memory that is still there."""
    return any(start <= address and address + size <= start + array.nbytes for start, array in pinned.items())


def memcpy_htod_async(device, host, stream):
    address, size = host.ctypes.data, host.nbytes
    assert host.flags.c_contiguous
    held = [host] if stream.captured is None else []  # a graph knows addresses, and keeps nothing alive

    def copy():
        assert held or page_locked(address, size), "a graph reads memory that is gone"
        ctypes.memmove(inside(device, size), address, size)
        copies.append(("htod", size))

    stream.do(copy)


def memcpy_dtoh_async(host, device, stream):
    """The host has the values of this moment once the stream is synchronized."""
    address, size = host.ctypes.data, host.nbytes
    assert host.flags.c_contiguous
    held = [host] if stream.captured is None else []

    def copy():
        assert held or page_locked(address, size), "a graph writes memory that is gone"
        stream.pending.append((address, ctypes.string_at(inside(device, size), size), held))
        copies.append(("dtoh", size))

    stream.do(copy)


class Stream:
    """Does work at once, or notes it while it is captured."""

    def __init__(self):
        self.handle, self.pending, self.captured = next(handles), [], None
        streams[self.handle] = self

    def do(self, work):
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def synchronize(self):
        need_context()
        need_no_capture()
        for address, values, _ in self.pending:
            ctypes.memmove(address, values, len(values))
        self.pending = []


class Libcuda:
    """The driver library's calls for CUDA graphs, under its names.

    Handles are numbers of what is in `graphs`, until it is destroyed.
    """

    def __init__(self):
        self.graphs, self.numbers, self.captures = {}, itertools.count(1), 0

    def cuStreamBeginCapture_v2(self, stream, mode):
        assert mode == 1
        if not state["capture"]:
            return 801
        streams[stream.value].captured = []
        return 0

    def cuStreamEndCapture(self, stream, graph):
        found = streams[stream.value]
        graph._obj.value, work, found.captured = next(self.numbers), found.captured, None
        self.graphs[graph._obj.value] = work
        self.captures += 1
        return 0

    def cuGraphInstantiateWithFlags(self, executable, graph, flags):
        assert flags.value == 0
        executable._obj.value = next(self.numbers)
        self.graphs[executable._obj.value] = self.graphs[graph.value]
        return 0

    def cuGraphLaunch(self, executable, stream):
        state["launches"] += 1
        for work in self.graphs[executable.value]:
            work()
        return 0

    def cuGraphExecDestroy(self, executable):
        del self.graphs[executable.value]
        return 0

    cuGraphDestroy = cuGraphExecDestroy


libcuda = Libcuda()


class Event:
    def record(self, stream):
        need_context()

    def time_till(self, other):
        return state["ms"]
