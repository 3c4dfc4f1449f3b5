"""Follows one activation scale from the synthesis of the features to the built plan, and counts its hops.

    PYTHONPATH=CHECKOUT:tests python tests/tools/journey.py

compiles a tiny CTC model for ``t4-rtx`` with the package of that checkout and prints the route. The scale has a form
on every stretch of its way (`Form`). A function of the package is on the route that is entered with the present form,
or a later one, or the scale itself, among its arguments, or that hands one over: returns it, yields it or writes its
file. Each function counts once, where it is first entered; values may lie in a dataclass, a mapping or a list.

A hop is a function that hands the scale on. One that takes it and hands nothing of it on (a check, a look-up, the
integer-only graph) is a look aside, told with an ``o``: whoever reads the code meets it, but the road does not lead
there, nor into what it calls. The builder's own process counts as the function that starts it. The journey ends where
the engine is first returned.
"""

import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from enum import IntEnum
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
from tiny_archive import write_archive

import trtasr
from trtasr.cli.main import main

TENSOR = "/encoder/encoder.1/mconv.0/Mul_output_0"  # whose scale is followed: input of an INT8 product, not centered
SETTINGS = (
    "engine.activation_scales=static",
    "calibration.batches=1",
    "calibration.steps=3",
    "calibration.seconds=1.5",
    "evaluation.bench_seconds=[1.0]",
)
FEATURES = (64, 150)  # rows and frames of what is synthesized
OBSERVED = (75, 38)  # frames of an inner tensor: behind one stride, behind two
WRITTEN = (".lowered.onnx", ".plan")  # ends of the files that lead to the plan
ENGINE = b"accelerators={"  # stands in every plan
MOST = 200  # values that are looked at in a collection


class Form(IntEnum):
    """What the scale is made of, or is, as it goes along."""

    NONE = -1
    FEATURES = 0  # calibration features: a set, a batch
    VALUES = 1  # what the network computes of them
    HISTOGRAM = 2
    SCALE = 3  # the number, a `TensorScale`, a `ScaleTable`
    GRAPH = 4  # a graph with Q/DQ nodes
    LOWERED = 5  # the file that the builder reads
    PLAN = 6  # bytes or file of the plan


KINDS = {"CalibrationSet": Form.FEATURES, "Histogram": Form.HISTOGRAM, "ScaleTable": Form.SCALE}


class Journey:
    """A profiler (`sys.setprofile`) that notes the route.

    Args:
        numbers: the scale and its clipping magnitude.

    Attributes:
        route: file and function -> the form the scale had there, in order.
        hops: those of them that hand it on.
    """

    def __init__(self, numbers: set[float]) -> None:
        self.package = f"{Path(trtasr.__file__).parent}/"
        self.numbers, self.present, self.over = numbers, Form.FEATURES, False
        self.route: dict[tuple[str, str], Form] = {}
        self.hops: set[tuple[str, str]] = set()
        self.calls: list[tuple[bool, list[Path], Form, int]] = []

    def __call__(self, frame, event, value) -> None:
        code = frame.f_code
        if not self.over and event in ("call", "return") and code.co_filename.startswith(self.package):
            hop = None if "<" in code.co_name else (code.co_filename.removeprefix(self.package), code.co_qualname)
            if event == "call":
                count = code.co_argcount + code.co_kwonlyargcount
                self.enter(hop, [frame.f_locals.get(name) for name in code.co_varnames[:count]])
            elif self.calls:
                self.leave(hop, value)

    def enter(self, hop, arguments) -> None:
        form = max(map(self.form, arguments), default=Form.NONE) if hop else Form.NONE
        taken, before, length = self.carried(form), self.present, len(self.route)
        self.calls.append((taken, [path for path in paths(arguments) if not path.exists()], before, length))
        if taken:
            self.pass_by(hop, form)

    def leave(self, hop, value) -> None:
        taken, absent, before, length = self.calls.pop()
        returned = self.form(value) if hop else Form.NONE
        form = max([returned, *(self.form(path) for path in absent)])
        if self.carried(form):
            self.pass_by(hop, form)
            self.hops.add(hop)
        elif taken:  # a dead end
            self.present = before
            inner = [each for each in islice(self.route, length, None) if each != hop]
            self.route = {each: how for each, how in self.route.items() if each not in inner}
        self.over = returned == Form.PLAN

    def pass_by(self, hop, form) -> None:
        if hop:
            self.route.setdefault(hop, form)
            self.present = max(self.present, form)

    def carried(self, form) -> bool:
        return form >= self.present or form == Form.SCALE < self.present

    def form(self, value, depth=2) -> Form:
        """The form of the scale that a value is, or holds; NONE if it has nothing to do with it."""
        name = type(value).__name__
        if name in KINDS:
            return KINDS[name]
        if isinstance(value, onnx.ModelProto):
            return Form.GRAPH if any(node.op_type == "QuantizeLinear" for node in value.graph.node) else Form.NONE
        if isinstance(value, str | Path):
            return form_of_file(Path(value))
        if isinstance(value, bytes):
            return Form.PLAN if ENGINE in value else Form.NONE
        if name in ("Tensor", "ndarray"):
            return self.form_of_array(value)
        if name == "TensorScale":
            return self.form(value.amax)
        if isinstance(value, onnx.TensorProto):
            return Form.NONE if value.dims else self.form(onnx.numpy_helper.to_array(value))
        if isinstance(value, float | np.floating):
            return Form.SCALE if float(value) in self.numbers else Form.NONE
        return max((self.form(part, depth - 1) for part in parts(value)), default=Form.NONE) if depth else Form.NONE

    def form_of_array(self, value) -> Form:
        if value.ndim == 3 and tuple(value.shape[1:]) == FEATURES:
            return Form.FEATURES
        if not isinstance(value, np.ndarray):
            return Form.NONE
        if value.size == 1 and value.dtype.kind == "f":
            return self.form(float(value.ravel()[0]))
        return Form.VALUES if value.ndim > 1 and value.shape[-1] in OBSERVED else Form.NONE


