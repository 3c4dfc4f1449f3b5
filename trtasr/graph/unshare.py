"""Constants that several nodes share -> one for each layer."""

import copy
from collections.abc import Sequence

import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from trtasr.graph.edit import constants, rebuilt, tensor
from trtasr.graph.tensors import WEIGHTED

ROLES = {1: "weight", 2: "bias"}  # by position among a weighted node's inputs


def unshare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give every Conv, MatMul and Gemm a weight and a bias that no other node reads.

        Conv1(x, W1, b), Conv2(y, W2, Identity(b))      becomes      Conv1(x, W1, b), Conv2(y, W2, b2)

    torch's exporter stores equal constants once, the zero biases of two layers for example, and reads the others
    through Identity nodes. Passes behind it look constants up by name and change one layer's without another's.

    Args:
        model: any graph; not changed.

    Returns:
        a copy that computes the same; the model itself where nothing is shared.
    """
    return with_own_constants(without_identities(model))


def without_identities(model: onnx.ModelProto) -> onnx.ModelProto:
    """Initializers in place of the Identity nodes that read one; those that make a graph output stay."""
    behind, outputs = behind_identity(model), {value.name for value in model.graph.output}
    if not behind:
        return model
    kept = {name: source for name, source in behind.items() if name in outputs}  # the name is taken: read the source
    copies = {name: source for name, source in behind.items() if name not in outputs}
    stored = constants(model)
    nodes = [
        reading(node, [kept.get(name, name) for name in node.input])
        for node in model.graph.node
        if node.output[0] not in copies
    ]
    added = [copied(stored[source], name) for name, source in copies.items()]
    return rebuilt(model, nodes, [*model.graph.initializer, *added])


def behind_identity(model: onnx.ModelProto) -> dict[str, str]:
    """Output of an Identity -> the initializer that it repeats, through other Identity nodes as well."""
    stored = constants(model)
    found: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "Identity":
            source = found.get(node.input[0], node.input[0])
            if source in stored:
                found[node.output[0]] = source
    return found


def with_own_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of each weight and bias that another node reads; the first weighted node keeps the name if it can."""
    stored, taken = constants(model), read_otherwise(model)
    nodes: list[NodeProto] = []
    added: list[TensorProto] = []
    for node in model.graph.node:
        inputs = list(node.input)
        for slot, role in ROLES.items() if node.op_type in WEIGHTED else ():
            name = inputs[slot] if slot < len(inputs) else ""
            if name in stored and name in taken:
                inputs[slot] = f"{node.output[0]}.{role}"  # outputs are unique, node names need not be
                added.append(copied(stored[name], inputs[slot]))
            taken.add(name)
        nodes.append(reading(node, inputs))
    return rebuilt(model, nodes, [*model.graph.initializer, *added]) if added else model


def read_otherwise(model: onnx.ModelProto) -> set[str]:
    """Names that are read as something else than the weight or bias of a weighted node."""
    names = {value.name for value in model.graph.output}
    for node in model.graph.node:
        names.update(node.input[:1] if node.op_type in WEIGHTED else node.input)
    return names


def reading(node: NodeProto, inputs: Sequence[str]) -> NodeProto:
    """A copy of the node with other inputs."""
    changed = copy.deepcopy(node)
    changed.input[:] = inputs
    return changed


def copied(item: TensorProto, name: str) -> TensorProto:
    """A copy of an initializer under another name."""
    return tensor(name, numpy_helper.to_array(item))
