"""The building stage: from FP32 graphs and the scale table to the engine of each target, part by part."""

import glob
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import onnx

from trtasr.engine.build_tensorrt import Host
from trtasr.engine.fallback import nodes_to_free, with_kin
from trtasr.engine.inspect import ort_layers
from trtasr.engine.profile import Alone
from trtasr.errors import BuildError, NoKernelError, TrtasrError
from trtasr.files.replace import OTHER_FOLDER
from trtasr.files.workspace import workspace
from trtasr.graph.masks import length_masks
from trtasr.graph.own_part import own_part, own_patterns
from trtasr.graph.tensors import sites
from trtasr.graph.traffic import macs_per_second
from trtasr.network.network import Exported
from trtasr.recipe import Recipe
from trtasr.results import Built, Engine, Form, counts_of, is_less
from trtasr.targets import Target
from trtasr.targets.place import Lowered, lower
from trtasr.targets.target import Order
from trtasr.values import CalibrationSet, ScaleTable

logger = logging.getLogger(__name__)

FALLBACK = "fallback"  # rule of a node that the builder has no INT8 kernel for
MAX_FALLBACKS = 16  # builds are repeated at most so often without the layers the builder has no INT8 kernel for


def orders(
    graphs: Exported,
    table: ScaleTable,
    recipe: Recipe,
    host: Host | None,
    features: Callable[[str], CalibrationSet],
) -> tuple[Order, ...]:
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
    own_ranges = engine.quantization == "implicit" and engine.calibrator != "table"
    heard = features(recipe.calibration.method) if own_ranges else None
    return tuple(
        Order(
            part.name,
            file,
            tuple(node.name for node in model.graph.node),
            macs_per_second(model, part.rate),
            own_part(table, model),
            own,
            accepted,
            engine,
            host,
            heard,
        )
        for part, file, model, own, accepted in zip(
            graphs.network.parts, graphs.files, models, patterns, shapes, strict=True
        )
    )


def build(given: Sequence[Order], target: Target, left: Mapping[str, str] | None = None) -> Engine:
    """Lower every part for a target and build it; layers the builder has no INT8 kernel for go without.

    A target with a rival is built in both forms; the engine is the one that the builder has made less of.

    Args:
        given: the parts, what each is built from.
        target: where it runs.
        left: layers that stay in floating point -> the goal that asks for it, ``budget`` or ``fidelity``.

    Raises:
        BuildError: the builder refused a graph for another reason, or too often. MissingError: no builder here.
    """
    if target.rival is not None:
        return build_lesser(given, replace(target, rival=None), target.rival, left or {})
    made = [build_part(order, target, left or {}) for order in given]
    layers = [layer for _, built in made for layer in built.layers]
    return Engine(
        target=target.name,
        label=target.label,
        parts=tuple(built for _, built in made),
        graphs=tuple(target.graph(order.name) for order in given) if target.quantize else (),
        precision=target.precision,
        rest=target.rest,
        activation_scales=target.activation_scales,
        decisions=tuple(item for lowered, _ in made for item in lowered.decisions),
        reasons=target.reasons,
        stand_in="" if target.runs_here(given[0].gpu) else target.stand_in,
        absent=target.absent,
        linted=target.lint is not None,
        subnormal=tuple(name for lowered, _ in made for name in lowered.subnormal),
        overflowing=tuple(name for lowered, _ in made for name in lowered.overflowing),
        dynamic=tuple(name for lowered, _ in made for name in lowered.dynamic),
        forms=(Form(target.form, counts_of(layers), True),) if target.form else (),
    )


def build_lesser(given: Sequence[Order], target: Target, rival: Target, left: Mapping[str, str]) -> Engine:
    """Two forms of one target, whose files have the same names, built one after the other: the lesser one.

    Where the builder refuses one form, the other is the engine, with a warning.

    Raises:
        BuildError: it refuses both.
    """
    first = form_or_none(given, target, left)
    if first is None:
        return build(given, rival, left)
    with workspace(given[0].graph.parent, OTHER_FOLDER) as aside:
        files = tuple(engine_files(given, target))
        kept = {file: file.replace(aside / str(number)) for number, file in enumerate(files)}
        second = form_or_none(given, rival, left)
        if second is not None and not is_less(first.forms[0].counts, second.forms[0].counts):
            return beside(second, first)
        for file, place in kept.items():
            place.replace(file)
    return first if second is None else beside(first, second)


def beside(chosen: Engine, other: Engine) -> Engine:
    """An engine that knows what its builder has made of the other form."""
    forms = (*chosen.forms, *(replace(form, chosen=False) for form in other.forms))
    counted = "; ".join(f"{form.name}: {form.counts}" for form in forms)
    logger.info("%s: %s, which the builder has made less of (%s)", chosen.target, forms[0].name, counted)
    return replace(chosen, forms=forms)


def form_or_none(given: Sequence[Order], target: Target, left: Mapping[str, str]) -> Engine | None:
    """One of two forms; None, with a warning, where the builder refuses it."""
    try:
        return build(given, target, left)
    except BuildError as error:
        logger.warning("%s: not built with %s: %s", target.name, target.form, error.problem)
        return None


def engine_files(given: Sequence[Order], target: Target) -> Iterator[Path]:
    """Graphs and plans of a target, with files of their own for large weights."""
    for order in given:
        folder, graph = order.graph.parent, target.graph(order.name)
        yield from folder.glob(f"{glob.escape(graph)}*")
        if target.plan:
            yield folder / target.plan(order.name)
            yield from folder.glob(glob.escape(unmasked_path(target.plan(order.name))))