def form_of_file(path: Path) -> Form:
    """LOWERED and PLAN, by the file's name, once it is there; names relative to a bundle are of files that are."""
    if path.name == str(path) or not path.name.endswith(WRITTEN) or (path.is_absolute() and not path.exists()):
        return Form.NONE
    return Form.PLAN if path.suffix == ".plan" else Form.LOWERED


def parts(value) -> Iterable[object]:
    """What a value directly holds; initializers by name are the graph's, not the scale's."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        return [part for part in islice(value.values(), MOST) if not isinstance(part, onnx.TensorProto)]
    return value[:MOST] if isinstance(value, list | tuple) else ()


def paths(arguments) -> list[Path]:
    """Files among arguments, or in a mapping among them, that lead to the plan."""
    flat = [part for each in arguments for part in (each.values() if isinstance(each, Mapping) else (each,))]
    return [Path(part) for part in flat if isinstance(part, str | Path) and str(part).endswith(WRITTEN)]


@contextmanager
def profiled(journey: Journey):
    before = sys.getprofile()
    sys.setprofile(journey)
    try:
        yield
    finally:
        sys.setprofile(before)


def compile_into(folder: Path, name: str) -> Path:
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    flags = ["-o", str(folder / name), "--calib-dir", str(folder / f"{name}.calib"), "--target", "t4-rtx", "-q"]
    assert main(["compile", str(folder / "tiny.nemo"), *flags, *settings]) == 0
    return folder / name


def travel(folder: Path) -> Journey:
    """Compile twice: once to know the scale, once to follow it."""
    write_archive(folder / "tiny.nemo")
    scales = json.loads((compile_into(folder, "known") / "scales.json").read_text("utf-8"))
    entry = scales["activations"][TENSOR]
    journey = Journey({entry["amax"], entry["scale"]})
    with profiled(journey):
        compile_into(folder, "followed")
    return journey


def told(journey: Journey) -> str:
    """The route, a function a line, and how many of them are hops."""
    lines = [
        f"{'-' if each in journey.hops else 'o'} {form.name.lower():9} {each[0]}  {each[1]}"
        for each, form in journey.route.items()
    ]
    hops = [each for each in journey.route if each in journey.hops]
    files = {file for file, _ in hops}
    aside = len(journey.route) - len(hops)
    return "\n".join([*lines, f"{len(hops)} hops through {len(files)} files, and {aside} looks aside"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(told(travel(Path(folder))))
