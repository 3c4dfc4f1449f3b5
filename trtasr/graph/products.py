"""Weights of layers with a scale per position, rounded by GPTQ on the grid that they are multiplied on.

    min tr((Wq - W) C (Wq - W)^T),   bq = b - (Wq - W) E[x]

with the mean and the covariance C of a layer's input in full precision (GPTQ: Frantar et al. 2022, arXiv 2210.17323,
about the mean, since the bias takes off what the mean adds). A layer that is rotated (`trtasr.graph.rotate`) has W R^T
and R C R^T in their place. Every layer is decided for itself: nothing depends on the layers before.
"""

from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper
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
from trtasr.values import FloatArray, Product, ScaleTable

# Of the mean variance, added to every variance. What synthetic features leave out must not look free: with 0.5 no layer
# of QuartzNet15x5 has more noise on speech than by rounding to nearest, with 0.01 some have (docs/ablation.md).
DAMPING = 0.5


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
    stored, linear = constants(model), added_biases(model)
    found: dict[str, Product] = {}
    for node in tqdm(product_layers(model), "round", unit="layer", disable=None):
        if (seen := moments[node.input[0]]).count:
            _, bias = bias_of(node, stored, linear)
            found[node.name] = product_of(node, numpy_helper.to_array(stored[node.input[1]]), bias, seen)
    return found


def product_of(node: NodeProto, weight: FloatArray, bias: FloatArray, seen: Moments) -> Product:
    """One layer's weight on a grid of its own, and what its bias becomes."""
    axis, covariance = output_axis(node, weight.ndim), seen.covariance
    turned = weight
    if turns(node):
        turned = rotated(weight, 1 - axis)
        covariance = rotated_covariance(covariance)
    scales = weight_scale(turned, axis).scales
    chosen = gptq_codes(grouped(node, turned), covariance[None], scales[None], damping=DAMPING)
    codes = ungrouped(node, chosen, weight.shape).astype(np.int8)
    change = grouped(node, as_stored(node, Product(codes, scales, bias)))[0] - grouped(node, weight)[0]
    return Product(codes, scales, (bias - change @ seen.mean).astype(np.float32) if bias.size else bias)


def as_stored(node: NodeProto, product: Product) -> FloatArray:
    """A layer's weight as the FP32 graph has it: what it is multiplied with, not rotated."""
    axis, rank = output_axis(node, product.codes.ndim), product.codes.ndim
    values = product.codes * along(product.scales, axis, rank)
    return rotated(values, 1 - axis) if turns(node) else values


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
