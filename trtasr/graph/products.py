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
from trtasr.graph.pointwise import channels_read, per_position
from trtasr.graph.rotate import turned
from trtasr.graph.tensors import added_biases, grouped, output_axis, ungrouped
from trtasr.quant.gptq import gptq_codes
from trtasr.quant.moments import Moments
from trtasr.quant.rotation import rotated, rotated_covariance
from trtasr.quant.scales import along, weight_scale
from trtasr.quant.smoothing import smoothing
from trtasr.values import FloatArray, Product, ScaleTable

NONE = np.zeros(0, np.float32)  # of factors
WIDEST = 3072  # channels of an input; the covariance of wider ones takes 8 bytes times their square, for each of them


def product_layers(model: onnx.ModelProto) -> list[NodeProto]:
    """The layers that get a `Product`: matrix products at every position with constants that nobody else reads."""
    readers, stored = Counter(name for node in model.graph.node for name in node.input), constants(model)
    alone = per_position(model)

    def own(node: NodeProto) -> bool:
        narrow = channels_read(node, stored[node.input[1]]) <= WIDEST
        return narrow and all(readers[name] == 1 for name in node.input[1:] if name)

    return [node for node in layers(model) if node.name in alone and own(node)]


def products_of(model: onnx.ModelProto, moments: Mapping[str, Moments], damping: float) -> dict[str, Product]:
    """Layer -> its weight, rounded.

    Args:
        model: FP32 graph, centered.
        moments: of the inputs of its layers, with products of channels; a layer that never ran has none.
        damping: of GPTQ, of the mean variance, added to every variance. What synthetic features leave out must not look
            free: with 0.5 no layer of QuartzNet15x5 has more noise on speech than by rounding to nearest, with 0.05
            some have (docs/ablation.md).

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
            biases = [bias_of(node, stored, linear)[1] for node in nodes]
            made = rounded_together(forms, weights, biases, seen, scale, damping)
            found |= {node.name: product for node, product in zip(nodes, made, strict=True)}
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


def rounded_together(
    forms: Sequence[Form],
    weights: Sequence[FloatArray],
    biases: Sequence[FloatArray],
    seen: Moments,
    scale: FloatArray,
    damping: float,
) -> list[Product]:
    """The products of layers that read the same: output channels are rounded each for itself, so in one matrix."""
    covariance = seen.covariance / np.outer(scale, scale) if scale.size else seen.covariance
    covariance = rotated_covariance(covariance) if forms[0].turn else covariance
    rows = [grouped(form.node, form.multiplied(weight, scale))[0] for form, weight in zip(forms, weights, strict=True)]
    steps = [weight_scale(row.astype(np.float32), 0).scales for row in rows]
    codes = gptq_codes(np.concatenate(rows)[None], covariance[None], np.concatenate(steps)[None], damping=damping)[0]
    parts, found = np.split(codes, np.cumsum([len(row) for row in rows])[:-1]), list[Product]()
    for form, weight, part, step, bias in zip(forms, weights, parts, steps, biases, strict=True):
        own = ungrouped(form.node, part, weight.shape).astype(np.int8)
        found.append(product_of(form, weight, Product(own, step, bias, scale), seen))
    return found


def product_of(form: Form, weight: FloatArray, product: Product, seen: Moments) -> Product:
    """A product whose bias makes up for what its codes do to the mean of the output."""
    if not product.bias.size:
        return product
    change = grouped(form.node, form.stored(product))[0] - grouped(form.node, weight)[0]
    return replace(product, bias=(product.bias - change @ seen.mean).astype(np.float32))


def with_products(model: onnx.ModelProto, table: ScaleTable, quantized: Collection[str]) -> onnx.ModelProto:
    """The FP32 graph whose quantized layers have the weights and biases of their products.

    Args:
        model: centered FP32 graph; not changed.
        table: with products; without any the model itself is returned.
        quantized: names of the nodes that get a scale per position.

    Raises:
        UsageError: a product that does not fit the graph.
    """
    if not table.products:
        return model
    check_products(model, table)
    stored, linear, turns = constants(model), added_biases(model), turned(model)
    changed: dict[str, FloatArray] = {}
    for node in product_layers(model):
        if node.name in quantized and node.name in table.products:
            product, (name, _) = table.products[node.name], bias_of(node, stored, linear)
            weight = Form(node, node.name in turns).stored(product)
            changed |= {node.input[1]: weight} | ({name: product.bias} if name else {})
    new = [tensor(item.name, changed[item.name]) if item.name in changed else item for item in stored.values()]
    return rebuilt(model, model.graph.node, new)


def check_products(model: onnx.ModelProto, table: ScaleTable) -> None:
    """Refuse products that do not fit a graph, or layers that read the same tensor with other factors.

    Raises:
        UsageError: naming the layer.
    """
    stored, linear, factors = constants(model), added_biases(model), dict[str, FloatArray]()
    nodes = {node.name: node for node in product_layers(model)}
    for name, product in table.products.items():
        if name not in nodes:
            raise misfit(name, "is no matrix product at every position of this graph")
        node, dims = nodes[name], tuple(stored[nodes[name].input[1]].dims)
        outputs, bias = dims[output_axis(node, len(dims))], bias_of(node, stored, linear)[1]
        expected = dims, (outputs,), bias.shape, (channels_read(node, stored[node.input[1]]),)
        smoothing = product.smoothing.shape if product.smoothing.size else expected[3]
        if (product.codes.shape, product.scales.shape, product.bias.shape, smoothing) != expected:
            raise misfit(name, "has arrays of other sizes there than in this graph")
        if not np.array_equal(factors.setdefault(node.input[0], product.smoothing), product.smoothing):
            raise misfit(name, "has other factors there than another layer that reads the same")


def misfit(layer: str, why: str) -> UsageError:
    """A product that does not fit."""
    return UsageError(f"scale table: {layer} {why}", "remake the scale table with `make calib`, or add --recalibrate")
