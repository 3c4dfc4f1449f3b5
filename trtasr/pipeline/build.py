"""The building stage: from FP32 graphs and the scale table to the engine of each target, part by part."""

import glob
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from trtasr.engine.build_tensorrt import Host
from trtasr.engine.fallback import nodes_to_free
from trtasr.engine.inspect import ort_layers
from trtasr.engine.profile import Shapes
from trtasr.errors import BuildError, NoKernelError, TrtasrError
from trtasr.graph.own_part import own_part, own_patterns
from trtasr.graph.traffic import macs_per_second
from trtasr.network.network import Exported
from trtasr.recipe import EngineShapes, Recipe
from trtasr.results import Built, Engine
from trtasr.targets import Target
from trtasr.targets.place import Lowered, lower
from trtasr.targets.target import Order
from trtasr.values import CalibrationSet, ScaleTable

logger = logging.getLogger(__name__)

MAX_FALLBACKS = 16  # builds are repeated at most so often without the layers the builder has no INT8 kernel for


@dataclass(frozen=True)
class Material:
    """What one part of every engine is built from.

    Attributes:
        name: of the part; graph: in FP32, centered, in the bundle's folder.
        nodes: names of all its nodes, in graph order.
        macs: node -> multiply-accumulates per second of audio.
        table: scales; exclude: patterns of the recipe that match a node.
        shapes: that a plan accepts.
    """

    name: str
    graph: Path
    nodes: tuple[str, ...]
    macs: Mapping[str, int]
    table: ScaleTable
    exclude: tuple[str, ...]
    shapes: Shapes


@dataclass(frozen=True)
class Materials:
    """What all engines of a compile are built from.

    Attributes:
        parts: of the network.
        engine: the recipe's section.
        host: GPU and TensorRT of this machine; None where no target needs them.
        features: for a calibrator that takes its own ranges; None elsewhere.
    """

    parts: tuple[Material, ...]
    engine: EngineShapes
    host: Host | None = None
    features: CalibrationSet | None = None

    @property
    def folder(self) -> Path:
        """Of the bundle."""
        return self.parts[0].graph.parent

    @property
    def gpu(self) -> str:
        """Name of this machine's GPU; empty where no target needs one."""
        return self.host.gpu if self.host else ""


def materials(
    graphs: Exported,
    table: ScaleTable,
    recipe: Recipe,
    host: Host | None,
    features: Callable[[str], CalibrationSet],
) -> Materials:
    """What the engines of a recipe are built from.

    Args:
        graphs: in FP32, centered, in the bundle's folder.
        table: of all parts.
        recipe: its excluded layers and the engine's section.
        host: GPU and TensorRT of this machine, if a target needs them.
        features: calibration method -> features; asked only for a calibrator that takes its own ranges.

    Raises:
        RecipeError: an exclude pattern that matches no node of any part.
    """
    models = [onnx.load(file) for file in graphs.files]
    patterns = own_patterns(recipe.quantization.exclude, models)
    shapes, engine = graphs.original.shapes(recipe.engine), recipe.engine
    parts = tuple(
        Material(
            part.name,
            file,
            tuple(node.name for node in model.graph.node),
            macs_per_second(model, part.rate),
            own_part(table, model),
            own,
            accepted,
        )
        for part, file, model, own, accepted in zip(
            graphs.network.parts, graphs.files, models, patterns, shapes, strict=True
        )
    )
    own_ranges = engine.quantization == "implicit" and engine.calibrator != "table"
    return Materials(parts, engine, host, features(recipe.calibration.method) if own_ranges else None)


def build(given: Materials, target: Target, left: Sequence[str] = ()) -> Engine:
    """Lower every part for a target and build it; layers the builder has no INT8 kernel for go without.

    Args:
        given: what it is built from.
        target: where it runs.
        left: layers that a budget keeps in floating point.

    Raises:
        BuildError: the builder refused a graph for another reason, or too often. MissingError: no builder here.
    """
    made = [build_part(given, part, target, left) for part in given.parts]
    return Engine(
        target=target.name,
        label=target.label,
        parts=tuple(built for _, built in made),
        graphs=tuple(target.graph(part.name) for part in given.parts) if target.quantize else (),
        precision=target.precision,
        rest=target.rest,
        decisions=tuple(item for lowered, _ in made for item in lowered.decisions),
        reasons=target.reasons,
        stand_in="" if target.runs_here(given.gpu) else target.stand_in,
        absent=target.absent,
        linted=target.lint is not None,
        subnormal=tuple(name for lowered, _ in made for name in lowered.subnormal),
        overflowing=tuple(name for lowered, _ in made for name in lowered.overflowing),
    )


def build_baselines(given: Materials, targets: Sequence[Target]) -> tuple[Engine, ...]:
    """What INT8 is to be compared with, beside the engines of these targets.

    One that cannot be built is left out with a warning: the INT8 engine is worth keeping without it.
    """
    return tuple(engine for target in targets for item in target.baselines for engine in built_or_not(given, item))


def built_or_not(given: Materials, baseline: Target) -> Iterator[Engine]:
    """A baseline, if every part of it can be built."""
    try:
        yield build(given, baseline)
    except TrtasrError as error:
        logger.warning("no %s baseline: %s", baseline.rest, error.problem)
        for part in given.parts:
            if baseline.plan:
                (given.folder / baseline.plan(part.name)).unlink(missing_ok=True)


def build_part(given: Materials, part: Material, target: Target, left: Sequence[str]) -> tuple[Lowered, Built]:
    """The same for one part."""
    freed = {name: "budget" for name in part.nodes if name in left}
    for _ in range(MAX_FALLBACKS + 1):
        lowered = lower(part.graph, part.table, target, part.exclude, freed)
        try:
            built = build_file(given, part, target, lowered.graph)
        except NoKernelError as error:
            more = nodes_to_free(error.nodes, part.nodes, lowered.int8)
            if not more or not target.explicit:  # with a calibrator the builder chooses, nothing can be freed
                raise
            logger.warning(
                "the builder has no INT8 kernel for %s: %s in FP16 instead, building again",
                ", ".join(error.nodes),
                ", ".join(more),
            )
            freed |= dict.fromkeys(more, "fallback")
        else:
            warn_without_int8(target, lowered, built)
            return lowered, built
    raise BuildError(
        f"{target.name}: still no INT8 kernel after {MAX_FALLBACKS} builds without {', '.join(freed)}",
        "exclude these layers and their kind: --set quantization.exclude='[\"pattern\"]'",
    )


def build_file(given: Materials, part: Material, target: Target, graph: Path) -> Built:
    """Build one part from its lowered graph, which is removed where it is not the engine: it can be made again.

    Raises:
        BuildError: the builder refused the graph. MissingError: no builder here.
    """
    if target.build is None or target.plan is None:
        return Built(graph.relative_to(given.folder).as_posix(), graph.stat().st_size, ort_layers(graph, part.macs))
    plan = target.plan(part.name)
    order = Order(
        graph, given.folder / plan, part.shapes, part.macs, part.table, given.engine, given.host, given.features
    )
    try:
        return replace(target.build(order), path=plan)
    finally:
        for file in graph.parent.glob(f"{glob.escape(graph.name)}*"):  # large weights have a file of their own
            file.unlink()


def warn_without_int8(target: Target, lowered: Lowered, built: Built) -> None:
    """Say so when the builder kept every layer in floating point, or does not tell."""
    if lowered.int8 and not any(layer.int8 for layer in built.layers):
        logger.warning("%s: no layer of %s runs in INT8, though %d should", target.name, built.path, len(lowered.int8))
