"""Run passes in order. With TRTASR_DUMP=FOLDER in the environment the graph after each of them lies there."""

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import onnx

from trtasr.files.disk import writing
from trtasr.graph.edit import write_model

VARIABLE = "TRTASR_DUMP"

Pass = Callable[[onnx.ModelProto], onnx.ModelProto]


def passed(model: onnx.ModelProto, passes: Iterable[Pass], name: str, first: int = 1) -> onnx.ModelProto:
    """The graph after all passes.

    Args:
        model: not changed.
        passes: in order.
        name: of what is made, as in ``t4-rtx.model``; dumped graphs are ``<name>.<number>-<pass>.onnx``.
        first: number of the first pass.
    """
    for number, change in enumerate(passes, first):
        model = change(model)
        dump(model, f"{name}.{number:02d}-{pass_name(change)}")
    return model


def pass_name(change: Callable[..., object]) -> str:
    """Name of a pass; of one with settings that of the function."""
    return pass_name(change.func) if isinstance(change, partial) else getattr(change, "__name__", type(change).__name__)


def dump(model: onnx.ModelProto, name: str) -> None:
    """Write a graph for whoever asks for it.

    Raises:
        UsageError: the folder cannot be written. DiskError: the disk takes no more.
    """
    if folder := os.environ.get(VARIABLE):
        with writing(Path(folder), f"name another folder in {VARIABLE}, or leave it out"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            write_model(model, Path(folder) / f"{name}.onnx")
