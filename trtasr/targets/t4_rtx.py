"""TensorRT for RTX, compute capability 7.5, built anywhere.

It has no INT8 convolutions on sm_75, but INT8 matrix products: pointwise convolutions become MatMul, wider ones are
unfolded first. Their kernels scale the accumulator before they round it to FP16, given one scale per weight.
Scales of activations computed at run time cost no kernel more: what they need joins the kernels around the product.
"""

from functools import partial

from trtasr.engine.build import require_rtx
from trtasr.graph.dynamic import insert_dynamic_qdq
from trtasr.graph.front_end import position_rules, waveform_rules
from trtasr.graph.gains import channel_gains, gain_lint
from trtasr.graph.halve import half_caches, halve
from trtasr.graph.pointwise import pointwise_to_matmul
from trtasr.graph.qdq import Rule, insert_qdq
from trtasr.graph.unfold import unfold_convolutions
from trtasr.recipe import EngineShapes
from trtasr.targets.rtx import build
from trtasr.targets.rules import TURING_REASONS, depthwise
from trtasr.targets.t4 import ABSENT
from trtasr.targets.target import ALWAYS, QDQ, Target, elsewhere
from trtasr.values import Site

REASONS = TURING_REASONS | {
    "kernel": "TensorRT for RTX has no INT8 convolution on sm_75; over two axes, or too few channels to unfold"
}


def kernel(unfolded: int) -> Rule:
    """Convolutions that TensorRT for RTX, which has no INT8 convolution on sm_75, is not given as matrix products.

    A kernel over two axes is not unfolded; one over time is where it has at least `unfolded` output channels.
    """

    def rule(site: Site) -> str | None:
        wide = any(size > 1 for size in site.kernel)
        if len(site.kernel) > 1:
            return "kernel" if wide or any(stride > 1 for stride in site.stride) else None
        return "kernel" if wide and site.out_channels < unfolded else None

    return rule


def t4_rtx(unfold_channels: int) -> Target:
    """The target that unfolds convolutions with at least so many output channels."""
    return Target(
        "t4-rtx",
        label="int8 t4-rtx",
        graph=QDQ,
        quantize=insert_qdq,
        dynamic=insert_dynamic_qdq,
        dynamic_when=ALWAYS,
        rules=(depthwise, kernel(unfold_channels)),
        graph_rules=waveform_rules,
        dynamic_rules=position_rules,
        reasons=REASONS,
        passes=(unfold_convolutions, pointwise_to_matmul, channel_gains, halve, half_caches),
        rest="FP16",
        lint=lambda graph, *_: gain_lint(graph),
        require=require_rtx,
        build=partial(build, "sm75"),
        plan="t4-rtx/{}.plan".format,
        runs_here=elsewhere,
        absent=ABSENT,
    )


T4_RTX = t4_rtx(EngineShapes.unfold_channels)
