"""Weights of layers with a scale per position, rounded by GPTQ on the grid that they are multiplied on.

    min tr((Wq - W) C (Wq - W)^T),   bq = b - (Wq - W) E[x]

with the mean and the covariance C of a layer's input in full precision (GPTQ: Frantar et al. 2022, arXiv 2210.17323,
about the mean, since the bias takes off what the mean adds). Channels behind layer norms are smoothed first where that
helps, then those of some layers rotated (`trtasr.graph.rotate`): with A = R diag(1 / s) it is W A^-1 that is rounded,
and A C A^T that it is rounded for. Every layer is decided for itself: nothing depends on the layers before.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper
from tqdm import tqdm

from trtasr.errors import UsageError
from trtasr.graph.bias import bias_of, layers
from trtasr.graph.edit import constants, rebuilt, tensor, weight_scales_of
from trtasr.graph.pointwise import per_position
from trtasr.graph.rotate import turned
from trtasr.graph.tensors import added_biases, grouped, output_axis, ungrouped
from trtasr.quant.gptq import gptq_codes
from trtasr.quant.moments import Moments
from trtasr.quant.rotation import rotated, rotated_covariance
from trtasr.quant.scales import along, weight_scale
from trtasr.quant.smoothing import smoothing
from trtasr.values import FloatArray, Product, ScaleTable

# Of the mean variance, added to every variance. What synthetic features leave out must not look free: with 0.5 no layer
# of QuartzNet15x5 has more noise on speech than by rounding to nearest, with 0.05 some have (docs/ablation.md).
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
    stored, linear, even, turns = constants(model), added_biases(model), normalized(model), turned(model)
    found: dict[str, Product] = {}
    for (source, turn), nodes in tqdm(alike(model, turns).items(), "round", unit="tensor", disable=None):
        if (seen := moments[source]).count:
            forms = [Form(node, turn) for node in nodes]
            weights = [numpy_helper.to_array(stored[node.input[1]]) for node in nodes]
            scale = smoothing_of(forms, weights, seen) if source in even else NONE
            for form, weight in zip(forms, weights, strict=True):
                _, bias = bias_of(form.node, stored, linear)
                found[form.node.name] = product_of(form, weight, bias, seen, scale)
    return found


def normalized(model: onnx.ModelProto) -> set[str]:
    """Tensors that a layer norm gives, transposed or not: the only ones that are smoothed.

    The norm holds their channels to what its weights say, so that features without audio show how large they are. On
    real speech, of every second layer: behind layer norms 2.4 (Whisper tiny.en), 3.9 (Conformer small) and 6.9 dB
    (Moonshine tiny) less noise; behind activation functions and depthwise convolutions up to 6 dB more, though the
    features promised less (docs/method.md, Smoothing).
    """
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "LayerNormalization" or (node.op_type == "Transpose" and node.input[0] in found):
            found.add(node.output[0])
    return found


def alike(model: onnx.ModelProto, turns: Collection[str]) -> dict[tuple[str, bool], list[NodeProto]]:
    """Tensor, and whether it is rotated -> the layers that read it so, and share its codes."""
    groups: dict[tuple[str, bool], list[NodeProto]] = defaultdict(list)
    for node in product_layers(model):
        groups[node.input[0], node.name in turns].append(node)
    return groups


@dataclass(frozen=True)
class Form:
    """In which form a layer's weight is multiplied.

    Attributes:
        node: the layer.
        turn: whether its channels are rotated.
    """

    node: NodeProto
    turn: bool

    def multiplied(self, weight: FloatArray, scale: FloatArray) -> FloatArray:
        """W diag(s), or W diag(s) R^T, of a weight W as stored; no factors s for 1."""
        axis = 1 - output_axis(self.node, weight.ndim)
        heavy = weight * along(scale, axis, weight.ndim) if scale.size else weight
        return rotated(heavy, axis) if self.turn else heavy

    def stored(self, product: Product) -> FloatArray:
        """The weight of a product as the FP32 graph has it: neither rotated nor smoothed."""
        axis, rank = output_axis(self.node, product.codes.ndim), product.codes.ndim
        values = product.codes * along(product.scales, axis, rank)
        values = rotated(values, 1 - axis) if self.turn else values
        return values / along(product.smoothing, 1 - axis, rank) if product.smoothing.size else values


def multiplied(node: NodeProto, weight: FloatArray, table: ScaleTable, turn: bool) -> tuple[FloatArray, FloatArray]:
    """A layer's weight in the form that its codes are of, as stored, and the scales of that, float32 [O].

    Args:
        node: the layer.
        weight: as the FP32 graph has it, which for a layer with a product is `with_products`.
        table: with the product, whose scales these are; else those of the rotated weight, or the table's own.
        turn: whether its channels are rotated.

    Raises:
        UsageError: the table has no scales for the weight.
    """
    entry, product = weight_scales_of(table, node.input[1]), table.products.get(node.name)
    moved = Form(node, turn).multiplied(weight, product.smoothing if product else NONE)
    if product:
        return moved, product.scales
    return moved, weight_scale(moved, entry.axis).scales if turn else np.asarray(entry.scales, np.float32)


def smoothing_of(forms: Sequence[Form], weights: Sequence[FloatArray], seen: Moments) -> FloatArray:
    """Factors of the channels that these layers read; empty for none."""
    rows = [grouped(form.node, weight)[0].astype(np.float32) for form, weight in zip(forms, weights, strict=True)]
    return smoothing(seen.sample, rows, lambda values: rotated(values, 1) if forms[0].turn else values)


def product_of(form: Form, weight: FloatArray, bias: FloatArray, seen: Moments, scale: FloatArray) -> Product:
    """One layer's weight on a grid of its own, and what its bias becomes."""
    node, moved = form.node, form.multiplied(weight, scale)
    scales, covariance = weight_scale(moved, output_axis(node, weight.ndim)).scales, seen.covariance
    if scale.size:
        covariance = covariance / np.outer(scale, scale)
    if form.turn:
        covariance = rotated_covariance(covariance)
    chosen = gptq_codes(grouped(node, moved), covariance[None], scales[None], damping=DAMPING)
    product = Product(ungrouped(node, chosen, weight.shape).astype(np.int8), scales, bias, scale)
    change = grouped(node, form.stored(product))[0] - grouped(node, weight)[0]
    return replace(product, bias=(bias - change @ seen.mean).astype(np.float32)) if bias.size else product


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
    stored, linear, turns = constants(model), added_biases(model), turned(model)
    changed: dict[str, FloatArray] = {}
    for node in product_layers(model):
        if node.name in quantized and node.name in table.products:
            product, (name, bias) = table.products[node.name], bias_of(node, stored, linear)
            if product.codes.shape != tuple(stored[node.input[1]].dims) or product.bias.shape != bias.shape:
                raise UsageError(
                    f"{node.name}: the scale table has a weight of another shape", "calibrate again for this graph"
                )
            weight = Form(node, node.name in turns).stored(product)
            changed |= {node.input[1]: weight} | ({name: product.bias} if name else {})
    new = [tensor(item.name, changed[item.name]) if item.name in changed else item for item in stored.values()]
    return rebuilt(model, model.graph.node, new)
