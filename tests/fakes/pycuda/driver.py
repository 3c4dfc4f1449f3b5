"""The calls of pycuda.driver that trtasr makes, with host memory as device memory and one "Tesla T4 (fake)".

Addresses are real ones, so that the fake tensorrt finds its inputs behind them. Copies check their sizes; a context
must be pushed before memory is touched, as on a GPU. An event pair gives the time the fake engine claims to have taken.
"""

import ctypes

import numpy as np


class Error(Exception):
    pass


class LogicError(Error):
    pass


state = {"stack": 0, "ms": 1.0, "allocated": 0}
memory: dict[int, np.ndarray] = {}


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
    return DeviceAllocation(size)


def pagelocked_empty(shape, dtype):
    need_context()
    return np.empty(shape, dtype)


def memcpy_htod(device, host):
    need_context()
    assert host.nbytes <= device.data.nbytes
    ctypes.memmove(int(device), host.ctypes.data, host.nbytes)


def memcpy_htod_async(device, host, stream):
    memcpy_htod(device, host)


def memcpy_dtoh_async(host, device, stream):
    need_context()
    assert host.nbytes <= device.data.nbytes
    ctypes.memmove(host.ctypes.data, int(device), host.nbytes)


class Stream:
    handle = 1

    def synchronize(self):
        need_context()


class Event:
    def record(self, stream):
        need_context()

    def time_till(self, other):
        return state["ms"]
