"""Lowering and building, part by part, as one engine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from trtasr.graph.own_part import own_part, own_patterns
from trtasr.network.network import Exported
from trtasr.pipeline.job import Job
from trtasr.pipeline.lower import Lowered, Plant, build_baselines, lower_and_build
from trtasr.results import Engine
from trtasr.targets import Target
from trtasr.values import CalibrationSet, ScaleTable


def part_plants(
    job: Job,
    exported: Exported,
    table: ScaleTable,
    left: Mapping[str, tuple[str, ...]],
    features: Callable[[str], CalibrationSet],
) -> list[Plant]:
    """Where the engines of each part are built."""
    recipe, network = job.recipe, exported.network
    engine = recipe.engine
    own = engine.quantization == "implicit" and engine.calibrator != "table"  # a calibrator that takes its own ranges
    batches = features(recipe.calibration.method) if own else None
    models = [onnx.load(file) for file in exported.files]
    excludes = own_patterns(recipe.quantization.exclude, models)
    shapes = exported.original.shapes(recipe.engine)
    return [
        Plant(
            file.parent,
            own_part(table, model),
            replace(recipe, quantization=replace(recipe.quantization, exclude=patterns)),
            part.rate,
            job.host,
            batches,
            own_left(left, model),
            part.name,
            accepted,
        )
        for file, model, patterns, part, accepted in zip(
            exported.files, models, excludes, network.parts, shapes, strict=True
        )
    ]


def own_left(left: Mapping[str, tuple[str, ...]], model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """The layers of a graph that a budget keeps in floating point."""
    names = {node.name for node in model.graph.node}
    return {target: tuple(name for name in layers if name in names) for target, layers in left.items()}


def build_parts(plants: Sequence[Plant], target: Target) -> tuple[Lowered, Engine]:
    """All graphs of a target as one engine.

    Raises:
        BuildError: the builder refused a graph. MissingError: no builder here.
    """
    lowered, engines = zip(*[lower_and_build(plant, target) for plant in plants], strict=True)
    whole = replace(
        lowered[0],
        references=tuple(item.reference for item in lowered),
        decisions=sum((item.decisions for item in lowered), ()),
        subnormal=sum((item.subnormal for item in lowered), ()),
        overflowing=sum((item.overflowing for item in lowered), ()),
    )
    return whole, merged(plants, engines)


def baseline_parts(plants: Sequence[Plant]) -> tuple[Engine, ...]:
    """FP16 and FP32 plans of the T4 host, those precisions that all graphs could be built in."""
    built = [{engine.target: engine for engine in build_baselines(plant)} for plant in plants]
    common = [name for name in built[0] if all(name in engines for engines in built)]
    return tuple(merged(plants, [engines[name] for engines in built]) for name in common)


def merged(plants: Sequence[Plant], engines: Sequence[Engine]) -> Engine:
    """Several files as one engine: sizes and layers added, the builder's facts of the later parts under their names."""
    details = dict(engines[0].details)
    for plant, engine in zip(plants[1:], engines[1:], strict=True):
        details[plant.stem] = {"path": engine.path, "size_bytes": engine.size_bytes, **engine.details}
    return replace(
        engines[0],
        size_bytes=sum(engine.size_bytes for engine in engines),
        layers=sum((engine.layers for engine in engines), ()),
        details=details,
    )


def own_files(folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """Files of a bundle by their names."""
    return tuple(folder / name for name in names)
