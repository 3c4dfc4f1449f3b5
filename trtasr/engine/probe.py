"""What this machine can build and run, for `trtasr doctor`. Nothing here needs a GPU or raises without one."""

import ctypes
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trtasr.engine.build import RTX_INSTALL, RTX_MINIMUM
from trtasr.engine.build_tensorrt import load_checked_driver, load_tensorrt
from trtasr.engine.builder_probe import require_builder
from trtasr.engine.device import PYCUDA_INSTALL
from trtasr.engine.driver import driver_cuda, tensorrt_cuda
from trtasr.engine.sessions import cpu_facts, cpu_name
from trtasr.errors import MissingError

INT8_FLAGS = ("avx512_vnni", "avx_vnni", "amx_int8", "avx2", "asimddp")
COMPUTE_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
TARGET_T4 = "building and running target t4"


@dataclass(frozen=True)
class Capability:
    """One thing this machine has or lacks.

    Attributes:
        name: library or device.
        available: usable here.
        detail: version and device, or what is wrong.
        enables: what trtasr does with it, or will.
        repair: how to get it; empty when available.
    """

    name: str
    available: bool
    detail: str
    enables: str
    repair: str = ""


def probe() -> list[Capability]:
    """Looks for every library and device trtasr can use; takes about a second, on a T4 host a few."""
    pycuda = library("pycuda.driver", lambda module: (True, ".".join(map(str, module.get_version()))))
    polygraphy = library("polygraphy", lambda module: (True, str(module.__version__)))
    return [
        onnxruntime_here(),
        tensorrt_rtx_here(),
        tensorrt_here(),
        gpu_here(),
        driver_here(),
        builder_here(),
        capability_of("pycuda", pycuda, TARGET_T4, PYCUDA_INSTALL),
        capability_of("Polygraphy", polygraphy, "compare", "pip install 'polygraphy>=0.53.6,<0.60'"),
    ]


def library(module: str, describe: Callable[[Any], tuple[bool, str]]) -> tuple[bool, str]:
    """Imports a module and describes it; a library that cannot be loaded is a finding, not an error."""
    try:
        return describe(importlib.import_module(module))
    except (ImportError, OSError, RuntimeError) as error:
        return False, str(error).splitlines()[0] if str(error) else type(error).__name__


def capability_of(name: str, found: tuple[bool, str], enables: str, repair: str) -> Capability:
    """What was found of a library or device, with the repair only where it is absent."""
    available, detail = found
    return Capability(name, available, detail, enables, "" if available else repair)


def onnxruntime_here() -> Capability:
    """ONNX Runtime, its providers, and the processor's INT8 instructions."""

    def describe(module: Any) -> tuple[bool, str]:
        providers = ", ".join(name.removesuffix("ExecutionProvider") for name in module.get_available_providers())
        present = cpu_facts().get("flags", cpu_facts().get("Features", "")).split()
        flags = ", ".join(flag for flag in INT8_FLAGS if flag in present) or "no INT8 instructions known"
        return True, f"{module.__version__} ({providers}) on {cpu_name()} ({flags})"

    found = library("onnxruntime", describe)
    return capability_of("ONNX Runtime, CPU", found, "target cpu, latency and WER here", "pip install onnxruntime")


def tensorrt_rtx_here() -> Capability:
    """TensorRT for RTX, and whether it builds for the T4."""

    def describe(module: Any) -> tuple[bool, str]:
        version = tuple(int(part) for part in module.__version__.split(".")[:3])
        able = version >= RTX_MINIMUM and hasattr(module.ComputeCapability, "SM75")
        return able, f"{module.__version__}, {'builds' if able else 'cannot build'} for sm75"

    found = library("tensorrt_rtx", describe)
    return capability_of("TensorRT for RTX", found, "building target t4-rtx (no GPU needed)", RTX_INSTALL)


def tensorrt_here() -> Capability:
    """TensorRT, and the CUDA that it was built for."""
    return tried("TensorRT", lambda: f"{load_tensorrt().__version__}{for_cuda()}")


def for_cuda() -> str:
    """The CUDA that TensorRT was built for, in words; empty where nothing tells."""
    cuda = tensorrt_cuda()
    return f", built for CUDA {cuda}" if cuda else ""


def driver_here() -> Capability:
    """The driver's own CUDA version, against that of TensorRT."""
    return tried("NVIDIA driver", lambda: "runs CUDA up to {}.{}".format(*driver_cuda(load_checked_driver())))


def builder_here() -> Capability:
    """TensorRT's builder, in a process of its own; not tried where TensorRT or the driver is missing."""

    def built() -> str:
        load_tensorrt()
        load_checked_driver()
        require_builder()
        return "can be made"

    return tried("TensorRT's builder", built)


def tried(name: str, look: Callable[[], str]) -> Capability:
    """What `look` says of a library or device, or the problem and the repair that it ends with.

    Args:
        name: of the row.
        look: may raise MissingError.
    """
    try:
        return Capability(name, True, look(), TARGET_T4)
    except MissingError as error:
        return Capability(name, False, error.problem, TARGET_T4, error.repair)


def gpu_here() -> Capability:
    """NVIDIA GPUs, by the driver alone."""
    try:
        found = cuda_devices(ctypes.CDLL("libcuda.so.1"))
    except OSError:
        found = (False, "no NVIDIA driver (libcuda.so.1)")
    repair = "run on a host with an NVIDIA GPU and driver (docker run --gpus all)"
    return capability_of("NVIDIA GPU", found, TARGET_T4, repair)


def cuda_devices(cuda: Any) -> tuple[bool, str]:
    """Names and compute capabilities of the devices that the driver library `cuda` sees."""
    count = ctypes.c_int()
    status = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if status != 0 or count.value == 0:
        return False, f"the driver is installed but gives no device (CUDA error {status})"
    return True, "; ".join(cuda_device(cuda, ordinal) for ordinal in range(count.value))


def cuda_device(cuda: Any, ordinal: int) -> str:
    """Name and compute capability of one device."""
    device, name = ctypes.c_int(), ctypes.create_string_buffer(128)
    cuda.cuDeviceGet(ctypes.byref(device), ordinal)
    cuda.cuDeviceGetName(name, len(name), device)
    major, minor = ctypes.c_int(), ctypes.c_int()
    for value, attribute in zip((major, minor), COMPUTE_CAPABILITY, strict=True):
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return f"{name.value.decode()}, sm_{major.value}{minor.value}"
