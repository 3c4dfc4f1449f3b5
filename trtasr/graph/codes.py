"""Which 8-bit codes the layers of an integer-only graph read: unsigned ones where a tensor cannot be far below zero."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from trtasr.graph.edit import consumers, scale_of
from trtasr.graph.tensors import WEIGHTED
from trtasr.quant.fixed_point import ZERO_POINT
from trtasr.values import ScaleTable, TensorScale

LARGEST_CODE = 255
SWISH_LOW = -0.2785  # the minimum of x / (1 + e^-x) is -0.27846
KEPT = ("Transpose", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze", "Flatten", "Identity", "MaxPool", "Dropout")


@dataclass(frozen=True)
class Codes:
    """uint8 codes of one tensor: real = scale (code - zero point).

    Attributes:
        scale: float32.
        zero: zero point, 0 .. 255.
    """

    scale: np.float32
    zero: int

    @property
    def reach(self) -> int:
        """Largest |code - zero point|."""
        return max(self.zero, LARGEST_CODE - self.zero)


def code_formats(model: onnx.ModelProto, table: ScaleTable) -> dict[str, Codes]:
    """Codes of every tensor that a node with a constant weight reads.

    The table's magnitude decides all of them: symmetric codes -128 .. 127 with its scale; behind ReLU 0 .. 255 with its
    unsigned scale (Q-ASR, section 3, does the same); behind Swish 255 steps from Swish's minimum to the magnitude.

    Raises:
        UsageError: the table lacks a tensor.
    """
    low, stored = lowest(model), {item.name for item in model.graph.initializer}
    read = [node.input[0] for node in model.graph.node if node.op_type in WEIGHTED and node.input[1] in stored]
    return {name: codes_from(scale_of(table, name), low.get(name, -math.inf)) for name in dict.fromkeys(read)}


def codes_from(entry: TensorScale, low: float) -> Codes:
    """Codes of a tensor of that magnitude that is nowhere below `low`."""
    if low >= 0:
        return Codes(entry.unsigned_scale, 0)
    if low > -entry.amax:
        scale = np.float32((entry.amax - low) / LARGEST_CODE)
        return Codes(scale, round(-low / float(scale)))
    return Codes(entry.scale, ZERO_POINT)


def lowest(model: onnx.ModelProto) -> dict[str, float]:
    """What is known of the least value of tensors, from their operators alone; those without a bound are left out."""
    known: dict[str, float] = {}
    shares = unit_tensors(model)
    gates = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Sigmoid"}
    known.update(dict.fromkeys(shares, 0.0))
    for node in model.graph.node:
        found = least(node, known, shares, gates)
        if found > -math.inf:
            known.update(dict.fromkeys(node.output, found))
    return known


def unit_tensors(model: onnx.ModelProto) -> set[str]:
    """Tensors between 0 and 1: masks, sigmoids, softmaxes."""
    readers = consumers(model)
    clipped = [node.output[0] for node in model.graph.node if node.op_type == "Clip"]
    casts = [node for name in clipped for node in readers[name] if node.op_type == "Cast"]
    masks = {node.output[0] for node in casts if node.attribute[0].i == TensorProto.FLOAT}
    found = masks | {node.output[0] for node in model.graph.node if node.op_type in ("Sigmoid", "Softmax")}
    for node in model.graph.node:
        if node.op_type == "Unsqueeze" and node.input[0] in found:
            found.add(node.output[0])
    return found


def least(node: NodeProto, known: Mapping[str, float], shares: set[str], gates: Mapping[str, str]) -> float:
    """Least value of a node's outputs."""
    low = [known.get(name, -math.inf) for name in node.input]
    if node.op_type == "Relu":
        return 0.0
    if node.op_type in KEPT:
        return low[0]
    if node.op_type == "Pad":
        return min(low[0], 0.0)
    if node.op_type == "Add":
        return sum(low)
    if node.op_type == "Max":
        return max(low)
    return least_product(node, low, shares, gates) if node.op_type == "Mul" else -math.inf


def least_product(node: NodeProto, low: list[float], shares: set[str], gates: Mapping[str, str]) -> float:
    """Swish, a tensor under a mask, or two tensors that are not negative."""
    first, second = node.input
    if gates.get(first) == second or gates.get(second) == first:
        return SWISH_LOW
    for share, other in ((first, low[1]), (second, low[0])):
        if share in shares:
            return min(other, 0.0)
    return 0.0 if min(low) >= 0 else -math.inf
