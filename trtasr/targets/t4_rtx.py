"""TensorRT for RTX, compute capability 7.5, built anywhere.

It has no INT8 convolutions on sm_75, but INT8 matrix products: pointwise convolutions become MatMul, wider ones are
unfolded first. Their kernels scale the accumulator before they round it to FP16, given one scale per weight.
"""

from trtasr.recipe import EngineShapes
from trtasr.targets.target import Target, depthwise, kernel, waveform

PASSES = ("qdq", "unfold", "pointwise", "gains", "halve", "half_caches")


def t4_rtx(unfold_channels: int) -> Target:
    """The target that unfolds convolutions with at least so many output channels."""
    return Target("t4-rtx", rules=(waveform, depthwise, kernel(unfold_channels)), passes=PASSES, capability="sm75")


T4_RTX = t4_rtx(EngineShapes.unfold_channels)
