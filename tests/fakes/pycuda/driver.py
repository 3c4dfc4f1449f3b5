"""The calls of pycuda.driver that trtasr makes, with host memory as device memory and one "Tesla T4 (fake)".

Addresses are real ones, so that the fake tensorrt finds its inputs behind them. Copies check their sizes and are noted
in `copies`; a context must be pushed before memory is touched, as on a GPU, and at most `state["limit"]` bytes can be
allocated. An event pair gives the time the fake engine claims to have taken.
"""

import ctypes

import numpy as np


class Error(Exception):
    pass


class LogicError(Error):
    pass


class MemoryError(Error):  # noqa: A001 - pycuda's own name
    pass


state = {"stack": 0, "ms": 1.0, "allocated": 0, "limit": float("inf")}
memory: dict[int, np.ndarray] = {}
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


def mem_alloc(size):
    need_context()
    if not size:
        raise LogicError("cuMemAlloc failed: invalid argument")
    if state["allocated"] + size > state["limit"]:
        raise MemoryError("cuMemAlloc failed: out of memory")
    return DeviceAllocation(size)


def pagelocked_empty(shape, dtype):
    need_context()
    return np.empty(shape, dtype)


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


def memcpy_htod_async(device, host, stream):
    memcpy_htod(device, host)


def memcpy_dtoh_async(host, device, stream):
    """The host has the values of this moment once the stream is synchronized."""
    assert host.flags.c_contiguous
    stream.pending.append((host, ctypes.string_at(inside(device, host.nbytes), host.nbytes)))
    copies.append(("dtoh", host.nbytes))


class Stream:
    handle = 1

    def __init__(self):
        self.pending = []

    def synchronize(self):
        need_context()
        for host, values in self.pending:
            ctypes.memmove(host.ctypes.data, values, len(values))
        self.pending = []


class Event:
    def record(self, stream):
        need_context()

    def time_till(self, other):
        return state["ms"]
