"""INT8 by NVIDIA ModelOpt, which runs in an environment of its own: it pins other versions of ONNX and ONNX Runtime.

ModelOpt puts Q/DQ nodes where TensorRT has a use for them: symmetric scales, per channel for weights, per tensor for
activations; small products and some additions stay in floating point.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from trtasr.errors import BuildError, MissingError
from trtasr.values import Array

METHODS = {"modelopt max": "max", "modelopt entropy": "entropy"}
PROGRAM = ("-I", "-m", "modelopt.onnx.quantization")  # isolated: nothing of the project's environment is imported
ENVIRONMENT = "give --modelopt the Python of an environment that has ModelOpt, made as docs/development.md says"


def check(python: str) -> None:
    """See that an interpreter can start ModelOpt, before anything that takes long.

    Args:
        python: path of the interpreter.

    Raises:
        MissingError: there is no such interpreter, or its environment lacks something.
    """
    status, text = run(python, ["--help"], os.environ)
    if status:
        raise MissingError(f"{python}: ModelOpt cannot be started: {last_line(text)}", ENVIRONMENT)


def quantize(source: Path, file: Path, inputs: Iterable[Mapping[str, Array]], method: str, python: str) -> None:
    """Write one graph with Q/DQ nodes, in and out float32, axes as they were.

    Args:
        source: FP32 graph.
        file: for the result; in a folder that takes intermediate files too.
        inputs: of the graph, a recording each, all of the same shapes.
        method: of calibration, a value of `METHODS`.
        python: path of an interpreter that has ModelOpt.

    Raises:
        MissingError: there is no such interpreter. BuildError: ModelOpt failed.
    """
    graph, data = file.parent / f"source.{source.name}", file.parent / f"inputs.{source.stem}.npz"
    shutil.copy(source, graph)  # ModelOpt writes the shapes that it infers into the file that it reads
    np.savez(data, allow_pickle=False, **joined(inputs))
    flags = [
        *("--onnx_path", str(graph), "--output_path", str(file)),
        *("--quantize_mode", "int8", "--high_precision_dtype", "fp32"),
        *("--calibration_method", method, "--calibration_data_path", str(data), "--calibration_eps", "cpu"),
    ]
    status, text = run(python, flags, {**os.environ, "TMPDIR": str(file.parent)})
    if status or not file.is_file():
        raise BuildError(
            f"{source.name}: ModelOpt ended with status {status}: {last_line(text)}",
            "compare the versions in its environment with those of docs/development.md, or choose peers with --only",
        )


def joined(inputs: Iterable[Mapping[str, Array]]) -> dict[str, Array]:
    """All recordings' inputs along their first axes; ModelOpt cuts them into as many equal runs again."""
    runs = list(inputs)
    return {name: np.concatenate([item[name] for item in runs]) for name in runs[0]}


def run(python: str, flags: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Exit status of ModelOpt, and all that it prints.

    Raises:
        MissingError: there is no such interpreter.
    """
    command = [python, *PROGRAM, *flags]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, errors="replace", check=False
        )
    except OSError as error:
        raise MissingError(f"{python}: cannot be run ({error.strerror})", ENVIRONMENT) from error
    return done.returncode, done.stdout


def last_line(text: str) -> str:
    """The end of what a program printed, where Python says why it failed."""
    return " ".join((text.strip().splitlines() or ["no message"])[-1].split())[:300]
