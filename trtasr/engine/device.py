"""The GPU through pycuda and the driver, and its state from nvidia-smi: a throttled T4 measures itself, not the engine.

Work is on the primary context that torch and the CUDA runtime share: `pycuda.autoinit` would create a context of its
own, in which TensorRT's and torch's pointers are invalid (TensorRT issue 4335); nothing here runs at import.
"""

import csv
import ctypes
import functools
import importlib
import logging
import math
import operator
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from trtasr.errors import BuildError, MissingError
from trtasr.results import GpuState
from trtasr.values import Array

Shape = tuple[int, ...]

PYCUDA_INSTALL = "pip install 'pycuda>=2025.1' (needs the CUDA toolkit), or use the Docker image"
NO_GPU = "run on a host with an NVIDIA GPU (docker run --gpus all)"
DRIVER = "libcuda.so.1"
NUMBERS = ("clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu")
REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")  # newer drivers drop the second name
STATE_FIELDS = ("name", "driver_version", "pstate", *NUMBERS, REASONS[0])
ABSENT = ("[N/A]", "[Not Supported]", "N/A", "[Unknown Error]", "")  # the card does not tell

log = logging.getLogger(__name__)
SAMPLE_SECONDS = 2.0  # between two looks at the clocks
SMI_SECONDS = 30  # a card that fell off the bus makes nvidia-smi wait


def load_libcuda() -> Any:
    """The CUDA driver library.

    Raises:
        MissingError: no NVIDIA driver.
    """
    try:
        return ctypes.CDLL(DRIVER)
    except OSError as error:
        raise MissingError(f"{DRIVER} cannot be loaded: no NVIDIA driver", NO_GPU) from error


def load_driver() -> Any:
    """Pycuda's driver module, initialized.

    Raises:
        MissingError: no pycuda, no NVIDIA driver, or no GPU.
    """
    try:
        cuda = importlib.import_module("pycuda.driver")
    except ModuleNotFoundError as error:
        raise MissingError("pycuda is not installed", PYCUDA_INSTALL) from error
    except ImportError as error:
        raise MissingError(f"pycuda cannot be loaded: {error}", NO_GPU) from error
    try:
        cuda.init()
        count = cuda.Device.count()
    except cuda.Error as error:
        raise MissingError(f"CUDA cannot be initialized: {error}", NO_GPU) from error
    if not count:
        raise MissingError("the NVIDIA driver finds no GPU", NO_GPU)
    return cuda


@contextmanager
def primary_context() -> Iterator[Any]:
    """The primary context of the first GPU, current inside the block and as before it afterwards; yields the driver.

    Raises:
        MissingError: no pycuda, no NVIDIA driver, or no GPU.
    """
    cuda = load_driver()
    context = retained_context(cuda)
    context.push()
    try:
        yield cuda
    finally:
        context.pop()


@cache
def retained_context(cuda: Any) -> Any:
    """The primary context, held until the process ends: TensorRT keeps handles of it between one plan and the next."""
    return cuda.Device(0).retain_primary_context()


def pci_bus_id() -> str:
    """PCI address of the first GPU, which nvidia-smi knows it by: their counting may differ.

    Raises:
        MissingError: no pycuda, no NVIDIA driver, or no GPU.
    """
    return str(load_driver().Device(0).pci_bus_id())


class Arena:
    """Named places on the GPU and named page-locked arrays, which grow when they must.

    They grow by half at least, so that whoever meets longer and longer utterances allocates seldom.

    Args:
        cuda: pycuda's driver module, with a context pushed.

    Attributes:
        moved: how often a place or an array gave way to a larger one, whose address is another.
    """

    def __init__(self, cuda: Any) -> None:
        self.cuda = cuda
        self.moved = 0
        self._device: dict[str, tuple[Any, int]] = {}
        self._host: dict[str, Any] = {}

    def reserve(self, name: str, shape: Shape, dtype: np.dtype[Any]) -> int:
        """Address of a place for an array; valid until a larger one of that name is reserved.

        Raises:
            BuildError: no GPU memory is left.
        """
        size = max(math.prod(shape) * dtype.itemsize, 1)  # an empty tensor needs an address, too
        room = 0
        if name in self._device and self._device[name][1] < size:
            allocation, held = self._device.pop(name)
            allocation.free()
            self.moved, room = self.moved + 1, held + held // 2
        if name not in self._device:
            try:
                self._device[name] = self._allocated(max(size, room), size)
            except self.cuda.Error as error:
                raise BuildError(
                    f"no GPU memory for {name} {shape}: {error}", "free GPU memory, or run smaller batches"
                ) from error
        return int(self._device[name][0])

    def host(self, name: str, shape: Shape, dtype: np.dtype[Any]) -> Array:
        """A page-locked array, whose contents stay until the next call with that name."""
        count, held = math.prod(shape), self._host.get(name)
        if held is None or held.size < count:
            room = 0 if held is None else held.size + held.size // 2
            self.moved += held is not None
            self._host[name] = self.cuda.pagelocked_empty(max(count, room, 1), dtype)
        found: Array = self._host[name][:count].reshape(shape)
        return found

    def _allocated(self, wanted: int, needed: int) -> tuple[Any, int]:
        """An allocation and its bytes: as many as are wanted, or as are needed where memory is short."""
        try:
            return self.cuda.mem_alloc(wanted), wanted
        except self.cuda.Error:
            if wanted == needed:
                raise
            return self.cuda.mem_alloc(needed), needed

    def upload(self, name: str, array: Array, dtype: np.dtype[Any], stream: Any) -> int:
        """Copy an array to its place, through page-locked memory and when the stream comes to it; the address."""
        address, host = self.reserve(name, array.shape, dtype), self.host(name, array.shape, dtype)
        np.copyto(host, array, casting="same_kind")
        self.cuda.memcpy_htod_async(address, host, stream)
        return address

    def close(self) -> None:
        """Free everything."""
        for allocation, _ in self._device.values():
            allocation.free()
        self._device, self._host = {}, {}


