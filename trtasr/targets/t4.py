"""TensorRT on a Tesla T4 (sm_75), built on the T4 host, with plans in FP16 and FP32 beside it."""

import logging
from collections.abc import Set
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from trtasr.engine.build_tensorrt import TensorrtOptions, build_tensorrt
from trtasr.engine.cache import format_cache
from trtasr.engine.calibrator import Source, at_opt_shape, cache_header
from trtasr.graph.chains import merge_pairs
from trtasr.graph.conv2d import conv1d_to_conv2d
from trtasr.graph.dynamic import dynamic_layers, insert_dynamic_qdq
from trtasr.graph.front_end import position_rules, waveform_rules
from trtasr.graph.halve import fp16_scale_lint, half_caches, halve
from trtasr.graph.lint import overflow_lint
from trtasr.graph.masks import drop_pointwise_masks, mask_tensors
from trtasr.graph.passes import Pass
from trtasr.graph.qdq import insert_qdq
from trtasr.results import PLAIN, Built
from trtasr.targets.rules import TURING_REASONS, alignment, depthwise
from trtasr.targets.target import QDQ, Order, Target
from trtasr.values import ScaleTable

logger = logging.getLogger(__name__)

ABSENT = "no T4 here"
# In four dimensions the parser adds no shuffle to a convolution, and what stands between two of them can be fused.
IMAGES: tuple[Pass, ...] = (drop_pointwise_masks, conv1d_to_conv2d)
HALVES: tuple[Pass, ...] = (halve, half_caches)
ONE_AT_MOST = np.float32(1 / 127)  # scale of a tensor of zeros and ones


def build(order: Order, calibrated: bool = False) -> Built:
    """A plan for the GPU that is here, by the recipe's settings for TensorRT.

    Args:
        order: what is built: a strongly typed graph.
        calibrated: a plain FP32 graph instead, and a calibrator: implicit quantization, of TensorRT 10.
    """
    assert order.host is not None  # `trtasr.targets.choose.resolve` found it before anything was built
    source = calibrator_source(order, order.host.tensorrt) if calibrated else None
    cache = Path(order.engine.timing_cache) if order.engine.timing_cache else None
    options = TensorrtOptions(source, order.engine.workspace_mb, cache, order.floating, order.evidence)
    return build_tensorrt(order.graph, order.plan, order.shapes, order.macs, options, order.host)


def calibrator_source(order: Order, version: str) -> Source:
    """The scale table as a cache of this TensorRT, or the calibration features at the profile's OPT shape.

    Masks, which no table has, get the scale of what is 1 at most: without one, each product with a mask leaves INT8.
    """
    algorithm = order.engine.calibrator
    if algorithm == "table":
        scales = {name: entry.scale for name, entry in order.table.activations.items()}
        ones = dict.fromkeys(mask_tensors(onnx.load(order.graph)), ONE_AT_MOST)
        return Source("entropy", cache=format_cache(ones | scales, cache_header(version, "entropy")))
    assert order.features is not None
    batch, _, frames = order.shapes.shapes()["features"][1]
    feeds, dropped = at_opt_shape(order.features, batch, frames)
    if dropped:
        logger.info("calibration: %d utterances do not fill a batch of %d and are left out", dropped, batch)
    return Source(algorithm, feeds)


def fp16_lint(
    graph: onnx.ModelProto, fp32: onnx.ModelProto, table: ScaleTable, int8: Set[str]
) -> tuple[list[str], list[str]]:
    """What FP16 could spoil where accumulators are scaled per channel."""
    return fp16_scale_lint(graph), overflow_lint(fp32, unobserved(table, graph, fp32), int8)


def unobserved(table: ScaleTable, graph: onnx.ModelProto, fp32: onnx.ModelProto) -> ScaleTable:
    """The table without output ranges that bound no accumulator: of layers where quiet frames have large codes too."""
    dynamic = set(dynamic_layers(graph))
    outputs = {name for node in fp32.graph.node if node.name in dynamic for name in node.output}
    kept = {name: entry for name, entry in table.activations.items() if name not in outputs}
    return replace(table, activations=kept)


def on_gpu(gpu: str) -> bool:
    """Runs where TensorRT has a GPU."""
    return bool(gpu)


def baseline(precision: str, passes: tuple[Pass, ...]) -> Target:
    """A plan without INT8, strongly typed, made from the FP32 graph.

    Args:
        precision: ``fp16`` or ``fp32``.
        passes: that give the graph this precision.
    """

    def plan(part: str) -> str:
        return f"t4/{f'{part}.'.removeprefix('model.')}{precision}.plan"

    return Target(
        f"t4-{precision}",
        label=f"{precision} t4",
        graph="{}.fp32.onnx".format,
        quantize=None,
        passes=passes,
        precision=precision,
        rest=precision.upper(),
        build=build,
        plan=plan,
        runs_here=on_gpu,
        absent=ABSENT,
    )


T4 = Target(
    "t4",
    label="int8 t4",
    graph=QDQ,
    quantize=insert_qdq,
    dynamic=insert_dynamic_qdq,
    form=PLAIN,
    rules=(depthwise, alignment),
    graph_rules=waveform_rules,
    dynamic_rules=position_rules,
    reasons=TURING_REASONS,
    passes=(*IMAGES, merge_pairs, *HALVES),
    rest="FP16",
    lint=fp16_lint,
    build=build,
    plan="t4/{}.plan".format,
    runs_here=on_gpu,
    absent=ABSENT,
    baselines=(baseline("fp16", (*IMAGES, *HALVES)), baseline("fp32", IMAGES)),
)
CALIBRATED = replace(
    T4, dynamic=None, form="", passes=(), lint=None, build=partial(build, calibrated=True), explicit=False
)
