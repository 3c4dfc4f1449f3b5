"""Weights of linear layers get the names of their layers."""

import onnx
from onnx import TensorProto

from trtasr.graph.edit import constants, rebuilt, renamed_inputs


def named_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name each MatMul's constant weight after its node.

        /encoder/layers.0/self_attn/linear_q/MatMul: onnx::MatMul_4182  ->  encoder.layers.0.self_attn.linear_q.weight

    torch's exporter transposes the weight of a linear layer, to [in, out], and numbers the result; numbers would name
    the layers in scale tables and change with every other layer of the network.

    Args:
        model: graph in which no two layers share a weight; not changed.
    """
    stored = constants(model)
    names: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            name = node.name.removesuffix("/MatMul").strip("/").replace("/", ".") + ".weight"
            if name not in stored and name not in names.values():
                names[node.input[1]] = name
    nodes = [renamed_inputs(node, names) for node in model.graph.node]
    return rebuilt(model, nodes, [named(item, names.get(item.name, item.name)) for item in model.graph.initializer])


def named(item: TensorProto, name: str) -> TensorProto:
    """A copy of an initializer under a name; the same object where that is its name already."""
    if item.name == name:
        return item
    renamed = TensorProto()
    renamed.CopyFrom(item)
    renamed.name = name
    return renamed
