"""Lowering: from the FP32 graph and the scale table to each target's graph and engine."""

import glob
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import onnx

from trtasr.engine.build import build_rtx, require_rtx
from trtasr.engine.build_tensorrt import Host, TensorrtOptions, almost_a_host, build_tensorrt, require_tensorrt
from trtasr.engine.cache import format_cache
from trtasr.engine.calibrator import Source, at_opt_shape, cache_header
from trtasr.engine.fallback import nodes_to_free
from trtasr.engine.inspect import ort_layers
from trtasr.engine.profile import Profile, Shapes
from trtasr.errors import BuildError, MissingError, NoKernelError, TrtasrError
from trtasr.graph.check import write_checked
from trtasr.graph.gains import channel_gains, gain_lint
from trtasr.graph.halve import fp16_scale_lint, half_caches, halve
from trtasr.graph.lint import HEADROOM, large_activations, overflow_lint
from trtasr.graph.pointwise import pointwise_to_matmul
from trtasr.graph.traffic import macs_per_second
from trtasr.graph.unfold import unfold_convolutions
from trtasr.recipe import EngineShapes, Recipe
from trtasr.results import Engine
from trtasr.targets import Target, choose
from trtasr.targets.place import place
from trtasr.values import CalibrationSet, Decision, ScaleTable

logger = logging.getLogger(__name__)

MODEL = "model"  # begins the file names of a network that is one graph
FP32 = "model.fp32.onnx"
PLAIN = "plain.onnx"  # ends the name of the graph for a calibrator: FP32, with the corrected weights
MAX_FALLBACKS = 16  # builds are repeated at most so often without the layers the builder has no INT8 kernel for
REWRITES: Mapping[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "unfold": unfold_convolutions,
    "pointwise": pointwise_to_matmul,
    "gains": channel_gains,
    "halve": halve,
    "half_caches": half_caches,
}


@dataclass(frozen=True)
class Plant:
    """Where engines are built.

    Attributes:
        folder: of the bundle; holds ``<stem>.fp32.onnx``.
        table: scales.
        recipe: resolved.
        frames_per_second: of the front-end; of a decoder, tokens.
        host: GPU and TensorRT of this machine; None where the target needs none.
        calibration: features for a calibrator that takes its own ranges; None elsewhere.
        left: target -> layers that a budget keeps in floating point.
        stem: begins the names of this graph's files: ``model``, or ``encoder`` and ``decoder`` of a pair.
        shapes: that the plan accepts; None: the recipe's.
    """

    folder: Path
    table: ScaleTable
    recipe: Recipe
    frames_per_second: float
    host: Host | None = None
    calibration: CalibrationSet | None = None
    left: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stem: str = MODEL
    shapes: Shapes | None = None

    @property
    def fp32(self) -> Path:
        """The FP32 graph."""
        return self.folder / f"{self.stem}.fp32.onnx"

    @cached_property
    def profile(self) -> Shapes:
        """Input shapes as an optimization profile."""
        if self.shapes is not None:
            return self.shapes
        features = onnx.load(self.fp32).graph.input[0].type.tensor_type.shape
        return profile(self.recipe.engine, self.frames_per_second, features.dim[1].dim_value)

    @cached_property
    def macs(self) -> dict[str, int]:
        """FP32 node -> multiply-accumulates per second of audio."""
        return macs_per_second(onnx.load(self.fp32), self.frames_per_second)


@dataclass(frozen=True)
class Lowered:
    """One target's graph, ready for its builder.

    Attributes:
        target: name.
        reference: the quantized graph ONNX Runtime can run, relative to the bundle: Q/DQ in FP32, or the CPU graph.
        graph: what the builder reads, relative to the bundle.
        decisions: one per quantizable node, with the rule that decided.
        subnormal: layers with a channel whose activation scale x weight scale is below FP16's normal range.
        overflowing: layers whose integer accumulator could exceed FP16's range.
    """

    target: str
    reference: str
    graph: str
    decisions: tuple[Decision, ...]
    subnormal: tuple[str, ...] = ()
    overflowing: tuple[str, ...] = ()
    references: tuple[str, ...] = ()

    @property
    def int8(self) -> tuple[str, ...]:
        """Names of the nodes that read INT8 operands."""
        return tuple(decision.node for decision in self.decisions if decision.quantized)


