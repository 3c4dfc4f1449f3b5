"""Engines built by TensorRT for the GPU that is here: target `t4` on a T4 host."""

import importlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtasr.engine.calibrator import Source, require_calibrators, write_source
from trtasr.engine.child import Product, build_plan
from trtasr.engine.device import load_driver, load_libcuda
from trtasr.engine.driver import CUDA12_INSTALL, check_driver
from trtasr.engine.evidence import kept
from trtasr.engine.inspect import attribute_macs, inspector_layers
from trtasr.engine.profile import Shapes
from trtasr.errors import MissingError
from trtasr.files.scratch import scratch
from trtasr.results import Built

log = logging.getLogger(__name__)

TRT_MINIMUM = (10, 12)
BROKEN = (11, 0)  # 11.0 was built without sm_75; 11.1 has it again
T4_CAPABILITY = (7, 5)
RTX_OFFER = "use TARGET=t4-rtx: it builds for compute capability 7.5 without a GPU"


@dataclass(frozen=True)
class Host:
    """The GPU and the TensorRT of this machine.

    Attributes:
        gpu: name; capability: (major, minor).
        tensorrt: version.
    """

    gpu: str
    capability: tuple[int, int]
    tensorrt: str


@dataclass(frozen=True)
class TensorrtOptions:
    """How TensorRT builds.

    Attributes:
        source: calibrator's scales or batches: implicit quantization; None: the graph's own Q/DQ nodes and types.
        workspace_mb: limit of the builder's scratch memory in MiB; 0: all of the GPU's.
        timing_cache: file; None: the default of this GPU and TensorRT, see `timing_cache_path`.
        floating: with a calibrator: nodes that stay in FP16, though they may have scales.
        evidence: folder for the builder's whole log and the inspector's JSON (`trtasr.engine.evidence`); None: neither
            is kept.
    """

    source: Source | None = None
    workspace_mb: int = 0
    timing_cache: Path | None = None
    floating: tuple[str, ...] = ()
    evidence: Path | None = None


def require_tensorrt(calibrator: str = "") -> Host:
    """Refuses a machine that cannot build for ``t4``, naming everything that is missing.

    Args:
        calibrator: algorithm of implicit quantization, which TensorRT 11 lacks; empty: explicit.

    Raises:
        MissingError: no TensorRT of a usable version, no pycuda, no driver or one too old for that TensorRT, no GPU.
    """
    found: list[Any] = []
    missing: list[MissingError] = []
    for load in (load_tensorrt, load_checked_driver, load_driver):
        try:
            found.append(load())
        except MissingError as error:
            missing.append(error)
    if missing:
        problems, repairs = ([getattr(error, key) for error in missing] for key in ("problem", "repair"))
        raise MissingError(
            f"target t4 needs a T4 host: {'; '.join(problems)}", "; ".join(dict.fromkeys([RTX_OFFER, *repairs]))
        )
    trt, _, cuda = found
    if calibrator:
        require_calibrators(trt, calibrator)
    device = cuda.Device(0)
    host = Host(device.name(), device.compute_capability(), trt.__version__)
    if host.capability != T4_CAPABILITY:
        log.warning(
            "this GPU is a %s (sm_%d%d), not a T4 (sm_75): the plans and every figure are this card's",
            host.gpu,
            *host.capability,
        )
    return host


def load_checked_driver() -> Any:
    """The CUDA driver library; looked at before pycuda and TensorRT touch it, which say less about one that is too old.

    Raises:
        MissingError: no NVIDIA driver, or one that is too old for the installed TensorRT.
    """
    libcuda = load_libcuda()
    check_driver(libcuda)
    return libcuda


def almost_a_host() -> bool:
    """True where TensorRT or an NVIDIA driver is here: the machine was probably meant to build for ``t4``."""
    for load in (load_libcuda, load_tensorrt):
        try:
            load()
        except MissingError:
            continue
        return True
    return False


