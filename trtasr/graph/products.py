"""Weights of layers with a scale per position, rounded by GPTQ on the grid that they are multiplied on.

    min tr((Wq - W) C (Wq - W)^T),   bq = b - (Wq - W) E[x]

with the mean and the covariance C of a layer's input in full precision (GPTQ: Frantar et al. 2022, arXiv 2210.17323,
about the mean, since the bias takes off what the mean adds). Channels behind layer norms are smoothed first where that
helps, then those of some layers rotated (`trtasr.graph.rotate`): with A = R diag(1 / s) it is W A^-1 that is rounded,
and A C A^T that it is rounded for. Every layer is decided for itself: nothing depends on the layers before.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper
from tqdm import tqdm

from trtasr.errors import UsageError
from trtasr.graph.bias import bias_of, layers
from trtasr.graph.edit import constants, rebuilt, tensor
from trtasr.graph.pointwise import per_position
from trtasr.graph.rotate import turns
from trtasr.graph.tensors import added_biases, grouped, output_axis, ungrouped
from trtasr.quant.gptq import gptq_codes
from trtasr.quant.moments import Moments
from trtasr.quant.rotation import rotated, rotated_covariance
from trtasr.quant.scales import along, weight_scale
from trtasr.quant.smoothing import smoothing
from trtasr.values import FloatArray, Product, ScaleTable

# Of the mean variance, added to every variance. What synthetic features leave out must not look free: with 0.5 no layer
# of QuartzNet15x5 has more noise on speech than by rounding to nearest, with 0.01 some have (docs/ablation.md).
DAMPING = 0.5
NONE = np.zeros(0, np.float32)  # of factors


def product_layers(model: onnx.ModelProto) -> list[NodeProto]:
    """The layers that get a `Product`: matrix products at every position with a weight that nobody else reads."""
    readers = Counter(name for node in model.graph.node for name in node.input)
    alone = per_position(model)
    return [node for node in layers(model) if node.name in alone and readers[node.input[1]] == 1]


def products_of(model: onnx.ModelProto, moments: Mapping[str, Moments]) -> dict[str, Product]:
    """Layer -> its weight, rounded.

    Args:
        model: FP32 graph, centered.
        moments: of the inputs of its layers, with products of channels; a layer that never ran has none.

    Raises:
        QualityError: values that are NaN or infinite.
    """
    stored, linear, even = constants(model), added_biases(model), normalized(model)
    found: dict[str, Product] = {}
    for nodes in tqdm(alike(product_layers(model)), "round", unit="tensor", disable=None):
        if (seen := moments[nodes[0].input[0]]).count:
            scale = smoothing_of(nodes, stored, seen) if nodes[0].input[0] in even else NONE
            for node in nodes:
                _, bias = bias_of(node, stored, linear)
                found[node.name] = product_of(node, numpy_helper.to_array(stored[node.input[1]]), bias, seen, scale)
    return found


def normalized(model: onnx.ModelProto) -> set[str]:
    """Tensors that a layer norm gives, transposed or not: the only ones that are smoothed.

    The norm holds their channels to what its weights say, so that features without audio show how large they are. On
    real speech, of every second layer: behind layer norms 2.4 (Whisper tiny.en), 4.2 (Conformer small) and 6.9 dB
    (Moonshine tiny) less noise; behind activation functions and depthwise convolutions up to 6 dB more, though the
    features promised less (docs/ablation.md).
    """
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "LayerNormalization" or (node.op_type == "Transpose" and node.input[0] in found):
            found.add(node.output[0])
    return found


def alike(nodes: Sequence[NodeProto]) -> list[list[NodeProto]]:
    """The layers that read the same tensor, and are rotated or not alike: they share its codes."""
    groups: dict[tuple[str, bool], list[NodeProto]] = defaultdict(list)
    for node in nodes:
        groups[node.input[0], turns(node)].append(node)
    return list(groups.values())


def smoothing_of(nodes: Sequence[NodeProto], stored: Mapping[str, TensorProto], seen: Moments) -> FloatArray:
    """Factors of the channels that these layers read; empty for none."""
    weights = [grouped(node, numpy_helper.to_array(stored[node.input[1]]))[0].astype(np.float32) for node in nodes]
    return smoothing(seen.sample, weights, lambda rows: rotated(rows, 1) if turns(nodes[0]) else rows)


def product_of(node: NodeProto, weight: FloatArray, bias: FloatArray, seen: Moments, scale: FloatArray) -> Product:
    """One layer's weight on a grid of its own, and what its bias becomes."""
    axis, moved = output_axis(node, weight.ndim), multiplied(node, weight, scale)
    scales, covariance = weight_scale(moved, axis).scales, seen.covariance
    if scale.size:
        covariance = covariance / np.outer(scale, scale)
    if turns(node):
        covariance = rotated_covariance(covariance)
    chosen = gptq_codes(grouped(node, moved), covariance[None], scales[None], damping=DAMPING)
    product = Product(ungrouped(node, chosen, weight.shape).astype(np.int8), scales, bias, scale)
    change = grouped(node, as_stored(node, product))[0] - grouped(node, weight)[0]
    return replace(product, bias=(bias - change @ seen.mean).astype(np.float32)) if bias.size else product


def multiplied(node: NodeProto, weight: FloatArray, scale: FloatArray) -> FloatArray:
    """A weight W as stored, in the form that codes are multiplied with: W diag(s), or W diag(s) R^T.

    Args:
        node: its layer.
        weight: W.
        scale: s of the channels, float32 [I]; empty for 1.
    """
    axis = 1 - output_axis(node, weight.ndim)
    heavy = weight * along(scale, axis, weight.ndim) if scale.size else weight
    return rotated(heavy, axis) if turns(node) else heavy


def as_stored(node: NodeProto, product: Product) -> FloatArray:
    """A layer's weight as the FP32 graph has it: neither rotated nor smoothed."""
    axis, rank = output_axis(node, product.codes.ndim), product.codes.ndim
    values = product.codes * along(product.scales, axis, rank)
    values = rotated(values, 1 - axis) if turns(node) else values
    return values / along(product.smoothing, 1 - axis, rank) if product.smoothing.size else values


def with_products(model: onnx.ModelProto, table: ScaleTable, quantized: Collection[str]) -> onnx.ModelProto:
    """The FP32 graph whose quantized layers have the weights and biases of their products.

    Args:
        model: centered FP32 graph; not changed.
        table: with products; without any the model itself is returned.
        quantized: names of the nodes that get a scale per position.

    Raises:
        UsageError: a product of another shape than the graph's weight.
    """
    if not table.products:
        return model
    stored, linear = constants(model), added_biases(model)
    changed: dict[str, FloatArray] = {}
    for node in product_layers(model):
        if node.name in quantized and node.name in table.products:
            product, (name, bias) = table.products[node.name], bias_of(node, stored, linear)
            if product.codes.shape != tuple(stored[node.input[1]].dims) or product.bias.shape != bias.shape:
                raise UsageError(
                    f"{node.name}: the scale table has a weight of another shape", "calibrate again for this graph"
                )
            changed |= {node.input[1]: as_stored(node, product)} | ({name: product.bias} if name else {})
    new = [tensor(item.name, changed[item.name]) if item.name in changed else item for item in stored.values()]
    return rebuilt(model, model.graph.node, new)
