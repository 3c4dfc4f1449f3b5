"""Shift channels between a depthwise and a pointwise convolution; the function stays the same."""

from collections import defaultdict
from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from trtasr.errors import UsageError
from trtasr.graph.edit import constants, consumers, rebuilt, tensor, weight_scales_of
from trtasr.graph.pointwise import is_pointwise
from trtasr.graph.tensors import attribute
from trtasr.quant.scales import quantize_weight
from trtasr.values import FloatArray, ScaleTable


def centerable(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """Tensors whose channels may be shifted: outputs of depthwise convolutions that only a pointwise one reads.

    Returns:
        output of the depthwise convolution -> all tensors that carry the shifted values (itself and its masked form).
    """
    found = {}
    readers = data_readers(model)
    for node in model.graph.node:
        if node.op_type == "Conv" and attribute(node, "group", 1) > 1:
            carried = carriers_of(node.output[0], readers)
            if carried and reads_pointwise_weight(readers[carried[-1]][0], model):
                found[node.output[0]] = carried
    return found


def center(model: onnx.ModelProto, offsets: Mapping[str, FloatArray]) -> onnx.ModelProto:
    """Subtract per-channel offsets behind depthwise convolutions and give them back in the pointwise bias.

        Conv(W1, b1) -> Mul(mask) -> Conv(W2, b2)
    becomes
        Conv(W1, b1 - b) -> Mul(mask) -> Conv(W2, b2 + W2 b)

    Valid frames compute the same; padded frames differ, and the next mask removes them.

    Args:
        model: FP32 graph with batch norm folded; not changed.
        offsets: output of a depthwise convolution -> b float32 [C]; without any the model itself is returned.

    Raises:
        UsageError: a tensor that cannot be centered in this graph.
    """
    if not offsets:
        return model
    possible, readers = centerable(model), data_readers(model)
    unknown = sorted(set(offsets) - set(possible))
    if unknown:
        raise UsageError(
            f"centering: {unknown[0]!r} is not between a depthwise and a pointwise convolution",
            "calibrate again for this graph",
        )
    stored = constants(model)
    shifts: dict[str, np.typing.NDArray[np.float64]] = {}
    for name, offset in offsets.items():
        pointwise = readers[possible[name][-1]][0]
        weight = numpy_helper.to_array(stored[pointwise.input[1]])[:, :, 0].astype(np.float64)
        shifts[name] = -offset.astype(np.float64)
        shifts[pointwise.output[0]] = weight @ offset.astype(np.float64)
    biases = {}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Conv" and node.output[0] in shifts:
            old = numpy_helper.to_array(stored[node.input[2]]) if len(node.input) > 2 else np.float64(0)
            bias = centered_bias(node)
            biases[bias] = (old + shifts[node.output[0]]).astype(np.float32)
            nodes.append(with_bias(node, bias))
        else:
            nodes.append(node)
    return rebuilt(model, nodes, {**stored, **{name: tensor(name, value) for name, value in biases.items()}}.values())


def uncentered(model: onnx.ModelProto, offsets: Mapping[str, FloatArray]) -> onnx.ModelProto:
    """The graph before `center` shifted it by these offsets; the tensors that carried them get names of their own.

        Conv(W1, b1 - b) -> Mul(mask) -> Conv(W2, b2 + W2 b)
    becomes
        Conv(W1, b1) -> Mul(mask) -> Conv(W2, b2)

    Where every frame has a scale of its own, an offset does harm: a frame of silence is all offset, and is rounded at
    that scale. The new names say that the values are others than those of the centered graph.

    Args:
        model: centered FP32 graph; not changed. Weights may have been corrected since: b2 is found by those it has.
        offsets: that it was centered with; without any the model itself is returned.

    Raises:
        UsageError: a tensor that is not centered in this graph.
    """
    if not offsets:
        return model
    carried = {name: f"{name}_uncentered" for first in offsets for name in centerable(model).get(first, ())}
    graph = center(model, {name: -offset for name, offset in offsets.items()})
    for node in graph.graph.node:
        for names in (node.input, node.output):
            names[:] = [carried.get(name, name) for name in names]
    return graph


def centered_bias(node: NodeProto) -> str:
    """Name of the bias of a convolution whose channels are shifted."""
    return f"{node.name}.centered_bias"


def give_back_quantized(model: onnx.ModelProto, table: ScaleTable, quantized: Collection[str]) -> onnx.ModelProto:
    """Give offsets back through the weights that will be used: the pointwise bias gets (Wq - W) b on top of W b.

    Without it silence, which centering moves to -b, would carry the weight rounding error (Wq - W) b as a constant.

    Args:
        model: centered FP32 graph; not changed.
        table: offsets b and weight scales (Wq is what they round W to); without offsets the model itself is returned.
        quantized: names of the nodes that will have INT8 weights; the others need nothing.

    Raises:
        UsageError: an offset for a tensor that is not centered in this graph, or a missing weight scale.
    """
    if not table.offsets:
        return model
    possible, readers, stored = centerable(model), data_readers(model), constants(model)
    changed = {}
    for name, offset in table.offsets.items():
        if name not in possible:
            raise UsageError(f"centering: {name!r} is not centered in this graph", "calibrate again for this graph")
        pointwise = readers[possible[name][-1]][0]
        if pointwise.name in quantized:
            weight = numpy_helper.to_array(stored[pointwise.input[1]])
            scale = weight_scales_of(table, pointwise.input[1])
            codes = quantize_weight(weight, scale.scales, scale.axis)
            rounding = codes * scale.scales[:, None, None].astype(np.float64) - weight
            bias = numpy_helper.to_array(stored[pointwise.input[2]]) + rounding[:, :, 0] @ offset.astype(np.float64)
            changed[pointwise.input[2]] = tensor(pointwise.input[2], bias.astype(np.float32))
    return rebuilt(model, model.graph.node, [changed.get(item.name, item) for item in model.graph.initializer])


def data_readers(model: onnx.ModelProto) -> dict[str, list[NodeProto]]:
    """Consumers of each tensor's values; Shape reads none."""
    return defaultdict(
        list, {name: [node for node in nodes if node.op_type != "Shape"] for name, nodes in consumers(model).items()}
    )


def carriers_of(name: str, readers: Mapping[str, list[NodeProto]]) -> tuple[str, ...]:
    """The tensors that carry a centered output to the one convolution that reads it; none where others read it."""
    carried = [name]
    while len(readers[carried[-1]]) == 1 and readers[carried[-1]][0].op_type == "Mul":
        carried.append(readers[carried[-1]][0].output[0])
    single = len(readers[carried[-1]]) == 1 and readers[carried[-1]][0].op_type == "Conv"
    return tuple(carried) if single else ()


def reads_pointwise_weight(node: NodeProto, model: onnx.ModelProto) -> bool:
    """Whether a convolution has a stored weight of one tap."""
    weight = constants(model).get(node.input[1])
    return weight is not None and len(weight.dims) == 3 and is_pointwise(node, weight)


def with_bias(node: NodeProto, bias: str) -> NodeProto:
    """A copy of the convolution with a bias."""
    changed = helper.make_node("Conv", [node.input[0], node.input[1], bias], list(node.output), name=node.name)
    changed.attribute.extend(node.attribute)
    return changed