def build_baselines(given: Sequence[Order], targets: Sequence[Target]) -> tuple[Engine, ...]:
    """What INT8 is to be compared with, beside the engines of these targets.

    One that cannot be built is left out with a warning: the INT8 engine is worth keeping without it.
    """
    return tuple(engine for target in targets for item in target.baselines for engine in built_or_not(given, item))


def built_or_not(given: Sequence[Order], baseline: Target) -> Iterator[Engine]:
    """A baseline, if every part of it can be built."""
    try:
        yield build(given, baseline)
    except TrtasrError as error:
        logger.warning("no %s baseline: %s", baseline.rest, error.problem)
        for order in given:
            if baseline.plan:
                (order.graph.parent / baseline.plan(order.name)).unlink(missing_ok=True)


def build_part(order: Order, target: Target, left: Mapping[str, str]) -> tuple[Lowered, Built]:
    """The same for one part."""
    freed = {name: left[name] for name in order.nodes if name in left}
    for _ in range(MAX_FALLBACKS + 1):
        lowered = lower(order.graph, order.table, target, order.exclude, freed)
        try:
            built = build_file(order, target, lowered)
        except BuildError as error:
            more = to_free(error, order, lowered)
            if not more and FALLBACK in freed.values():
                raise after_fallbacks(error, freed) from error
            if not more:
                raise
            freed |= dict.fromkeys(more, FALLBACK)
        else:
            if lowered.int8 and not any(layer.int8 for layer in built.layers):  # or the builder does not tell
                words = "%s: no layer of %s runs in INT8, though %d should"
                logger.warning(words, target.name, built.path, len(lowered.int8))
            return lowered, replace(built, unmasked=unmasked_plan(order, target, freed))
    raise BuildError(
        f"{target.name}: still no INT8 kernel after {MAX_FALLBACKS} builds without {', '.join(freed)}",
        "exclude these layers and their kind: --set quantization.exclude='[\"pattern\"]'",
    )


def unmasked_plan(order: Order, target: Target, freed: Mapping[str, str]) -> Built | None:
    """The second plan of a part: without masks, for one utterance.

    None where the target has none, where the part has no masks, and with a warning where it cannot be built: the plan
    with masks runs every utterance.

    Args:
        order: what the first one is built from.
        target: where it runs.
        freed: layers that stay in floating point in the first one.
    """
    if not target.unmasked or target.plan is None:
        return None
    if not length_masks(onnx.load(order.graph)):
        logger.info("%s: %s has no masks, and so no second plan without them", target.name, order.name)
        return None
    plan = unmasked_path(target.plan(order.name))
    name = f"{target.name}-unmasked"
    alone = replace(target, name=name, passes=target.unmasked, plan=lambda _part: plan, lint=None)
    try:
        lowered = lower(order.graph, order.table, alone, order.exclude, freed)
        return build_file(replace(order, shapes=Alone(order.shapes)), alone, lowered)
    except TrtasrError as error:
        logger.warning("no plan without masks (%s): %s", plan, error.problem)
        (order.graph.parent / plan).unlink(missing_ok=True)
        return None


def unmasked_path(plan: str) -> str:
    """The plan without masks that lies beside a plan."""
    return str(PurePosixPath(plan).with_suffix(".unmasked.plan"))


def to_free(error: BuildError, order: Order, lowered: Lowered) -> tuple[str, ...]:
    """INT8 nodes that a builder has no kernel for: those behind its words, with a depthwise convolution all such.

    Args:
        error: of the build; one that names no nodes frees none.
        order: what was built.
        lowered: with which nodes in INT8.
    """
    if not isinstance(error, NoKernelError):
        return ()
    named = nodes_to_free((*error.nodes, *error.behind), order.nodes, lowered.int8)
    grouped = {site.node for site in sites(onnx.load(order.graph)) if site.groups > 1}
    more = with_kin(named, [name for name in lowered.int8 if name in grouped])
    if more:
        logger.warning(
            "the builder has no INT8 kernel for %s: %s in FP16 instead, building again",
            ", ".join(error.nodes),
            ", ".join(more),
        )
    return more


def after_fallbacks(error: BuildError, freed: Mapping[str, str]) -> BuildError:
    """The error that ended a build, with what the builds before it showed: which nodes have no INT8 kernel."""
    names = ", ".join(name for name, rule in freed.items() if rule == FALLBACK)
    return BuildError(f"{error.problem}\n  earlier builds had no INT8 kernel for: {names}", error.repair)


def build_file(order: Order, target: Target, lowered: Lowered) -> Built:
    """Build one part from its lowered graph, which is put away where it is not the engine: it can be made again.

    Raises:
        BuildError: the builder refused the graph. MissingError: no builder here.
    """
    folder, graph = order.graph.parent, lowered.graph
    if target.build is None or target.plan is None:
        return Built(graph.relative_to(folder).as_posix(), graph.stat().st_size, ort_layers(graph, order.macs))
    plan = target.plan(order.name)
    try:
        floating = tuple(item.node for item in lowered.decisions if not item.quantized)
        given = replace(order, graph=graph, plan=folder / plan, floating=floating)
        return replace(target.build(given), path=plan)
    finally:
        for file in graph.parent.glob(f"{glob.escape(graph.name)}*"):  # large weights have a file of their own
            put_away(file, order.evidence)


def put_away(file: Path, evidence: Path | None) -> None:
    """Keep a lowered graph as evidence, in the place of one that an earlier build read; else remove it."""
    if evidence is None:
        file.unlink()
        return
    evidence.mkdir(parents=True, exist_ok=True)
    shutil.move(file, evidence / file.name)
