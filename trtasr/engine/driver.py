"""Whether the NVIDIA driver is new enough for the TensorRT that is installed.

With a driver that is too old ``cuInit`` succeeds and TensorRT answers null wherever it should give an object.
"""

import ctypes
import os
import re
from importlib import metadata
from typing import Any

from trtasr.errors import MissingError

CUDA_MAJORS = (12, 13, 14)  # whose builds of TensorRT are looked for
IMAGE_OF_TENSORRT = ("TENSORRT_VERSION", "TRT_VERSION")  # set in NVIDIA's images
CUDA12_INSTALL = "pip install tensorrt-cu12==10.16.1.11"
UPDATE = (
    "update the NVIDIA driver (TensorRT for CUDA 13 needs 580 or newer, for CUDA 12 525 or newer; `nvidia-smi` names "
    f"yours), or install the build for CUDA 12: {CUDA12_INSTALL}"
)


def driver_cuda(libcuda: Any) -> tuple[int, int]:
    """Newest CUDA version that the driver runs, (major, minor); needs no GPU.

    Args:
        libcuda: the driver library.

    Raises:
        MissingError: the driver does not say.
    """
    version = ctypes.c_int()
    status = libcuda.cuDriverGetVersion(ctypes.byref(version))
    if status != 0:
        raise MissingError(f"the NVIDIA driver does not tell its version (CUDA error {status})", UPDATE)
    return version.value // 1000, version.value % 1000 // 10


def tensorrt_cuda() -> int | None:
    """Major CUDA version that the installed TensorRT was built for; None where nothing tells.

    The package's name has it (``tensorrt-cu12``). In NVIDIA's TensorRT images, whose package has another name, it is
    the CUDA of the image. Of several packages the oldest counts: refusing what works is worse than refusing later.
    """
    for major in CUDA_MAJORS:
        if any(installed(f"tensorrt-cu{major}{part}") for part in ("", "-bindings", "-libs")):
            return major
    if not any(name in os.environ for name in IMAGE_OF_TENSORRT):
        return None
    image = re.match(r"\d+", os.environ.get("CUDA_VERSION", ""))
    return int(image[0]) if image else None


def installed(package: str) -> bool:
    """True where a Python package of that name is installed."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def check_driver(libcuda: Any) -> None:
    """Refuse a driver that is older than the CUDA of the installed TensorRT.

    A driver runs all of its own major version and everything older.

    Args:
        libcuda: the driver library.

    Raises:
        MissingError: it is too old, or does not tell its version.
    """
    needed = tensorrt_cuda()
    if needed is None:
        return
    major, minor = driver_cuda(libcuda)
    if major < needed:
        raise MissingError(
            f"the NVIDIA driver runs CUDA up to {major}.{minor}, but the TensorRT here was built for CUDA {needed}",
            UPDATE,
        )
