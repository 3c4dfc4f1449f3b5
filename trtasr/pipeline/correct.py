"""The correction stage: layer by layer, scale the inputs, correct and round the weight, and go on from what that gives.

Ranges are taken from the quantized stream, so that every scale fits what the corrected layers before it compute; those
of centered tensors belong to their offsets, which full precision has decided.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from trtasr.bench.agreement import output_sqnr
from trtasr.engine.walk import Replaced, Streams, Visited, walk
from trtasr.errors import UsageError
from trtasr.graph.qdq import decide, int8_nodes
from trtasr.graph.tensors import activation_tensors, added_biases, attribute, grouped, output_axis, ungrouped
from trtasr.quant.gptq import gptq_codes, gptq_in_groups
from trtasr.quant.groups import dequantized, nearest_in_groups
from trtasr.quant.propagate import (
    Columns,
    Geometry,
    Matrix,
    best_step,
    columns,
    correction,
    fade_alpha,
    joined,
    ranks,
    reliability,
    vulnerability,
)
from trtasr.quant.ranges import CODES, Histogram, activation_scale, update
from trtasr.quant.scales import along, quantize_weight, weight_scale
from trtasr.recipe import Quantization
from trtasr.targets.rules import depthwise
from trtasr.values import Array, FloatArray, WeightScale

RULES = (depthwise,)  # what no target but the CPU quantizes is not corrected
STRENGTHS = ("qep", "fade")  # corrections with an alpha
CONV1D = 3  # axes of the weight of a convolution over time


@dataclass(frozen=True)
class Given:
    """What is decided before the first layer.

    Attributes:
        graph: FP32, batch norm folded, channels centered.
        offsets: tensor -> float32 [C] that centering has subtracted from it.
        fixed: tensor -> clipping magnitude that centering has decided.
        quantization: the recipe's section.
        ranks: layer -> rank of its vulnerability, 0..1, for FADE; those left out count as 0.
        output: whose SQNR is noted.
    """

    graph: onnx.ModelProto
    offsets: Mapping[str, FloatArray]
    fixed: Mapping[str, float]
    quantization: Quantization
    ranks: Mapping[str, float] = field(default_factory=dict)
    output: str = "log_probs"

    @cached_property
    def biases(self) -> dict[str, tuple[str, FloatArray]]:
        """Linear layer -> initializer that a node behind it adds, and its values; see `added_biases`."""
        return added_biases(self.graph)


@dataclass
class Corrected:
    """What the layers became, filled in graph order.

    Attributes:
        histograms: of the quantized stream: every tensor that has a scale.
        weights: initializer -> its scales.
        constants: initializer (weight or bias) -> its new values; weights are on their grid.
        alphas: layer -> strength of its correction.
        sqnr_db: of the graph's output on the calibration features, quantized against full precision.
    """

    histograms: dict[str, Histogram] = field(default_factory=dict)
    weights: dict[str, WeightScale] = field(default_factory=dict)
    constants: dict[str, FloatArray] = field(default_factory=dict)
    alphas: dict[str, float] = field(default_factory=dict)
    sqnr_db: float = float("nan")


def correct(
    given: Given, full: Iterable[Mapping[str, Array]], quantized: Iterable[Mapping[str, Array]] | None = None
) -> tuple[Corrected, Streams]:
    """Walk the graph once: every quantized layer is corrected for what the layers before it do to its input.

    Args:
        given: graph and settings.
        full: inputs of the graph, one utterance each; utterances alternate between the two halves that FADE judges
            corrections by.
        quantized: inputs of the quantized stream where they differ, as behind another corrected graph.

    Returns:
        what the layers became, and the graph's outputs in both streams.

    Raises:
        UsageError: FADE with fewer than two utterances.
    """
    layers = set(quantized_layers(given.graph, given.quantization))
    found, scaled = Corrected(), scaled_tensors(given, layers)

    def seen(name: str, values: FloatArray) -> None:
        if name in scaled:
            found.histograms[name] = update(found.histograms.get(name, Histogram()), values)

    def visit(layer: Visited) -> Replaced:
        return corrected_layer(given, layer, found, given.ranks.get(layer.node.name, 0.0))

    streams = walk(given.graph, full, layers, visit, seen, quantized)
    found.sqnr_db = output_sqnr(
        *([values[given.output] for values in side] for side in (streams.full, streams.quantized))
    )
    return found, streams


def quantized_layers(graph: onnx.ModelProto, settings: Quantization) -> tuple[str, ...]:
    """Names of the nodes that are walked, in graph order."""
    return int8_nodes(decide(graph, RULES, settings.exclude))


def scaled_tensors(given: Given, layers: Set[str]) -> set[str]:
    """Activations that get a scale: none when only weights are quantized."""
    if given.quantization.weight_only:
        return set()
    read = {node.input[0] for node in given.graph.graph.node if node.name in layers}
    return read.union(activation_tensors(given.graph))


def vulnerabilities(graph: onnx.ModelProto, settings: Quantization) -> dict[str, float]:
    """Vulnerability of every quantized layer, from its weight alone."""
    stored, layers = {item.name: item for item in graph.graph.initializer}, set(quantized_layers(graph, settings))
    grid = levels(settings), settings.weight_group
    return {
        node.name: vulnerability(grouped(node, numpy_helper.to_array(stored[node.input[1]])), *grid)
        for node in graph.graph.node
        if node.name in layers
    }


def group_ranks(scores: Mapping[str, float], group: Callable[[str], str]) -> dict[str, float]:
    """Rank of every layer's score, 0..1, among the layers of its group.

    Args:
        scores: layer -> vulnerability.
        group: layer -> name of its group.
    """
    groups: dict[str, dict[str, float]] = {}
    for name, score in scores.items():
        groups.setdefault(group(name), {})[name] = score
    return {
        name: rank
        for members in groups.values()
        for name, rank in zip(members, ranks(list(members.values())), strict=True)
    }


def corrected_layer(given: Given, layer: Visited, found: Corrected, rank: float) -> Replaced:
    """Quantize one layer's input, correct its weight for that and for the layers before, round it; note all three."""
    node, settings = layer.node, layer_settings(given.quantization, layer)
    data, name = node.input[0], node.input[1]
    inputs = layer.quantized
    if not settings.weight_only:
        inputs = [fake_quantized(values, input_scale(given, data, found.histograms[data])) for values in inputs]
    parts = layer_columns(given, layer, inputs, settings)
    both = joined(parts) if parts else None
    moved = weight = grouped(node, layer.constants[name])
    if both and settings.correction in STRENGTHS:
        change = correction(weight, both, settings.damping)
        alpha = strength(settings, weight, change, parts, rank)
        moved = weight + alpha * change
        found.alphas[node.name] = alpha
    entry, rounded = rounded_weight(node, ungrouped(node, moved, layer.constants[name].shape), settings, both)
    found.weights[name] = entry
    constants = {name: rounded} | new_bias(given, layer, rounded, moved, both)
    found.constants |= constants
    return Replaced(inputs, constants)


