"""TensorRT for RTX on GPUs newer than Turing: they have INT8 convolutions, so the Q/DQ graph stays as it is."""

from functools import partial

from trtasr.engine.build import build_rtx, require_rtx
from trtasr.graph.dynamic import insert_dynamic_qdq
from trtasr.graph.halve import half_caches, halve
from trtasr.graph.qdq import insert_qdq
from trtasr.graph.waveform import waveform_rules
from trtasr.results import Built
from trtasr.targets.rules import REASONS, alignment
from trtasr.targets.t4 import fp16_lint
from trtasr.targets.target import QDQ, Order, Target, elsewhere
from trtasr.values import Site


def unasked(site: Site) -> str | None:
    """Grouped convolutions on GPUs that have INT8 kernels for them, which are seldom faster: quantized when asked."""
    return "unasked" if site.groups > 1 else None


def build(capability: str, order: Order) -> Built:
    """A plan for a compute capability; no GPU is needed.

    Args:
        capability: as TensorRT for RTX spells it, ``sm75``.
        order: what is built.
    """
    return build_rtx(order.graph, order.plan, order.shapes, order.macs, capability)


def rtx(capability: str) -> Target:
    """Target of a compute capability of 8.0 or more, named for it.

    Args:
        capability: ``sm86``, ``sm89`` or ``sm120``.
    """
    name = f"rtx-{capability}"
    return Target(
        name,
        label=f"int8 {name}",
        graph=QDQ,
        quantize=insert_qdq,
        dynamic=insert_dynamic_qdq,
        rules=(unasked, alignment),
        graph_rules=waveform_rules,
        reasons=REASONS | {"unasked": "depthwise; --quantize-depthwise asks for them"},
        passes=(halve, half_caches),
        rest="FP16",
        lint=fp16_lint,
        require=require_rtx,
        build=partial(build, capability),
        plan=f"{name}/{{}}.plan".format,
        runs_here=elsewhere,
        absent="not here",
    )
