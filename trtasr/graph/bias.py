"""Bias correction: what rounding a weight does to the mean of its layer's output is taken off by the bias.

    bq = b - (Wq - W) E[x]                          Nagel et al. 2019, arXiv 1906.04721, section 4.2

Every layer for itself, at the means of what full precision computes: nothing depends on the layers before. A mean error
is the same in every frame, so it adds up where noise does not.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from trtasr.graph.edit import constants
from trtasr.graph.tensors import WEIGHTED, added_biases, attribute, grouped, output_axis
from trtasr.quant.moments import Moments
from trtasr.quant.propagate import Matrix
from trtasr.quant.ranges import CODES
from trtasr.values import FloatArray, WeightScale


def moments_of(model: onnx.ModelProto, second: Collection[str] = ()) -> dict[str, Moments]:
    """Where to add up what the layers of a graph read: input of a layer -> nothing seen yet.

    Args:
        model: FP32 graph.
        second: inputs whose products of channels are added up too.
    """
    stored, found = constants(model), dict[str, Moments]()
    for node in layers(model):
        dims, convolution = stored[node.input[1]].dims, node.op_type == "Conv"
        own = math.prod(dims) // dims[output_axis(node, len(dims))]
        channels = dims[1] * attribute(node, "group", 1) if convolution else own
        found[node.input[0]] = Moments(channels, convolution, node.input[0] in second)
    return found


def watched(
    stream: Iterable[tuple[str, FloatArray]], moments: Mapping[str, Moments]
) -> Iterator[tuple[str, FloatArray]]:
    """A stream of (tensor, values without the batch axis), of which moments are added up on its way."""
    for name, values in stream:
        if name in moments:
            moments[name].add(values)
        yield name, values


def corrected_biases(
    model: onnx.ModelProto,
    weights: Mapping[str, WeightScale],
    moments: Mapping[str, Moments],
    offsets: Mapping[str, FloatArray],
) -> dict[str, FloatArray]:
    """Bias -> its values for a layer whose weight is rounded to nearest, float32 [O].

    Args:
        model: FP32 graph, centered.
        weights: their scales.
        moments: of the inputs of its layers; a layer that never ran keeps its bias.
        offsets: input of a layer -> [C] that centering has subtracted from it. They are part of x here, as
            `trtasr.graph.center` gives them back through the weights that are used.
    """
    stored, linear = constants(model), added_biases(model)
    found: dict[str, FloatArray] = {}
    for node in layers(model):
        seen, (name, bias) = moments[node.input[0]], bias_of(node, stored, linear)
        if name and seen.count:
            mean = seen.mean + offsets.get(node.input[0], np.float32(0))
            weight = grouped(node, numpy_helper.to_array(stored[node.input[1]]))
            error = output_error(rounding(weight, weights[node.input[1]]), mean)
            found[name] = (bias - error).astype(np.float32)
    return found


def layers(model: onnx.ModelProto) -> list[NodeProto]:
    """The nodes that have a stored weight."""
    stored = {item.name for item in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type in WEIGHTED and node.input[1] in stored]


def rounding(weight: Matrix, entry: WeightScale) -> Matrix:
    """Wq - W, [groups, O / groups, d], rounded to nearest."""
    steps = entry.scales.astype(np.float64).reshape(*weight.shape[:2], 1)
    return np.asarray(np.clip(np.rint(weight / steps), -CODES, CODES) * steps - weight)


def output_error(change: Matrix, point: Matrix) -> Matrix:
    """Error of a layer's output, [O], where every position of its input is a point.

    Args:
        change: Wq - W, [groups, O / groups, d], d channels times taps. At the ends of an utterance a wide kernel reads
            fewer of them.
        point: [C].
    """
    groups, outputs, _ = change.shape
    taps = change.reshape(groups, outputs, len(point) // groups, -1).sum(3)
    return np.asarray(np.matmul(taps, point.reshape(groups, -1, 1)).reshape(-1))


def bias_of(
    node: NodeProto, stored: Mapping[str, TensorProto], linear: Mapping[str, tuple[str, FloatArray]]
) -> tuple[str, FloatArray]:
    """Name and values of a layer's bias, its own or the one that a node behind it adds; no name without one."""
    if len(node.input) > 2 and node.input[2]:
        return node.input[2], np.asarray(numpy_helper.to_array(stored[node.input[2]]), np.float32)
    return linear.get(node.name, ("", np.zeros(0, np.float32)))
