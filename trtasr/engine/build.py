"""Engines built ahead of time by TensorRT for RTX, for the T4's compute capability 7.5 and others; no GPU is needed."""

import logging
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from trtasr.engine.child import Product, build_plan
from trtasr.engine.inspect import attribute_macs, parse_layers
from trtasr.engine.profile import Shapes
from trtasr.errors import MissingError
from trtasr.results import Built

log = logging.getLogger(__name__)

CAPABILITY = "sm75"
RTX_PACKAGES = ("tensorrt-rtx-cu12", "tensorrt-rtx-cu13", "tensorrt-rtx")
RTX_MINIMUM = (1, 7, 1)
RTX_INSTALL = "pip install 'tensorrt-rtx-cu12>=1.7.1'"
RTX_REINSTALL = "pip install --force-reinstall 'tensorrt-rtx-cu12>=1.7.1'"


def rtx_version() -> str | None:
    """Version of the installed TensorRT for RTX package; None when there is none. Loads no library."""
    for package in RTX_PACKAGES:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None


def build_rtx(
    onnx_path: Path, plan_path: Path, profile: Shapes, macs: Mapping[str, int], capability: str = CAPABILITY
) -> Built:
    """Builds a TensorRT for RTX engine for a compute capability.

    The build runs in a child process, which Ctrl-C ends. The plan appears at `plan_path` only when it is complete.
    Address randomization is off in the child and its threads take turns on one core, because heap addresses reach the
    plan: the same graph then gives the same bytes. `Built.details` says ``reproducible: false`` where randomization
    could not be switched off.

    Args:
        onnx_path: strongly typed graph, FP16 outside its INT8 regions.
        plan_path: engine file to write, ``<bundle>/<target>/model.plan``.
        profile: accepted input shapes.
        macs: FP32 node name -> multiply-accumulates per second of audio, for the layer table.
        capability: of the GPU the engine is for: ``sm75`` (T4), ``sm86``, ``sm89`` or ``sm120``.

    Returns:
        Built: path ``<target>/model.plan``, layer table, and the builder's facts in `Built.details`.

    Raises:
        MissingError: TensorRT for RTX is not installed, too old, or cannot be loaded.
        BuildError: the builder refused the graph, or built for another capability.
        NoKernelError: it has no kernel for the named nodes.
    """
    require_rtx()
    request = {
        "library": "tensorrt_rtx",
        "onnx": str(onnx_path),
        "shapes": profile.shapes(),
        "capabilities": [capability.upper()],
    }
    product = Product("TensorRT for RTX", "tensorrt_rtx", RTX_REINSTALL, capability)
    log.info("building %s for %s", plan_path.name, capability)
    done = build_plan(request, onnx_path, plan_path, product)
    details = {
        "capability": capability,
        "tensorrt_rtx": done.report["version"],
        "build_seconds": done.seconds,
        "activation_bytes": done.report["memory"].get("activation", 0),
        "weights_bytes": done.report["memory"].get("weights", 0),
        "profile": profile.shapes(),
        "reproducible": done.report["reproducible"],
        "warnings": len(done.report["warnings"]),
        "sha256": done.sha256,
    }
    layers = attribute_macs(parse_layers(done.report["layers"]), macs)
    return Built(f"{plan_path.parent.name}/{plan_path.name}", done.size_bytes, layers, details)


def require_rtx() -> None:
    """Refuses a machine that cannot build for ``t4-rtx``, by the installed package alone: fit for a first step.

    A library that is installed but cannot be loaded is found by `build_rtx`.

    Raises:
        MissingError: TensorRT for RTX is not installed or too old.
    """
    version = rtx_version()
    if version is None:
        raise MissingError("TensorRT for RTX is not installed; target t4-rtx needs it", RTX_INSTALL)
    if tuple(int(part) for part in version.split(".")[:3]) < RTX_MINIMUM:
        raise MissingError(f"TensorRT for RTX {version} builds wrong engines for {CAPABILITY}", RTX_INSTALL)
