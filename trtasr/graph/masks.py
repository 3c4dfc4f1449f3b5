"""Masks, and products with them: which of these change what anybody reads, and graphs without the others."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from trtasr.graph.edit import constant_arrays, constants, consumers, producers, rebuilt, renamed_inputs
from trtasr.graph.pointwise import is_pointwise
from trtasr.graph.tensors import ELEMENTWISE, attribute, tensor_ranks
from trtasr.values import Array

CONDITIONS = ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "Not", "And", "Or")
Chosen = Callable[[NodeProto, str], bool]  # a product and its mask


def drop_pointwise_masks(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take out the masks behind which every frame is computed for itself, up to the next mask or an output.

        x -> Mul(mask) -> Conv(k = 1) -> Relu -> Mul(mask) -> Conv(k > 1)
    becomes
        x -> Conv(k = 1) -> Relu -> Mul(mask) -> Conv(k > 1)

    Frames within an utterance's length stay the same bits: no frame beyond it reaches one of them. What the outputs
    hold beyond the lengths changes, and nobody reads it. Followed are pointwise convolutions, elementwise operators,
    Q/DQ pairs with one scale, Transpose, and LogSoftmax over channels; in front of anything else (a wider kernel, a
    reduction, attention) the mask stays. Each mask between two layers would keep TensorRT from fusing them.

    Args:
        model: with or without Q/DQ; not changed.
    """
    walk = Walk(consumers(model), producers(model), tensor_ranks(model), constants(model))
    masks = length_masks(model)
    return without(model, masks, lambda product, mask: walk.stays_in_frame(product, mask, masks[mask]))


def without_masks(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take out every product with a length mask: a graph for utterances that fill their batch.

        x -> Mul(mask) -> Conv      becomes      x -> Conv

    It computes the same bits where every length is the number of frames, as at batch 1 without padding, and nothing
    of use elsewhere. Lengths remain an input, from which those of the outputs are computed. What is added to scores of
    attention is no product, and stays.

    Args:
        model: with or without Q/DQ; not changed.
    """
    return without(model, length_masks(model), lambda _node, _mask: True)


def without(model: onnx.ModelProto, masks: Collection[str], chosen: Chosen) -> onnx.ModelProto:
    """The graph with what a mask is multiplied with in place of the chosen products."""
    outputs = {value.name for value in model.graph.output}
    names: dict[str, str] = {}
    for node in model.graph.node:
        mask = next((name for name in node.input if name in masks), "") if node.op_type == "Mul" else ""
        if mask and node.output[0] not in outputs and chosen(node, mask):
            names[node.output[0]] = next(name for name in node.input if name != mask)
    nodes = [renamed_inputs(node, names) for node in model.graph.node if node.output[0] not in names]
    return rebuilt(model, nodes, model.graph.initializer) if names else model


def length_masks(model: onnx.ModelProto) -> dict[str, int]:
    """Tensors of 1 within the lengths and 0 beyond, as `trtasr.models.layers.length_mask` is exported -> time axis.

    They are clip(length - t, 0, 1), integers [B, T], converted to floating point and given axes of size 1.
    """
    values = constant_arrays(model)
    found: dict[str, tuple[int, int]] = {}  # axis of time, rank
    for node in model.graph.node:
        if is_step(node, values):
            found[node.output[0]] = 1, 2
        elif node.op_type == "Cast" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
        elif node.op_type == "Unsqueeze" and node.input[0] in found and node.input[1] in values:
            time, rank = found[node.input[0]]
            added = values[node.input[1]] % (rank + values[node.input[1]].size)
            kept = [axis for axis in range(rank + added.size) if axis not in added]
            found[node.output[0]] = kept[time], rank + added.size
    return {name: time for name, (time, _) in found.items()}


def mask_tensors(model: onnx.ModelProto) -> tuple[str, ...]:
    """Float tensors that are 0 or 1 by construction, of lengths or other conditions, in graph order.

        clip(length - t, 0, 1) -> Cast -> mask            t < length -> Cast -> mask

    What only reshapes a mask is not named.
    """
    values = constant_arrays(model)
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type in CONDITIONS or is_step(node, values):
            found.update(node.output)
    casts = [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in found]
    return tuple(node.output[0] for node in casts if to_float(node))


def to_float(node: NodeProto) -> bool:
    """Whether a Cast gives floating point."""
    return bool(np.issubdtype(onnx.helper.tensor_dtype_to_np_dtype(attribute(node, "to", 0)), np.floating))


def is_step(node: NodeProto, values: Mapping[str, Array]) -> bool:
    """Whether a node clips integers to 0 and 1."""
    bounds = [values.get(name) for name in node.input[1:]] if node.op_type == "Clip" else []
    return len(bounds) == 2 and all(
        bound is not None and bound.dtype.kind == "i" and bound.item() == limit
        for bound, limit in zip(bounds, (0, 1), strict=True)
    )


@dataclass(frozen=True)
class Walk:
    """From a product with a mask to what its frames reach.

    Attributes:
        readers: tensor -> nodes that read it.
        made_by: tensor -> its node.
        ranks: tensor -> number of dimensions.
        stored: initializers.
    """

    readers: Mapping[str, list[NodeProto]]
    made_by: Mapping[str, NodeProto]
    ranks: Mapping[str, int]
    stored: Mapping[str, TensorProto]

    def stays_in_frame(self, product: NodeProto, mask: str, time: int) -> bool:
        """Whether no frame reaches another one before it is multiplied with the mask again.

        Args:
            product: with the mask.
            mask: its tensor.
            time: the axis of time.
        """
        waiting, seen = [(product.output[0], time)], set[str]()
        while waiting:
            name, axis = waiting.pop()
            seen.add(name)
            for node in self.readers.get(name, []):
                if node.op_type == "Shape" or (node.op_type == "Mul" and mask in node.input):
                    continue
                after = self.time_behind(node, name, axis)
                if after is None:
                    return False
                waiting += [(output, after) for output in node.output if output not in seen]
        return True

    def time_behind(self, node: NodeProto, name: str, time: int) -> int | None:
        """The axis of time behind a node that computes every frame for itself; None for any other.

        Args:
            node: that reads the tensor.
            name: of the tensor.
            time: its axis of time.
        """
        rank = self.ranks.get(name, 0)
        if node.op_type == "Transpose":
            return list(attribute(node, "perm", range(rank)[::-1])).index(time)
        if node.op_type == "Conv":
            alone = time > 1 and self.is_pointwise(node)
        elif node.op_type == "LogSoftmax":
            alone = rank > 0 and attribute(node, "axis", -1) % rank != time
        else:
            alone = node.op_type in ELEMENTWISE and self.ranks.get(node.output[0]) == rank
        return time if alone else None

    def is_pointwise(self, node: NodeProto) -> bool:
        """Whether a convolution, its weight quantized or not, is a product in every frame."""
        made = self.made_by.get(node.input[1])
        name = made.input[0] if made is not None and made.op_type == "DequantizeLinear" else node.input[1]
        return name in self.stored and is_pointwise(node, self.stored[name])