def layer_settings(settings: Quantization, layer: Visited) -> Quantization:
    """The recipe's, but convolutions over two axes are only rounded to nearest: their windows are not built here."""
    if layer.node.op_type == "Conv" and layer.constants[layer.node.input[1]].ndim != CONV1D:
        return replace(settings, correction="none", rounding="nearest")
    return settings


def input_scale(given: Given, name: str, histogram: Histogram) -> np.float32:
    """Scale of a layer's input, from what the quantized stream has shown."""
    settings = given.quantization
    return activation_scale(histogram, settings.ranges, settings.headroom, given.fixed.get(name)).scale


def fake_quantized(values: FloatArray, scale: np.float32) -> FloatArray:
    """Values rounded to the INT8 grid of a scale, half to even."""
    codes = np.clip(np.rint(values / scale), -CODES - 1, CODES)
    return np.asarray(codes * scale, np.float32)


def layer_columns(
    given: Given, layer: Visited, inputs: Sequence[FloatArray], settings: Quantization
) -> tuple[Columns, ...]:
    """What a layer learns from: columns of even and of odd utterances for FADE, of all for the others, else none.

    What centering took off is put back, so that silence is zero.

    Raises:
        UsageError: FADE with fewer than two utterances.
    """
    if settings.correction == "none" and settings.rounding != "gptq":
        return ()
    node = layer.node
    offset = given.offsets.get(node.input[0])
    shift = np.float32(0) if offset is None else offset[:, None]
    full, quantized = ([channels_first(node, values) + shift for values in side] for side in (layer.full, inputs))
    count = 2 if settings.correction == "fade" else 1
    if len(full) < count:
        raise UsageError(
            "correction fade: at least two utterances of calibration features are needed",
            "raise calibration.batches or calibration.batch_size",
        )
    return tuple(columns(full[i::count], quantized[i::count], geometry(node)) for i in range(count))


def strength(settings: Quantization, weight: Matrix, change: Matrix, parts: tuple[Columns, ...], rank: float) -> float:
    """Alpha of one layer: the recipe's for QEP; for FADE its own, within what either half alone would choose.

    The last keeps the change, which both halves have made together, from raising the loss of one of them.
    """
    if settings.correction == "qep":
        return settings.alpha
    first, second = parts
    alpha = fade_alpha(reliability(weight, (first, second), settings.damping), rank)
    return min(alpha, *(best_step(weight, change, half) for half in parts))


