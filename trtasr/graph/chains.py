"""INT8 chains: Q/DQ behind the ReLU of a layer that computes in INT8, so that it can write codes."""

from collections.abc import Collection, Mapping

import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from trtasr.graph.edit import constants, consumers, producers, rebuilt, renamed_inputs, scale_of
from trtasr.graph.masks import length_masks
from trtasr.graph.qdq import activation_pair, insert_qdq
from trtasr.graph.tensors import WEIGHTED
from trtasr.values import ScaleTable, TensorScale

MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "MaxPool")  # what they make they have read


def insert_chains(model: onnx.ModelProto, table: ScaleTable, int8: Collection[str]) -> onnx.ModelProto:
    """Q/DQ in front of what layers read, as `insert_qdq` has it, and behind their ReLU.

    Args and errors are those of `insert_qdq`.
    """
    return chained(insert_qdq(model, table, int8), table)


def chained(model: onnx.ModelProto, table: ScaleTable) -> onnx.ModelProto:
    """Put a Q/DQ pair between the ReLU of an INT8 layer and the mask, or the change of layout, that reads it.

        Q -> DQ -> Conv(w_dq) -> Relu ------------> Mul(mask) -> ...
    becomes
        Q -> DQ -> Conv(w_dq) -> Relu -> Q -> DQ -> Mul(mask) -> ...

    TensorRT fuses a convolution, its ReLU and the Q behind them into one kernel that reads and writes INT8 (developer
    guide, recommendations on where Q/DQ layers stand), and the DQ into the product. Not so behind a residual sum with a
    floating-point operand, and sums are never INT8 here; nor does anything take the DQ in where a layer in floating
    point reads the ReLU itself. Such ReLUs stay as they are, and those that only a Q reads already.

    Where an INT8 layer reads what comes of the ReLU, the scale is the one that its Q has: codes times 0 or 1, or at
    other places, are quantized to themselves, and nothing changes by a bit. Elsewhere, in front of a depthwise
    convolution, the scale is the table's for the ReLU, and the rounding is new noise; without one there is no pair.

    Args:
        model: with Q/DQ; not changed.
        table: scales of activations.

    Returns:
        the model itself where nothing changes.

    Raises:
        UsageError: a scale that is not positive or not finite.
    """
    scales = Look(model, table).scales()
    if not scales:
        return model
    alone = ScaleTable(scales, {})
    read = {name: f"{name}_dequantized" for name in scales}
    nodes: list[NodeProto] = []
    stored: dict[str, TensorProto] = constants(model)
    for node in model.graph.node:
        if is_pair_of(node, read):
            continue  # it moves to the ReLU
        nodes.append(renamed_inputs(node, read))
        if node.output[0] in scales:
            made, added = activation_pair(node.output[0], alone, None)
            nodes += made
            stored |= {item.name: item for item in added}
    return rebuilt(model, nodes, stored.values())


def merge_pairs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take out a Q/DQ pair that reads another one with the same scale, as is left where a mask between them goes.

        Q(s) -> DQ(s) -> Q(s) -> DQ(s) -> Conv      becomes      Q(s) -> DQ(s) -> Conv

    The same bits: codes are quantized to themselves.

    Args:
        model: not changed.

    Returns:
        the model itself where there is none.
    """
    made_by, stored, names = producers(model), constants(model), dict[str, str]()
    for node in model.graph.node:
        quantize = made_by.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        before = made_by.get(quantize.input[0]) if quantize is not None else None
        if before is not None and before.op_type == "DequantizeLinear" and same_codes(before, node, stored):
            names[node.output[0]] = before.output[0]
    nodes = [renamed_inputs(node, names) for node in model.graph.node if node.output[0] not in names]
    return rebuilt(model, nodes, stored.values()) if names else model


def same_codes(one: NodeProto, other: NodeProto, stored: Mapping[str, TensorProto]) -> bool:
    """Whether two nodes have equal scales and zero points, each for a whole tensor."""
    pairs = [(stored.get(a), stored.get(b)) for a, b in zip(one.input[1:], other.input[1:], strict=True)]
    return all(
        a is not None and b is not None and not a.dims and numpy_helper.to_array(a) == numpy_helper.to_array(b)
        for a, b in pairs
    )


def is_pair_of(node: NodeProto, read: Mapping[str, str]) -> bool:
    """Whether a node is the Q or the DQ of one of these tensors."""
    return (node.op_type == "QuantizeLinear" and node.input[0] in read) or node.output[0] in read.values()


class Look:
    """A quantized graph, looked at for the ReLUs of its INT8 layers."""

    def __init__(self, model: onnx.ModelProto, table: ScaleTable) -> None:
        self.model, self.table = model, table
        self.readers, self.made_by, self.stored = consumers(model), producers(model), constants(model)
        self.masks, self.outputs = length_masks(model), {value.name for value in model.graph.output}

    def scales(self) -> dict[str, TensorScale]:
        """ReLU that begins a chain -> the scale of its codes."""
        tails = [node.output[0] for node in self.model.graph.node if node.op_type == "Relu"]
        found = {name: self.scale(name) for name in tails if self.is_open(name) and self.is_behind_int8(name)}
        return {name: scale for name, scale in found.items() if scale is not None}

    def is_open(self, tail: str) -> bool:
        """Whether a ReLU is read by what can take the DQ in, and by nothing else that needs floating point."""
        readers = [node for node in self.readers[tail] if node.op_type not in ("QuantizeLinear", "Shape")]
        return bool(readers) and tail not in self.outputs and all(self.keeps_codes(node, tail) for node in readers)

    def is_behind_int8(self, tail: str) -> bool:
        """Whether a ReLU, and nothing else, reads an INT8 layer, or that and the bias of a linear layer."""
        name = self.made_by[tail].input[0]
        node = self.made_by.get(name)
        while node is not None and len(self.readers[name]) == 1:
            if node.op_type in WEIGHTED:
                makers = [self.made_by.get(operand) for operand in node.input[:2]]
                return all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)
            before = [operand for operand in node.input if operand not in self.stored]
            if node.op_type != "Add" or len(before) != 1:
                return False
            [name] = before
            node = self.made_by.get(name)
        return False

    def scale(self, tail: str) -> TensorScale | None:
        """What the table has for the first Q that reads a ReLU's values, else for the ReLU; None: neither is there."""
        names = [tail]
        for name in names:
            for node in self.readers.get(name, []):
                if node.op_type == "QuantizeLinear":
                    return scale_of(self.table, name)
                if self.keeps_codes(node, name):
                    names += node.output
        return scale_of(self.table, tail) if tail in self.table.activations else None

    def keeps_codes(self, node: NodeProto, name: str) -> bool:
        """Whether a reader of a tensor makes of it its values at other places, or zeros: the same codes."""
        product = node.op_type == "Mul" and bool(self.masks.keys() & set(node.input))
        return product or (node.op_type in MOVES and node.input[0] == name)
