"""Counts what TensorRT for RTX, in the place of TensorRT, makes of the graphs that target t4 builds from.

    PYTHONPATH=tests python tests/tools/count_layers.py MODEL [--capability sm86]

MODEL is an archive, a Hugging Face folder or a bundled name; its first part is counted. Prints a line for every plan
(INT8, FP16) of every form: as exported (one-dimensional, all masks), one-dimensional, four-dimensional, and that with
Q/DQ behind ReLUs (chains): layers of the parsed network, UNSQUEEZE and SQUEEZE among them, and the kernels of a plan
built for another GPU than a T4, which TensorRT for RTX has other kernels for: all, those with INT8 data and weights,
those of these that write INT8, and those that quantize or dequantize alone. Nothing is timed.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import tensorrt_rtx as trt
from t4_graphs import First, first_part

from trtasr.engine.build import build_rtx
from trtasr.graph.conv2d import conv1d_to_conv2d
from trtasr.graph.masks import drop_pointwise_masks
from trtasr.recipe import EngineShapes
from trtasr.results import counts_of
from trtasr.targets import T4, Target, targets_of
from trtasr.zoo.network import bundled

FORMS = {
    "as exported": (drop_pointwise_masks, conv1d_to_conv2d),
    "one-dimensional": (conv1d_to_conv2d,),
    "four-dimensional": (),
}  # name -> passes that are left out
PLANS = {"int8": T4, "fp16": T4.baselines[0]}
[CHAINED] = targets_of(EngineShapes(target="t4", chains="on"))


@dataclass(frozen=True)
class Counts:
    """What one graph becomes.

    Attributes:
        layers: of the parsed network.
        shuffles: UNSQUEEZE and SQUEEZE among them.
        kernels: of the plan.
        int8: kernels that read INT8 data and INT8 weights; written: those of them that write INT8.
        pairs: kernels that quantize or dequantize alone.
    """

    layers: int
    shuffles: int
    kernels: int
    int8: int
    written: int
    pairs: int


def without(target: Target, left_out: tuple[object, ...]) -> Target:
    """The target without some of its passes."""
    return replace(target, passes=tuple(change for change in target.passes if change not in left_out))


def counted(part: First, target: Target, folder: Path, capability: str = "sm86") -> Counts:
    """Lower, parse and build one graph."""
    graph = folder / "lowered.onnx"
    onnx.save(part.lowered(target), graph)
    kinds = parsed(graph)
    made = counts_of(build_rtx(graph, folder / "model.plan", part.shapes, {}, capability).layers)
    shuffles = kinds["UNSQUEEZE"] + kinds["SQUEEZE"]
    return Counts(kinds.total(), shuffles, made.kernels, made.int8, made.written, made.pairs)


def parsed(graph: Path) -> Counter[str]:
    """Kinds of the layers that the parser makes of a strongly typed graph."""
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR)).parse(graph.read_bytes())
    return Counter(network.get_layer(index).type.name for index in range(network.num_layers))


def table(model: Path, capability: str) -> Iterator[str]:
    """A line for every plan of every form, as it comes."""
    yield f"{'form':17} plan  layers  shuffles  kernels  INT8  to INT8  Q/DQ"
    with tempfile.TemporaryDirectory() as folder:
        part = first_part(model, Path(folder))
        for form, left_out in FORMS.items():
            for plan, target in PLANS.items():
                yield line(form, plan, counted(part, without(target, left_out), Path(folder), capability))
        yield line("chains", "int8", counted(part, CHAINED, Path(folder), capability))


def line(form: str, plan: str, found: Counts) -> str:
    """A row of the table."""
    kernels = f"{found.kernels:7}  {found.int8:4}  {found.written:7}  {found.pairs:4}"
    return f"{form:17} {plan}  {found.layers:6}  {found.shuffles:8}  {kernels}"


def main(arguments: list[str] | None = None) -> None:
    """Count and print."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    top.add_argument("model", metavar="MODEL")
    top.add_argument("--capability", default="sm86")
    given = top.parse_args(arguments)
    path = Path(given.model)
    for line in table(path if path.exists() else bundled(given.model), given.capability):
        print(line, flush=True)


if __name__ == "__main__":
    main()
