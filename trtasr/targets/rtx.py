"""TensorRT for RTX on GPUs newer than Turing: they have INT8 convolutions, so these stay as they are.

INT8 matrix products have kernels like those of sm_75: they apply one scale per weight to their accumulator.
"""

from collections.abc import Set
from functools import partial

import onnx

from trtasr.engine.build import build_rtx, require_rtx
from trtasr.graph.dynamic import insert_dynamic_qdq
from trtasr.graph.front_end import position_rules, waveform_rules
from trtasr.graph.gains import channel_gains, gain_lint, gained
from trtasr.graph.halve import half_caches, halve
from trtasr.graph.qdq import insert_qdq
from trtasr.results import Built
from trtasr.targets.rules import REASONS, alignment
from trtasr.targets.t4 import fp16_lint
from trtasr.targets.target import QDQ, Order, Target, elsewhere
from trtasr.values import ScaleTable, Site


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


def lint(
    graph: onnx.ModelProto, fp32: onnx.ModelProto, table: ScaleTable, int8: Set[str]
) -> tuple[list[str], list[str]]:
    """What FP16 could spoil: products by their gains, convolutions by their scales per channel."""
    products = gained(graph)
    subnormal, overflowing = gain_lint(graph)
    narrow, wide = fp16_lint(graph, fp32, table, int8 - products)
    return [*subnormal, *(name for name in narrow if name not in products)], [*overflowing, *wide]


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
        dynamic_rules=position_rules,
        reasons=REASONS | {"unasked": "depthwise; --quantize-depthwise asks for them"},
        passes=(channel_gains, halve, half_caches),
        rest="FP16",
        lint=lint,
        require=require_rtx,
        build=partial(build, capability),
        plan=f"{name}/{{}}.plan".format,
        runs_here=elsewhere,
        absent="not here",
    )