def resolve_targets(engine: EngineShapes) -> tuple[tuple[Target, ...], Host | None]:
    """Targets of a recipe, and the GPU host if one of them is ``t4``.

    ``auto`` is ``t4`` on a machine with TensorRT, pycuda and a GPU, elsewhere ``t4-rtx``; with ``cpu`` beside it.

    Raises:
        MissingError: ``t4`` without its host, or TensorRT for RTX is not installed. RecipeError: settings that
        contradict the target.
    """
    host = None
    calibrator = {"table": "entropy"}.get(engine.calibrator, engine.calibrator)
    if engine.target in ("auto", "t4"):
        try:
            host = require_tensorrt(calibrator if engine.quantization == "implicit" else "")
        except MissingError as error:
            if engine.target == "t4" or engine.quantization == "implicit":
                raise
            if almost_a_host():
                logger.warning("%s", error)
    targets = choose(engine, gpu=host is not None)
    if any(target.capability for target in targets):
        require_rtx()
    return targets, host


def lower_and_build(plant: Plant, target: Target) -> tuple[Lowered, Engine]:
    """Lower one target's graph and build its engine; layers the builder has no INT8 kernel for go without.

    Raises:
        BuildError: the builder refused the graph for another reason, or too often. MissingError: no builder here.
    """
    freed = dict.fromkeys(plant.left.get(target.name, ()), "budget")
    for _ in range(MAX_FALLBACKS + 1):
        lowered = lower(plant.fp32, plant.table, target, plant.recipe.quantization.exclude, freed)
        try:
            engine = build_engine(plant, lowered, target)
            warn_without_int8(lowered, engine)
            return lowered, engine
        except NoKernelError as error:
            if not target.passes:  # implicit quantization: the builder chooses, nothing can be freed
                raise
            order = [node.name for node in onnx.load(plant.fp32).graph.node]
            more = nodes_to_free(error.nodes, order, lowered.int8)
            if not more:
                raise
            logger.warning(
                "the builder has no INT8 kernel for %s: %s in FP16 instead, building again",
                ", ".join(error.nodes),
                ", ".join(more),
            )
            freed |= dict.fromkeys(more, "fallback")
    raise BuildError(
        f"{target.name}: still no INT8 kernel after {MAX_FALLBACKS} builds without {', '.join(freed)}",
        "exclude these layers and their kind: --set quantization.exclude='[\"pattern\"]'",
    )


def warn_without_int8(lowered: Lowered, engine: Engine) -> None:
    """Say so when the builder kept every layer in floating point, or does not tell."""
    if lowered.int8 and not any(layer.int8 for layer in engine.layers):
        logger.warning(
            "%s: no layer of %s runs in INT8, though %d should", lowered.target, engine.path, len(lowered.int8)
        )


def lower(
    source: Path, table: ScaleTable, target: Target, exclude: Sequence[str], freed: Mapping[str, str] | None = None
) -> Lowered:
    """Run one target's passes over an FP32 graph and write its graphs into the bundle folder.

    Args:
        source: ``<stem>.fp32.onnx`` in the bundle folder.
        table: scales.
        target: its rules and passes.
        exclude: patterns of the recipe.
        freed: node that stays float all the same -> the rule that decided it (``fallback``, ``budget``).

    Raises:
        RecipeError: an exclude pattern that matches no node.
    """
    freed, folder, stem = freed or {}, source.parent, stem_of(source)
    placed = place(onnx.load(source), table, target, [*exclude, *map(glob.escape, freed)])
    decisions = renamed(placed.decisions, freed)
    if target.passes == ("cpu_qdq",):
        integer = f"cpu/{stem}.int8.onnx"
        write_checked(placed.model, folder / integer)
        return Lowered(target.name, integer, integer, decisions)
    reference = f"{stem}.qdq.onnx"
    write_checked(placed.model, folder / reference)
    if not target.passes:  # implicit quantization reads the plain graph
        plain = f"{target.name}/{stem}.{PLAIN}"
        write_checked(placed.fp32, folder / plain)
        return Lowered(target.name, reference, plain, decisions)
    graph = placed.model
    for name in target.passes[1:]:
        graph = REWRITES[name](graph)
    lowered = f"{target.name}/{stem}.lowered.onnx"
    write_checked(graph, folder / lowered)
    if "gains" in target.passes:
        subnormal, overflowing = gain_lint(graph)
    else:
        subnormal, overflowing = fp16_scale_lint(graph), overflow_lint(placed.fp32, table, placed.int8)
    found = Lowered(target.name, reference, lowered, decisions, tuple(subnormal), tuple(overflowing))
    report_lint(found)
    if large := large_activations(table):
        logger.warning(
            "FP16 holds at most 65504; on the calibration features these came within a factor of %d: %s",
            HEADROOM,
            ", ".join(large),
        )
    return found


def stem_of(graph: Path) -> str:
    """``model``, ``encoder`` or ``decoder``: what a graph's file name begins with."""
    return graph.name.partition(".")[0]


