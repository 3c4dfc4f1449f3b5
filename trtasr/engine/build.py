"""Engines for the T4's compute capability 7.5, built ahead of time by TensorRT for RTX; no GPU is needed."""

import ctypes
import hashlib
import json
import logging
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from trtasr.engine.inspect import attribute_macs, parse_layers
from trtasr.errors import BuildError, MissingError, UsageError
from trtasr.values import Engine

log = logging.getLogger(__name__)

CAPABILITY = "sm75"
RTX_PACKAGES = ("tensorrt-rtx-cu12", "tensorrt-rtx-cu13", "tensorrt-rtx")
RTX_MINIMUM = (1, 7, 1)
RTX_INSTALL = "pip install 'tensorrt-rtx-cu12>=1.7.1'"
RTX_REINSTALL = "pip install --force-reinstall 'tensorrt-rtx-cu12>=1.7.1'"
ADDR_NO_RANDOMIZE, QUERY = 0x0040000, 0xFFFFFFFF  # personality(2)
FRAME_MULTIPLE = 16  # front-ends pad utterances to a multiple of 16 frames: the largest shape must leave room for it


@dataclass(frozen=True)
class Profile:
    """The range of input shapes an engine accepts, in seconds of audio.

    Attributes:
        batches: utterances per batch: smallest, usual, largest. Kernels are tuned for the usual shape.
        seconds: seconds of audio per utterance: shortest, usual, longest.
        frames_per_second: feature frames per second of audio.
        mel_bins: of the front-end.
    """

    batches: tuple[int, int, int]
    seconds: tuple[float, float, float]
    frames_per_second: float
    mel_bins: int

    def __post_init__(self) -> None:
        for key, values in (("batches", self.batches), ("seconds", self.seconds)):
            smallest, usual, largest = values
            if not 0 < smallest <= usual <= largest:
                raise UsageError(f"profile {key}={values} is not 0 < min <= opt <= max", f"put {key} in that order")

    def shapes(self) -> dict[str, list[list[int]]]:
        """Input name -> [min, opt, max] shape, for ``features`` [B, mel, T] and ``lengths`` [B].

        Frames are rounded down for the shortest utterance and up to a multiple of 16 for the others.
        """
        shortest = max(1, math.floor(self.seconds[0] * self.frames_per_second))
        frames = [shortest, *(_padded(seconds * self.frames_per_second) for seconds in self.seconds[1:])]
        features = [[batch, self.mel_bins, count] for batch, count in zip(self.batches, frames, strict=True)]
        return {"features": features, "lengths": [[batch] for batch in self.batches]}


def _padded(frames: float) -> int:
    # A centred transform of S seconds has one frame more than S * frames_per_second.
    return math.ceil((math.ceil(frames) + 1) / FRAME_MULTIPLE) * FRAME_MULTIPLE


def rtx_version() -> str | None:
    """Version of the installed TensorRT for RTX package; None when there is none. Loads no library."""
    for package in RTX_PACKAGES:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None


def build_rtx(onnx_path: Path, plan_path: Path, profile: Profile, macs: Mapping[str, int]) -> Engine:
    """Builds a TensorRT for RTX engine for compute capability 7.5.

    The build runs in a child process, which Ctrl-C ends. The plan appears at `plan_path` only when it is complete.
    Address randomization is off in the child and its threads take turns on one core, because heap addresses reach the
    plan: the same graph then gives the same bytes. `Engine.details` says ``reproducible: false`` where randomization
    could not be switched off.

    Args:
        onnx_path: strongly typed graph, FP16 outside its INT8 regions.
        plan_path: engine file to write, ``<bundle>/<target>/model.plan``.
        profile: accepted input shapes.
        macs: FP32 node name -> multiply-accumulates per second of audio, for the layer table.

    Returns:
        Engine: path ``<target>/model.plan``, layer table, and the builder's facts in `Engine.details`.

    Raises:
        MissingError: TensorRT for RTX is not installed, too old, or cannot be loaded.
        BuildError: the builder refused the graph, or built for another capability.
    """
    require_rtx()
    log.info("building %s for %s", plan_path.name, CAPABILITY)
    start = time.perf_counter()
    plan_path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=plan_path.parent) as folder:
        partial = Path(folder) / plan_path.name
        report = _run_child(onnx_path, partial, profile)
        if "missing" in report:
            raise MissingError(f"TensorRT for RTX cannot be loaded: {report['missing']}", RTX_REINSTALL)
        if not report["ok"]:
            raise _refusal(onnx_path, report["errors"])
        plan = partial.read_bytes()
        capability = _capability(plan, onnx_path)
        partial.replace(plan_path)
    seconds = time.perf_counter() - start
    log.info("built %s: %.1f MB in %.1f s", plan_path.name, len(plan) / 1e6, seconds)
    details = {
        "capability": capability,
        "tensorrt_rtx": report["version"],
        "build_seconds": round(seconds, 2),
        "activation_bytes": report["memory"].get("activation", 0),
        "weights_bytes": report["memory"].get("weights", 0),
        "profile": profile.shapes(),
        "reproducible": report["reproducible"],
        "warnings": len(report["warnings"]),
        "sha256": hashlib.sha256(plan).hexdigest(),
    }
    layers = attribute_macs(parse_layers(report["layers"]), macs)
    return Engine("t4-rtx", f"{plan_path.parent.name}/{plan_path.name}", len(plan), layers, details)


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


def _run_child(onnx_path: Path, plan: Path, profile: Profile) -> dict[str, Any]:
    report = plan.with_name("report.json")
    request = {"onnx": str(onnx_path), "plan": str(plan), "report": str(report), "shapes": profile.shapes()}
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    with _fixed_addresses() as fixed:
        child = subprocess.run(  # ends the child on any exception here, KeyboardInterrupt included
            [sys.executable, "-P", "-m", "trtasr.engine.rtx_child"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )
    if child.returncode != 0 or not report.is_file():
        reason = child.stderr.strip().splitlines()[-1:] or ["no message"]
        raise _refusal(onnx_path, [f"the builder process ended with status {child.returncode}: {reason[0]}"])
    answer: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return {**answer, "reproducible": fixed}


@contextmanager
def _fixed_addresses() -> Iterator[bool]:
    """Starts child processes at fixed addresses; yields False where the system does not allow that.

    TensorRT for RTX 1.7.1 numbers symbolic dimensions in the order of a hash of addresses: with address-space
    randomization a few bytes of the plan differ from build to build.
    """
    libc = ctypes.CDLL(None)
    before = libc.personality(QUERY) if sys.platform == "linux" else -1
    fixed = before != -1 and libc.personality(before | ADDR_NO_RANDOMIZE) != -1
    if not fixed:
        log.warning("address randomization cannot be switched off here: plans of one graph may differ in a few bytes")
    try:
        yield fixed
    finally:
        if fixed:
            libc.personality(before)


def _capability(plan: bytes, onnx_path: Path) -> str:
    found = b" ".join(re.findall(rb"accelerators=\{ *([^}]*?) *\}", plan)).decode()
    if found != CAPABILITY:
        raise _refusal(onnx_path, [f"the plan is for {found or 'an unknown device'}, not for {CAPABILITY}"])
    return found


def _refusal(onnx_path: Path, errors: list[str]) -> BuildError:
    reasons = "\n  ".join(dict.fromkeys(error.strip() for error in errors[:8])) or "no reason given"
    return BuildError(
        f"TensorRT for RTX could not build {onnx_path}:\n  {reasons}",
        "keep the named operation out of this target, or compile for another one (--target cpu)",
    )
