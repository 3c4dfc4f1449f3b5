"""From a recipe's engine section, or the name in a bundle, to targets."""

import logging
from dataclasses import replace

from trtasr.engine.build_tensorrt import Host, almost_a_host, require_tensorrt
from trtasr.engine.builder_probe import require_builder
from trtasr.errors import MissingError, RecipeError
from trtasr.graph.chains import insert_chains
from trtasr.graph.conv2d import conv1d_to_conv2d
from trtasr.graph.masks import drop_pointwise_masks, without_masks
from trtasr.graph.qdq import insert_qdq
from trtasr.recipe import EngineShapes
from trtasr.recipe.check import shown
from trtasr.recipe.sections import CAPABILITIES
from trtasr.results import CHAINS
from trtasr.targets.cpu import CPU
from trtasr.targets.integer import INTEGER
from trtasr.targets.rtx import rtx, unasked
from trtasr.targets.rules import depthwise
from trtasr.targets.t4 import CALIBRATED, T4
from trtasr.targets.t4_rtx import T4_RTX, t4_rtx
from trtasr.targets.target import Target

logger = logging.getLogger(__name__)

TARGETS = {target.name: target for target in (T4, T4_RTX, CPU)}  # that a recipe may name
AUTO, TURING = "auto", "7.5"


def resolve(engine: EngineShapes) -> tuple[tuple[Target, ...], Host | None]:
    """Targets of a recipe, and the GPU host if one of them is ``t4``.

    ``auto`` is ``t4`` on a machine with TensorRT, pycuda and a GPU, elsewhere ``t4-rtx``; with ``cpu`` beside it.

    Raises:
        MissingError: no builder here. RecipeError: an unknown target, or settings that contradict it.
    """
    host = None
    calibrator = {"table": "entropy"}.get(engine.calibrator, engine.calibrator)
    if engine.target in (AUTO, T4.name):
        try:
            found = require_tensorrt(calibrator if engine.quantization == "implicit" else "")
            require_builder()
            host = found
        except MissingError as error:
            if engine.target == T4.name or engine.quantization == "implicit":
                raise
            if almost_a_host():
                logger.warning("%s", error)
    targets = targets_of(engine, gpu=host is not None)
    for target in targets:
        target.require()
    return targets, host


def place_named(name: str) -> Target:
    """The place that an engine of a bundle was built for; one that this version does not know is not here."""
    others = map(newer, CAPABILITIES)
    places = [place for target in (*TARGETS.values(), INTEGER, *others) for place in (target, *target.baselines)]
    unknown = replace(T4_RTX, name=name, label=f"int8 {name}", absent="not here")
    return next((place for place in places if place.name == name), unknown)


def targets_of(engine: EngineShapes, gpu: bool = False) -> tuple[Target, ...]:
    """Targets of a recipe's ``engine`` section.

    Args:
        engine: ``auto`` is the plan and the CPU engine, which is measured here.
        gpu: this machine can build and run ``t4``, which ``auto`` then prefers.

    Raises:
        RecipeError: an unknown target, or settings that contradict it.
    """
    first = (T4.name if gpu else T4_RTX.name) if engine.target == AUTO else engine.target
    check_target(first, "engine.target")
    if engine.compute_capability != TURING and first != T4_RTX.name:
        raise RecipeError(
            f"engine.compute_capability = {engine.compute_capability}: is for t4-rtx, not for {first}",
            "use --target t4-rtx, which builds for GPUs that are not here",
        )
    if engine.quantization == "implicit" and first != T4.name:
        raise RecipeError(f"engine.quantization = 'implicit': target {first} has no calibrator", "use --target t4")
    scales = engine.activation_scales
    if engine.quantization == "implicit" and scales == "dynamic":
        raise RecipeError(
            "engine.activation_scales = 'dynamic': a calibrator gives every tensor one scale",
            "leave out engine.quantization = 'implicit', or engine.activation_scales",
        )
    target = t4_rtx(engine.unfold_channels) if first == T4_RTX.name else TARGETS[first]
    if engine.quantization == "implicit":
        target = CALIBRATED
    if engine.compute_capability != TURING:
        target = newer(engine.compute_capability)
    if engine.quantize_depthwise:
        target = with_depthwise(target)
    if engine.one_dimensional:
        target = one_dimensional(target)
    if engine.unmasked_plan and first == T4.name:
        target = with_unmasked(target, engine)
    if engine.chains != "off" and first == T4.name:
        target = with_chains(target, engine)
    chosen = (target, CPU) if engine.target == AUTO else (target,)
    return tuple(place.scaled(scales) for place in chosen)


