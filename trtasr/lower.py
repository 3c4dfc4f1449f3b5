"""Lowering: from the FP32 graph and the scale table to each target's graph and engine."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from trtasr.engine.build import build_rtx, require_rtx
from trtasr.engine.inspect import ort_layers
from trtasr.engine.profile import Profile
from trtasr.errors import MissingError
from trtasr.graph.center import give_back_quantized
from trtasr.graph.check import check_model
from trtasr.graph.cpu_qdq import quantize_for_cpu
from trtasr.graph.halve import fp16_scale_lint, halve
from trtasr.graph.macs import macs_per_second
from trtasr.graph.pointwise import pointwise_to_matmul
from trtasr.graph.qdq import decide, insert_qdq
from trtasr.recipe import EngineShapes
from trtasr.targets import TARGETS, Target
from trtasr.values import Decision, Engine, ScaleTable

logger = logging.getLogger(__name__)

FP32, QDQ, CPU_INT8, RTX_PLAN = "model.fp32.onnx", "model.qdq.onnx", "cpu/model.int8.onnx", "t4-rtx/model.plan"
REWRITES: Mapping[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "pointwise": pointwise_to_matmul, "halve": halve}  # fmt: skip


@dataclass(frozen=True)
class Lowered:
    """One target's graph, ready for its builder.

    Attributes:
        target: name.
        reference: the quantized graph ONNX Runtime can run, relative to the bundle: Q/DQ in FP32, or the CPU graph.
        graph: what the builder reads, relative to the bundle.
        decisions: one per quantizable node, with the rule that decided.
        subnormal: layers with a channel whose activation scale x weight scale is below FP16's normal range.
    """

    target: str
    reference: str
    graph: str
    decisions: tuple[Decision, ...]
    subnormal: tuple[str, ...] = ()


def resolve_targets(name: str) -> tuple[Target, ...]:
    """Targets of a recipe's ``engine.target``; ``auto`` is ``t4-rtx`` (the artefact) and ``cpu`` (measured here).

    Raises:
        MissingError: ``t4``, which needs TensorRT and a GPU; or TensorRT for RTX is not installed.
    """
    if name == "t4":
        raise MissingError("target t4 (TensorRT on a T4 host) is not part of this release",
                           "use TARGET=t4-rtx: it builds for compute capability 7.5 without a GPU")  # fmt: skip
    if name in ("auto", "t4-rtx"):
        require_rtx()
    return (TARGETS["t4-rtx"], TARGETS["cpu"]) if name == "auto" else (TARGETS[name],)


def lower(folder: Path, table: ScaleTable, target: Target, exclude: Sequence[str]) -> Lowered:
    """Run one target's passes over ``model.fp32.onnx`` and write its graphs into the bundle folder.

    Raises:
        RecipeError: an exclude pattern that matches no node.
    """
    fp32 = onnx.load(folder / FP32)
    int8 = {decision.node for decision in decide(fp32, target.rules, exclude) if decision.quantized}
    fp32 = give_back_quantized(fp32, table, int8)
    if target.passes == ("cpu_qdq",):
        quantized = quantize_for_cpu(fp32, table, exclude)
        save(quantized.model, folder / CPU_INT8)
        return Lowered(target.name, CPU_INT8, CPU_INT8, quantized.decisions)
    placed = insert_qdq(fp32, table, target.rules, exclude)
    save(placed.model, folder / QDQ)
    graph = placed.model
    for name in target.passes[1:]:
        graph = REWRITES[name](graph)
    lowered = f"{target.name}/model.lowered.onnx"
    save(graph, folder / lowered)
    subnormal = tuple(fp16_scale_lint(graph))
    if subnormal:
        logger.info("%d layers: a channel whose scale product is subnormal in FP16 (bundle.json)", len(subnormal))
    return Lowered(target.name, QDQ, lowered, placed.decisions, subnormal)


def build_engine(folder: Path, lowered: Lowered, shapes: EngineShapes, frames_per_second: float) -> Engine:
    """Build one engine from its lowered graph; the lowered graph of a plan is removed, it can be made again.

    Raises:
        BuildError: the builder refused the graph. MissingError: no builder here.
    """
    fp32 = onnx.load(folder / FP32)
    macs = macs_per_second(fp32, frames_per_second)
    graph = folder / lowered.graph
    if lowered.target == "cpu":
        return Engine("cpu", CPU_INT8, graph.stat().st_size, ort_layers(graph, macs))
    mel_bins = fp32.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    engine = build_rtx(graph, folder / RTX_PLAN, profile(shapes, frames_per_second, mel_bins), macs)
    graph.unlink()
    return engine


def profile(shapes: EngineShapes, frames_per_second: float, mel_bins: int) -> Profile:
    """The recipe's shapes as an optimization profile."""
    batches = (shapes.min_batch, shapes.opt_batch, shapes.max_batch)
    seconds = (shapes.min_seconds, shapes.opt_seconds, shapes.max_seconds)
    return Profile(batches, seconds, frames_per_second, mel_bins)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Check a graph and write it."""
    check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