def load_tensorrt() -> Any:
    """The module tensorrt.

    Raises:
        MissingError: not installed, cannot be loaded, or a version that cannot build for sm_75.
    """
    try:
        trt = importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        raise MissingError("TensorRT is not installed", CUDA12_INSTALL) from error
    except (ImportError, OSError) as error:
        raise MissingError(f"TensorRT cannot be loaded: {str(error).splitlines()[0]}", CUDA12_INSTALL) from error
    if not hasattr(trt, "__version__"):  # Python takes any folder of that name for a package
        raise MissingError(
            f"TensorRT is not installed; {next(iter(trt.__path__))} is a folder of that name", CUDA12_INSTALL
        )
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if version < TRT_MINIMUM or version == BROKEN:
        raise MissingError(
            f"TensorRT {trt.__version__} cannot build strongly typed INT8 for sm_75 (10.12 to 10.16 and "
            "11.1 or newer can)",
            CUDA12_INSTALL,
        )
    return trt


def build_tensorrt(
    onnx_path: Path, plan_path: Path, profile: Shapes, macs: Mapping[str, int], options: TensorrtOptions, host: Host
) -> Built:
    """Builds a TensorRT engine for the GPU that is here, in a child process.

    Args:
        onnx_path: strongly typed graph (FP16 with Q/DQ, FP16 or FP32), or the plain FP32 graph for a calibrator.
        plan_path: engine file to write, ``<bundle>/t4/<name>.plan``; appears only when it is complete.
        profile: accepted input shapes.
        macs: FP32 node name -> multiply-accumulates per second of audio, for the layer table.
        options: calibrator, memory, timing cache.
        host: from `require_tensorrt`.

    Returns:
        Built: path ``t4/<name>.plan``, the engine inspector's layer table, the builder's facts in `Built.details`.

    Raises:
        MissingError: TensorRT cannot be loaded, or gives no builder. BuildError: the builder refused the graph, or a
        calibrator has no scale for a convolution. NoKernelError: it has no kernel for the named nodes.
    """
    timing = options.timing_cache or timing_cache_path(host)
    request = {
        "library": "tensorrt",
        "onnx": str(onnx_path),
        "shapes": profile.shapes(),
        "busy": profile.busy_shapes(),
        "timing_cache": str(timing),
        "workspace_mb": options.workspace_mb,
        "floating": options.floating,
    }
    product = Product(f"TensorRT {host.tensorrt}", "tensorrt", CUDA12_INSTALL)
    log.info("building %s for %s with TensorRT %s (timing cache %s)", plan_path.name, host.gpu, host.tensorrt, timing)
    with scratch() as folder, kept(options.evidence) as evidence:
        if options.source is not None:
            write_source(folder / "calibration.npz", options.source)
            request["calibration"] = str(folder / "calibration.npz")
        done = build_plan({**request, **evidence}, onnx_path, plan_path, product)
    if done.report.get("unsaved"):
        log.warning(
            "the timing cache cannot be kept (%s): the next build measures every kernel again", done.report["unsaved"]
        )
    details = {
        "capability": "sm{}{}".format(*host.capability),
        "gpu": host.gpu,
        "tensorrt": done.report["version"],
        "build_seconds": done.seconds,
        "profile": profile.shapes(),
        "busy_profile": profile.busy_shapes(),
        "quantization": "implicit" if options.source else "explicit",
        "warnings": len(done.report["warnings"]),
        "missing_scales": missing_scales(done.report["warnings"]),
        "sha256": done.sha256,
    }
    layers = attribute_macs(inspector_layers(done.report["layers"]), macs)
    return Built(f"{plan_path.parent.name}/{plan_path.name}", done.size_bytes, layers, details)


def missing_scales(warnings: Sequence[str]) -> int:
    """Tensors for which implicit quantization found no scale; the layers around them run in FP16 or FP32."""
    missing = [message for message in warnings if "Missing scale and zero-point" in message]
    if missing:
        log.warning("TensorRT has no scale for %d tensors: %s", len(missing), missing[0])
    return len(missing)


def timing_cache_path(host: Host) -> Path:
    """Where the timings of this GPU and this TensorRT are kept between builds: both decide which kernels win.

    ``$XDG_CACHE_HOME/trtasr/timing-<gpu>-<version>.cache``, by default below ``~/.cache``.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trtasr"
    return folder / f"timing-{re.sub(r'[^A-Za-z0-9]+', '-', host.gpu)}-{host.tensorrt}.cache"