def check_target(name: str, where: str) -> None:
    """Refuse an unknown target.

    Args:
        name: as in recipes.
        where: the flag or key that named it.

    Raises:
        RecipeError: there is no such target.
    """
    if name not in (AUTO, *TARGETS):
        raise RecipeError(f"{where} = {shown(name)}", f"use one of {', '.join((AUTO, *TARGETS))}")


def newer(capability: str) -> Target:
    """The target of a GPU newer than Turing, by its compute capability as recipes spell it."""
    return rtx(f"sm{capability.replace('.', '')}")


def with_depthwise(target: Target) -> Target:
    """The target without the rule that keeps depthwise convolutions out of INT8.

    Raises:
        RecipeError: TensorRT for RTX on sm_75 would quantize and compute in FP16: the cost of both, the gain of none.
    """
    if target.name == T4_RTX.name:
        raise RecipeError(
            "engine.quantize_depthwise: TensorRT for RTX has no INT8 convolution on sm_75",
            "leave it out, or build for another GPU: --compute-capability 8.6",
        )
    return replace(target, rules=tuple(rule for rule in target.rules if rule not in (depthwise, unasked)))


def one_dimensional(target: Target) -> Target:
    """The target, and its baselines, with convolutions over time in three dimensions, as they are exported."""
    passes = tuple(change for change in target.passes if change is not conv1d_to_conv2d)
    return replace(target, passes=passes, baselines=tuple(map(one_dimensional, target.baselines)))


def with_unmasked(target: Target, engine: EngineShapes) -> Target:
    """The target, and its baselines, with a second plan each, of the graph without masks.

    Raises:
        RecipeError: a calibrator, whose scales are those of the graph with masks, or no batches of one.
    """
    if not target.explicit:
        raise RecipeError(
            "engine.unmasked_plan: a calibrator has no scales for a graph without masks",
            "leave it out, or engine.quantization = 'implicit'",
        )
    if engine.min_batch > 1:
        raise RecipeError(
            f"engine.unmasked_plan: is for utterances alone, but engine.min_batch = {engine.min_batch}",
            "leave one of them out",
        )
    passes = tuple(without_masks if change is drop_pointwise_masks else change for change in target.passes)
    baselines = tuple(with_unmasked(item, engine) for item in target.baselines)
    return replace(target, unmasked=passes, baselines=baselines)


def with_chains(target: Target, engine: EngineShapes) -> Target:
    """The target with Q/DQ behind ReLUs; where the recipe leaves it open, the target without them is its rival.

    Layers that go back to floating point are chosen for the form with more noise, and stay there in both.

    Raises:
        RecipeError: a calibrator, which sees no Q/DQ, or scales computed at run time, which nothing can be told ahead.
    """
    for key, value in (("quantization", "implicit"), ("activation_scales", "dynamic")):
        if getattr(engine, key) == value:
            raise RecipeError(
                f"engine.chains = {shown(engine.chains)}: needs Q/DQ with scales of their own, not engine.{key} = "
                f"{shown(value)}",
                f"leave out engine.chains, or engine.{key}",
            )
    rival = target if engine.chains == AUTO else None
    return replace(target, quantize=insert_chains, dynamic=None, switched=insert_qdq, form=CHAINS, rival=rival)