def renamed(decisions: Sequence[Decision], freed: Mapping[str, str]) -> tuple[Decision, ...]:
    """Decisions with the rule that really kept a node in floating point."""
    return tuple(replace(item, rule=freed.get(item.node, item.rule)) for item in decisions)


def report_lint(lowered: Lowered) -> None:
    """Say how many layers come near the limits of FP16."""
    if lowered.subnormal:
        logger.info(
            "%d layers: a channel whose scale product is subnormal in FP16 (bundle.json)", len(lowered.subnormal)
        )
    if lowered.overflowing:
        logger.info(
            "%d layers: an accumulator that could exceed FP16's 65504 before it is scaled (bundle.json)",
            len(lowered.overflowing),
        )


def build_engine(plant: Plant, lowered: Lowered, target: Target) -> Engine:
    """Build one engine from its lowered graph; the lowered graph of a plan is removed, it can be made again.

    Raises:
        BuildError: the builder refused the graph. MissingError: no builder here.
    """
    graph = plant.folder / lowered.graph
    if target.name == "cpu":
        return Engine("cpu", lowered.graph, graph.stat().st_size, ort_layers(graph, plant.macs))
    plan = plant.folder / target.name / f"{plant.stem}.plan"
    if target.capability:
        engine = build_rtx(graph, plan, plant.profile, plant.macs, target.capability)
    else:
        engine = build_tensorrt(graph, plan, plant.profile, plant.macs, tensorrt_options(plant), host_of(plant))
    graph.unlink()
    return engine


def build_baselines(plant: Plant) -> tuple[Engine, ...]:
    """FP16 and FP32 plans of the T4 host, strongly typed, from the FP32 graph: what INT8 is to be compared with.

    One that cannot be built is left out with a warning: the INT8 engine is worth keeping without it.
    """
    options = TensorrtOptions(None, plant.recipe.engine.workspace_mb, timing_cache(plant.recipe.engine))
    engines = []
    for precision, change in PRECISIONS.items():
        path = plant.folder / "t4" / f"{'' if plant.stem == MODEL else f'{plant.stem}.'}{precision}.onnx"
        try:
            write_checked(change(onnx.load(plant.fp32)), path)
            engine = build_tensorrt(path, path.with_suffix(".plan"), plant.profile, plant.macs, options, host_of(plant))
            engines.append(replace(engine, target=f"t4-{precision}"))
        except TrtasrError as error:
            logger.warning("no %s baseline: %s", precision.upper(), error.problem)
        path.unlink(missing_ok=True)
    return tuple(engines)


def same(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as it is."""
    return model


PRECISIONS: Mapping[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "fp16": lambda model: half_caches(halve(model)),
    "fp32": same,
}


def tensorrt_options(plant: Plant) -> TensorrtOptions:
    """The recipe's settings for TensorRT; with a calibrator's source for implicit quantization."""
    engine = plant.recipe.engine
    source = calibrator_source(plant) if engine.quantization == "implicit" else None
    return TensorrtOptions(source, engine.workspace_mb, timing_cache(engine))


def timing_cache(engine: EngineShapes) -> Path | None:
    """The recipe's timing cache; None: that of this GPU and TensorRT."""
    return Path(engine.timing_cache) if engine.timing_cache else None


def calibrator_source(plant: Plant) -> Source:
    """The scale table as a cache of the installed TensorRT, or the calibration features at the profile's OPT shape."""
    algorithm = plant.recipe.engine.calibrator
    if algorithm == "table":
        scales = {name: entry.scale for name, entry in plant.table.activations.items()}
        return Source("entropy", cache=format_cache(scales, cache_header(host_of(plant).tensorrt, "entropy")))
    assert plant.calibration is not None
    batch, _, frames = plant.profile.shapes()["features"][1]
    feeds, dropped = at_opt_shape(plant.calibration, batch, frames)
    if dropped:
        logger.info("calibration: %d utterances do not fill a batch of %d and are left out", dropped, batch)
    return Source(algorithm, feeds)


def host_of(plant: Plant) -> Host:
    """The GPU host, which `resolve_targets` found before anything was built for it."""
    assert plant.host is not None
    return plant.host


def profile(shapes: EngineShapes, frames_per_second: float, mel_bins: int) -> Profile:
    """The recipe's shapes as an optimization profile."""
    batches = (shapes.min_batch, shapes.opt_batch, shapes.max_batch)
    seconds = (shapes.min_seconds, shapes.opt_seconds, shapes.max_seconds)
    return Profile(batches, seconds, frames_per_second, mel_bins)
