"""Run passes in order. With TRTASR_DUMP=FOLDER in the environment the graph after each of them lies there."""

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import onnx

from trtasr.errors import UsageError
from trtasr.files.disk import writing
from trtasr.graph.edit import write_model

VARIABLE = "TRTASR_DUMP"

Pass = Callable[[onnx.ModelProto], onnx.ModelProto]


def passed(model: onnx.ModelProto, passes: Iterable[Pass], name: str, maker: str = "") -> onnx.ModelProto:
    """The graph after all passes.

    Args:
        model: not changed.
        passes: in order.
        name: of what is made, as in ``t4-rtx.model``; dumped graphs are ``<name>.<number>-<pass>.onnx``.
        maker: what has made the given graph, where that counts as the first pass.

    Raises:
        UsageError: the folder cannot be written. DiskError: the disk takes no more.
    """
    folder = os.environ.get(VARIABLE, "")
    if folder and maker:
        dump(model, Path(folder) / f"{name}.01-{maker}.onnx")
    for number, change in enumerate(passes, 2 if maker else 1):
        model = change(model)
        if folder:
            dump(model, Path(folder) / f"{name}.{number:02d}-{pass_name(change)}.onnx")
    return model


def check_dump(out: Path) -> None:
    """Refuse, before any work, a folder that graphs cannot be dumped to, or that would spoil the bundle.

    Args:
        out: where the bundle will be.

    Raises:
        UsageError: the folder cannot be written, or is the bundle's own. DiskError: the disk takes no more.
    """
    if folder := os.environ.get(VARIABLE):
        other = f"name another folder in {VARIABLE}, or leave it out"
        if Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(out)):
            raise UsageError(f"{VARIABLE}={folder}: lies in {out}, where the bundle will be", other)
        with writing(Path(folder), other):
            Path(folder).mkdir(parents=True, exist_ok=True)


def pass_name(change: Callable[..., object]) -> str:
    """Name of a pass; of one with settings that of the function."""
    return pass_name(change.func) if isinstance(change, partial) else getattr(change, "__name__", type(change).__name__)


def dump(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph for whoever asks for it."""
    with writing(path.parent, f"name another folder in {VARIABLE}, or leave it out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_model(model, path)
