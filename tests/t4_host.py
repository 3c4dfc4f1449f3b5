"""A T4 host made of ONNX Runtime and host memory (tests/fakes), for compiles that only such a machine can do."""

import importlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_archive import write_archive, write_manifest
from whisper_folder import write_folder

from trtasr.cli import main
from trtasr.engine import build_tensorrt, cuda_graph

FAKES = Path(__file__).parent / "fakes"
SMI = """#!/bin/sh
echo "Tesla T4 (fake), 580.1, P0, 1590, 1590, 5001, 60.1, 70.0, 50, 0x0000000000000000"
"""
CHANGES = [
    "calibration.batches=2",
    "calibration.steps=2",
    "calibration.seconds=1.5",
    "evaluation.bench_seconds=[1.0]",
    "evaluation.max_wer_increase=100000",
    "evaluation.gpu_seconds=[0.5, 60.0]",
    "evaluation.gpu_batches=[1, 2]",
]
FAST = [part for change in CHANGES for part in ("--set", change)]


@contextmanager
def t4_host(folder: Path) -> Iterator[Path]:
    """A machine with nvidia-smi, pycuda and TensorRT, for the build processes too.

    Its folder has ``tiny.nemo``, ``whisper``, which hears two seconds, and speech, ``manifest.json``.
    """
    smi = folder / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(SMI)
    smi.chmod(0o755)
    write_archive(folder / "tiny.nemo")
    write_folder(folder / "whisper")
    write_manifest(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("PYTHONPATH", str(FAKES))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.syspath_prepend(str(FAKES))
        patch.setattr(cuda_graph, "load_libcuda", lambda: importlib.import_module("pycuda.driver").libcuda)
        patch.setattr(build_tensorrt, "load_libcuda", lambda: None)
        patch.setattr("trtasr.pipeline.speed.WARM_SECONDS", 0.0)
        yield folder
    for name in [name for name in sys.modules if name.split(".")[0] in ("tensorrt", "pycuda")]:
        del sys.modules[name]


def compiled(folder, out, *flags, model="tiny.nemo", code=0):
    """The bundle of a compile for ``t4`` on such a machine."""
    speech = ["--manifest", str(folder / "manifest.json")]
    command = ["compile", str(folder / model), *speech, "-o", str(out), "-q", *FAST, "--target", "t4", *flags]
    assert main(command) == code
    return out


def read(out, name):
    """A JSON file of a bundle."""
    return json.loads((out / name).read_text(encoding="utf-8"))


def header(out, name):
    """What the fake builder wrote at the head of a plan."""
    return json.loads((out / name).read_bytes().split(b"\n")[1])