def gpu_state(card: str) -> GpuState:
    """Asks nvidia-smi about one GPU.

    Args:
        card: its PCI address, or its number in nvidia-smi's own order.

    Raises:
        MissingError: no nvidia-smi, or it fails.
    """
    program = smi_program()
    fields = understood(program, card)
    return parse_state(queried(program, card, fields), fields)


def gpu_report() -> str:
    """Everything that nvidia-smi says of this machine's GPUs, ``nvidia-smi -q``.

    Raises:
        MissingError: no nvidia-smi, or it fails.
    """
    return smi_answer([smi_program(), "-q"])


def smi_program() -> str:
    """Path of nvidia-smi.

    Raises:
        MissingError: there is none.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        raise MissingError("nvidia-smi: program not found", "install the NVIDIA driver, or run docker with --gpus all")
    return program


def smi_answer(command: Sequence[str]) -> str:
    """What nvidia-smi prints.

    Raises:
        MissingError: it fails, or does not end.
    """
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SMI_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(f"nvidia-smi: {error}", "check the NVIDIA driver with `nvidia-smi`") from error
    if answer.returncode != 0:
        problem = (answer.stdout + answer.stderr).strip().splitlines()[:1] or ["no message"]
        raise MissingError(f"nvidia-smi: {problem[0]}", "check the NVIDIA driver with `nvidia-smi`")
    return answer.stdout


def queried(program: str, card: str, fields: Sequence[str]) -> str:
    """One line with the values of these fields.

    Raises:
        MissingError: nvidia-smi fails, as it does where it does not know one of the fields.
    """
    return smi_answer([program, f"--id={card}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"])


@cache
def understood(program: str, card: str) -> tuple[str, ...]:
    """The fields of a card's state that this nvidia-smi answers: it refuses a whole query for one it does not know.

    Raises:
        MissingError: it does not even tell the card's name.
    """
    for reasons in REASONS:
        whole = (*STATE_FIELDS[:-1], reasons)
        if answers(program, card, whole):
            return whole
    queried(program, card, STATE_FIELDS[:1])
    fields = tuple(field for field in (*STATE_FIELDS, *REASONS[1:]) if answers(program, card, (field,)))
    log.warning("nvidia-smi does not answer: %s", ", ".join(name for name in STATE_FIELDS if name not in fields))
    return fields


def answers(program: str, card: str, fields: Sequence[str]) -> bool:
    """Whether nvidia-smi answers a query of these fields."""
    try:
        queried(program, card, fields)
    except MissingError:
        return False
    return True


def parse_state(text: str, fields: Sequence[str] = STATE_FIELDS) -> GpuState:
    """One line of ``nvidia-smi --query-gpu=... --format=csv,noheader,nounits``.

    Args:
        text: the answer.
        fields: its columns; a field of `STATE_FIELDS` that is not among them is one that the card does not report.

    Raises:
        MissingError: another number of columns, or a word where a number belongs.
    """
    values = [value.strip() for value in next(csv.reader(text.splitlines()[:1]), [])]
    if len(values) != len(fields):
        raise MissingError(f"nvidia-smi: unexpected answer {text[:80]!r}", "update the NVIDIA driver (525 or newer)")
    told = {field: "" if value in ABSENT else value for field, value in zip(fields, values, strict=True)}
    reasons = next((told[field] for field in REASONS if told.get(field)), "0")
    try:
        sm, max_sm, memory, power, limit, temperature = (float(told.get(field) or "nan") for field in NUMBERS)
        throttle = int(reasons, 0)
    except ValueError as error:
        raise MissingError(f"nvidia-smi: unexpected answer {text[:80]!r}", "update the NVIDIA driver") from error
    name, driver, pstate = (told.get(field, "") for field in STATE_FIELDS[:3])
    return GpuState(name, driver, pstate, sm, max_sm, memory, power, limit, temperature, throttle)


@contextmanager
def watched() -> Iterator[list[GpuState]]:
    """Clocks, power and temperature of the card while the block runs.

    Afterwards the list holds the state before, the busiest one (lowest clock, all reasons for throttling seen) and the
    last. Where nvidia-smi is missing or fails the list stays empty and a warning says so: that loses no result.
    """
    states: list[GpuState] = []
    done = threading.Event()

    def sample() -> None:
        try:
            bus = pci_bus_id()
            while True:
                states.append(gpu_state(bus))
                if done.wait(SAMPLE_SECONDS):
                    break
            states.append(gpu_state(bus))
        except MissingError as error:
            log.warning("clocks and power are unknown: %s", error.problem)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield states
    finally:
        done.set()
        thread.join()
        states[:] = summarized(states)


def summarized(states: Sequence[GpuState]) -> list[GpuState]:
    """First, busiest and last state; a throttled card is warned about."""
    if not states:
        return []
    between = states[1:-1] or states[-1:]
    slowest = min(between, key=lambda state: (math.isnan(state.sm_mhz), state.sm_mhz))
    reasons = functools.reduce(operator.or_, (state.throttle for state in between))
    busiest = replace(slowest, throttle=reasons)
    if busiest.throttled:
        log.warning(
            "the GPU is throttled (reasons 0x%x, %g of %g MHz): its latencies are not the card's best",
            busiest.throttle,
            busiest.sm_mhz,
            busiest.max_sm_mhz,
        )
    return [states[0], busiest, states[-1]]
