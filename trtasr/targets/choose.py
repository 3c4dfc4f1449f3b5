"""From a recipe's engine section to targets."""

from dataclasses import replace

from trtasr.errors import RecipeError
from trtasr.recipe import EngineShapes
from trtasr.targets.cpu import CPU
from trtasr.targets.rtx import rtx
from trtasr.targets.t4 import T4
from trtasr.targets.t4_rtx import T4_RTX, t4_rtx
from trtasr.targets.target import Target, depthwise, unasked

TARGETS = {target.name: target for target in (T4, T4_RTX, CPU)}
TURING = "7.5"


def choose(engine: EngineShapes, gpu: bool = False) -> tuple[Target, ...]:
    """Targets of a recipe's ``engine`` section.

    Args:
        engine: ``auto`` is the plan and the CPU engine, which is measured here.
        gpu: this machine can build and run ``t4``, which ``auto`` then prefers.

    Raises:
        RecipeError: settings that contradict the target.
    """
    first = ("t4" if gpu else "t4-rtx") if engine.target == "auto" else engine.target
    if engine.compute_capability != TURING and first != "t4-rtx":
        raise RecipeError(
            f"engine.compute_capability = {engine.compute_capability}: is for t4-rtx, not for {first}",
            "use --target t4-rtx, which builds for GPUs that are not here",
        )
    if engine.quantization == "implicit" and first != "t4":
        raise RecipeError(f"engine.quantization = 'implicit': target {first} has no calibrator", "use --target t4")
    target = t4_rtx(engine.unfold_channels) if first == T4_RTX.name else TARGETS[first]
    if engine.compute_capability != TURING:
        target = rtx(f"sm{engine.compute_capability.replace('.', '')}")
    if engine.quantize_depthwise:
        target = with_depthwise(target)
    if engine.quantization == "implicit":
        target = replace(target, passes=())
    return (target, CPU) if engine.target == "auto" else (target,)


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