def rounded_weight(
    node: onnx.NodeProto, weight: FloatArray, settings: Quantization, found: Columns | None
) -> tuple[WeightScale, FloatArray]:
    """Scales of a weight as stored, and the weight on their grid, rounded to nearest or by GPTQ.

    With column groups the weight is on the grid of their scales instead, which the table has no place for.
    """
    entry = weight_scale(weight, output_axis(node, weight.ndim), levels(settings))
    if settings.weight_group:
        return entry, rounded_in_groups(node, weight, settings, found)
    if found is None or settings.rounding != "gptq":
        codes: npt.NDArray[Any] = quantize_weight(weight, entry.scales, entry.axis, levels(settings))
    else:
        blocks = grouped(node, weight)
        steps = entry.scales.reshape(blocks.shape[:2])
        chosen = gptq_codes(blocks, found.gram, steps, levels(settings), settings.gptq_damping)
        codes = ungrouped(node, chosen.astype(np.float64), weight.shape)
    return entry, np.asarray(codes * along(entry.scales, entry.axis, weight.ndim), np.float32)


def rounded_in_groups(
    node: onnx.NodeProto, weight: FloatArray, settings: Quantization, found: Columns | None
) -> FloatArray:
    """A weight as stored, on the grid of scales per output channel and column group."""
    blocks, group = grouped(node, weight), settings.weight_group
    if found is None or settings.rounding != "gptq":
        codes, scales = nearest_in_groups(blocks.astype(np.float32), group, levels(settings))
    else:
        codes, scales = gptq_in_groups(blocks, found.gram, group, levels(settings), settings.gptq_damping)
    return ungrouped(node, dequantized(codes, scales, group), weight.shape)


def new_bias(
    given: Given, layer: Visited, rounded: FloatArray, moved: Matrix, found: Columns | None
) -> dict[str, FloatArray]:
    """The bias after a weight W has become Wq; none where the layer has no bias.

    Offsets b that centering subtracted are given back through the new weight, + (Wq - W) b, so that silence gives what
    it gave. Unless nothing is to be corrected, the mean of what rounding alone changes is taken off as well,
    + (W* - Wq) mean(Xq) with the weight W* before rounding (bias correction, Nagel et al. 2019, arXiv 1906.04721).
    """
    node, (name, old) = layer.node, own_bias(given, layer)
    if not name:
        return {}
    bias = old.astype(np.float64)
    after, before = grouped(node, rounded), grouped(node, layer.constants[node.input[1]])
    offset = given.offsets.get(node.input[0])
    if offset is not None:
        bias = bias + (after - before)[0] @ offset.astype(np.float64)
    if found is not None and given.quantization.correction != "none":
        mean = found.quantized.mean(axis=2, dtype=np.float64)
        bias = bias + np.matmul(moved - after, mean[:, :, None]).reshape(-1)
    return {name: bias.astype(np.float32)}


def own_bias(given: Given, layer: Visited) -> tuple[str, Array]:
    """Name and values of a layer's bias; no name without one.

    Behind a linear layer a node of its own adds it: that changes only when a correction is asked for.
    """
    if len(layer.node.input) > 2:
        return layer.node.input[2], layer.constants[layer.node.input[2]]
    linear = given.biases if given.quantization.correction != "none" else {}
    return linear.get(layer.node.name, ("", np.zeros(0)))


def geometry(node: onnx.NodeProto) -> Geometry:
    """How a node's windows lie in its input."""
    if node.op_type != "Conv":
        return Geometry()
    first = {
        name: attribute(node, name, default)[0]
        for name, default in (("kernel_shape", [1]), ("strides", [1]), ("dilations", [1]))
    }
    pads = attribute(node, "pads", [0, 0])
    return Geometry(
        first["kernel_shape"], first["strides"], first["dilations"], (pads[0], pads[1]), attribute(node, "group", 1)
    )


def channels_first(node: onnx.NodeProto, values: FloatArray) -> FloatArray:
    """Activations as [B, C, T]: matrix products have their channels last, and any number of axes before."""
    if node.op_type == "Conv":
        return values
    return np.ascontiguousarray(values.reshape(1, -1, values.shape[-1]).swapaxes(1, 2))


def levels(settings: Quantization) -> int:
    """Largest weight code: 127 for 8 bits, 7 for 4."""
    return (1 << (settings.weight_bits - 1)) - 1
