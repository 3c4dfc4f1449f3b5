"""Convolution over time -> convolution over an image of height 1: [B, C, T] -> [B, C, 1, T]."""

import copy
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain

import numpy as np
import onnx
from onnx import NodeProto, TensorProto
from onnx.helper import make_node

from trtasr.graph.edit import constant_arrays, consumers, producers, rebuilt, renamed_inputs, tensor
from trtasr.graph.tensors import ELEMENTWISE, attribute, tensor_ranks
from trtasr.values import Array

RANK, CHANNELS, HEIGHT = 3, 1, 2  # of [B, C, T]; axes of [B, C, 1, T]
CODES = ("QuantizeLinear", "DequantizeLinear")
Made = tuple[list[NodeProto], list[TensorProto]]


def conv1d_to_conv2d(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn convolutions over time, and what stands between them, into the same over [B, C, 1, T].

        x [B,C,T] -> Mul(mask [B,1,T]) -> Conv(W [O,I,k]) -> Relu -> ... -> Conv -> Transpose
    becomes
        x -> Unsqueeze -> Mul(mask [B,1,1,T]) -> Conv(W [O,I,1,k]) -> Relu -> ... -> Conv -> Squeeze -> Transpose

    Pads, strides, dilations, constants of sums and products, indices into shapes and the Unsqueeze that makes a mask
    follow; scales and their axes stay, and so do the names of nodes. ONNX Runtime computes the same bits, but for the
    blocked layouts that it has for two axes only (NchwcTransformer), which sum in another order.

    What changes are runs of convolutions, elementwise operators, Q/DQ pairs, and Split and Concat of channels.
    QuartzNet and Jasper are one run between input and head; a Conformer has one in each layer, between two Transposes
    (its subsampling has two axes already); Whisper's encoder begins with one of two convolutions. Linear layers,
    attention and decoders have none. TensorRT's parser writes an Unsqueeze and a Squeeze for every convolution over
    time: a run that would need more than these stays as it is.

    Args:
        model: with or without Q/DQ; not changed.

    Returns:
        the model itself where nothing changes.
    """
    ranks, values = tensor_ranks(model), constant_arrays(model)
    inside = run_nodes(model, ranks, values)
    if not inside:
        return model
    made = {name for node in model.graph.node if node.output[0] in inside for name in node.output}
    border = Border(producers(model), ranks, values, made, {value.name for value in model.graph.output})
    asked = shapes_asked(model, made, values)
    nodes: list[NodeProto] = []
    added: dict[str, TensorProto] = {}
    for node in model.graph.node:
        if node.output[0] in inside:
            changed, constants = border.within(node)
        elif node.input and node.input[0] in asked:
            changed, constants = asked_of_image(node, values)
        else:
            changed, constants = border.outside(node, node.output[0] in asked)
        nodes += changed
        added.update({item.name: item for item in constants})
    first = {node.output[0]: node for node in reversed(nodes)}  # several nodes may have asked for one Unsqueeze
    nodes = [node for node in nodes if first[node.output[0]] is node]
    return rebuilt(model, nodes, [*model.graph.initializer, *added.values()])


@dataclass(frozen=True)
class Border:
    """Where three dimensions become four, and four three.

    Attributes:
        made_by: tensor -> its node.
        ranks: tensor -> its rank.
        values: constant -> its value. All three are of the graph as it was.
        made: tensors that get a fourth dimension.
        outputs: of the graph, which keep three.
    """

    made_by: Mapping[str, NodeProto]
    ranks: Mapping[str, int]
    values: Mapping[str, Array]
    made: Set[str]
    outputs: Set[str]

    def within(self, node: NodeProto) -> Made:
        """A node of a run in four dimensions; in front of it the Unsqueezes that it reads, and what they read."""
        before: list[NodeProto] = []
        constants: list[TensorProto] = []
        changed = with_axes(node)
        for index, name in enumerate(node.input):
            changed.input[index] = self.inner(name)
            if name in self.values and self.values[name].ndim > 1:
                constants.append(tensor(f"{name}_4d", np.expand_dims(self.values[name], -2)))  # weight, or broadcast
                changed.input[index] = constants[-1].name
            elif name not in self.made and self.ranks.get(name, 0) > 1:
                entry, axes = self.unsqueezed(name)
                before.append(entry)
                constants.append(axes)
                changed.input[index] = entry.output[0]
        changed.output[:] = [self.inner(name) for name in node.output]
        behind = [self.squeezed(name) for name in node.output if name in self.outputs]
        return [*before, changed, *behind], [*constants, axis_of([HEIGHT])]

    def outside(self, node: NodeProto, asks: bool) -> Made:
        """A node that is in no run; in front of it the Squeezes that it reads.

        Args:
            node: as it was.
            asks: whether it is a Shape that may see four dimensions.
        """
        read = [name for name in dict.fromkeys(node.input) if name in self.made]
        if asks:
            return [renamed_inputs(node, {name: self.inner(name) for name in read if name in self.outputs})], []
        before = [self.squeezed(name) for name in read if name not in self.outputs]
        return [*before, renamed_inputs(node, {item.input[0]: item.output[0] for item in before})], [axis_of([HEIGHT])]

    def inner(self, name: str) -> str:
        """Name of a tensor within a run: its own, unless an output of the graph has it."""
        return f"{name}_4d" if name in self.made and name in self.outputs else name

    def squeezed(self, name: str) -> NodeProto:
        """The Squeeze behind a run."""
        output = name if name in self.outputs else f"{name}_3d"
        return make_node("Squeeze", [self.inner(name), axis_of([HEIGHT]).name], [output], name=f"{name}/Squeeze")

    def unsqueezed(self, name: str) -> tuple[NodeProto, TensorProto]:
        """The Unsqueeze in front of a run, with its axes: in place of one that makes the tensor, if there is one."""
        source, axes, maker = name, [self.ranks[name] - 1], self.made_by.get(name)
        if maker is not None and maker.op_type == "Unsqueeze" and maker.input[1] in self.values:
            [last], source = axes, maker.input[0]
            before = (int(axis) % self.ranks[name] for axis in self.values[maker.input[1]])
            axes = sorted([last, *(axis + (axis >= last) for axis in before)])
        constant = axis_of(axes)
        return make_node("Unsqueeze", [source, constant.name], [f"{name}_4d"], name=f"{name}/Unsqueeze"), constant


def run_nodes(model: onnx.ModelProto, ranks: Mapping[str, int], values: Mapping[str, Array]) -> set[str]:
    """First outputs of the nodes that get four dimensions, DequantizeLinear of their weights among them."""
    made_by, readers = producers(model), consumers(model)
    joining = {name for name, rank in ranks.items() if rank == RANK and not is_unsqueezed(name, made_by)}
    found: set[str] = set()
    for run in runs([node for node in model.graph.node if can_change(node, ranks, values, made_by)], joining):
        made, taken = {name for node in run for name in node.output}, {value.name for value in model.graph.output}
        weights = {node.input[1] for node in run if node.op_type == "Conv"}
        read = {name for node in run for name in node.input if ranks.get(name, 0) > 1} - made - weights
        entries = [name for name in read if name not in values and not is_unsqueezed(name, made_by)]
        exits = [name for name in made if name in taken or any(leaves(reader, made) for reader in readers[name])]
        if weights and len(entries) + len(exits) <= 2 * len(weights):
            found |= made | (weights & made_by.keys())
    return found


def can_change(
    node: NodeProto, ranks: Mapping[str, int], values: Mapping[str, Array], made_by: Mapping[str, NodeProto]
) -> bool:
    """Whether a node, given four dimensions, computes what it does with three."""
    if all(name in values for name in node.input) or {ranks.get(name) for name in node.output} != {RANK}:
        return False
    if node.op_type == "Conv":
        weight = made_by.get(node.input[1])
        stored = weight.input[0] if weight is not None and weight.op_type == "DequantizeLinear" else node.input[1]
        return stored in values
    if node.op_type in ("Split", "Concat"):
        return int(attribute(node, "axis", 0)) == CHANNELS
    if node.op_type in CODES and attribute(node, "axis", CHANNELS) != CHANNELS:
        return False
    return node.op_type in ELEMENTWISE and all(name in ranks for name in node.input if name)


def runs(nodes: Sequence[NodeProto], joining: set[str]) -> list[list[NodeProto]]:
    """The nodes in groups that share none of these tensors; masks, which all convolutions read, are not among them."""
    groups: list[tuple[set[str], list[NodeProto]]] = []
    for node in nodes:
        names = joining.intersection((*node.input, *node.output))
        joined = [group for group in groups if group[0] & names]
        groups = [group for group in groups if not group[0] & names]
        tensors = names.union(*(held for held, _ in joined))
        groups.append((tensors, [*chain.from_iterable(held for _, held in joined), node]))
    return [group for _, group in groups]


def leaves(reader: NodeProto, made: Collection[str]) -> bool:
    """Whether a reader of a run's tensor is none of the run and wants its values."""
    return reader.output[0] not in made and reader.op_type != "Shape"


def is_unsqueezed(name: str, made_by: Mapping[str, NodeProto]) -> bool:
    """Whether an Unsqueeze makes a tensor, which can give it one axis more."""
    return name in made_by and made_by[name].op_type == "Unsqueeze"


def with_axes(node: NodeProto) -> NodeProto:
    """A copy of a node; of a convolution with its settings for height in front of those for time."""
    changed = copy.deepcopy(node)
    for item in changed.attribute if node.op_type == "Conv" else ():
        if item.name in ("kernel_shape", "strides", "dilations"):
            item.ints[:] = [1, *item.ints]
        elif item.name == "pads":
            before, after = item.ints
            item.ints[:] = [0, before, 0, after]
    return changed


def axis_of(axes: Sequence[int]) -> TensorProto:
    """Axes of an Unsqueeze or a Squeeze."""
    return tensor(f"axes_{'_'.join(map(str, axes))}", np.array(axes, np.int64))


def shapes_asked(model: onnx.ModelProto, made: Set[str], values: Mapping[str, Array]) -> set[str]:
    """Shapes of tensors that get four dimensions, where all that is read of them are sizes at constant places."""
    readers = consumers(model)
    shapes = [node for node in model.graph.node if node.op_type == "Shape" and node.input[0] in made]
    return {
        node.output[0]
        for node in shapes
        if not node.attribute
        and all(item.op_type == "Gather" and item.input[1] in values for item in readers[node.output[0]])
    }


def asked_of_image(node: NodeProto, values: Mapping[str, Array]) -> Made:
    """A Gather from the shape of [B, C, T] that finds the same sizes in that of [B, C, 1, T]."""
    place = values[node.input[1]] % RANK
    index = tensor(f"{node.name}/place", np.asarray(place + (place >= HEIGHT), np.int64))
    return [renamed_inputs(node, {node.input[1]: index.name})], [index]
