"""A graph in which every INT8 layer can be switched to floating point: the harm of each alone costs one run."""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper
from onnx.helper import make_node

from trtasr.graph.edit import constants, rebuilt, tensor

SWITCHES = "switches"  # the input that is added


def switched(
    fp32: onnx.ModelProto, quantized: onnx.ModelProto, layers: Sequence[str], own: Mapping[str, TensorProto]
) -> onnx.ModelProto:
    """A graph that computes what `quantized` computes where a layer's switch is 1, and what `fp32` does where it is 0.

        x -> Q -> DQ -> Conv(w_dq) -> y
    becomes
        x -> Q -> DQ -> Conv(w_dq) -> y_int8
        x ------------> Conv(w) ----> y_exact
        y_exact + s (y_int8 - y_exact) -> y

    Args:
        fp32: the graph before quantization; not changed.
        quantized: a graph that makes the outputs of its layers under the same names, however it makes them.
        layers: names of its INT8 layers; the input ``switches``, float32 [layers], has one value for each, in order.
        own: weight or bias -> the values that a layer has in floating point.
    """
    made = {node.output[0]: node for node in fp32.graph.node if node.name in layers}
    stored = constants(fp32) | constants(quantized)
    nodes: list[NodeProto] = []
    for original in quantized.graph.node:
        node = copy.deepcopy(original)
        nodes.append(node)
        if node.output and node.output[0] in made:
            exact = copy.deepcopy(made[node.output[0]])
            place = tensor(f"{exact.name}_place", np.array(layers.index(exact.name), np.int64))
            stored[place.name] = place
            for index, name in enumerate(exact.input):
                if name in own:
                    exact.input[index] = f"{name}_exact"
                    stored[exact.input[index]] = renamed(own[name], exact.input[index])
            nodes += mixed(exact, node, place.name)
    found = rebuilt(quantized, nodes, stored.values())
    found.graph.input.append(helper.make_tensor_value_info(SWITCHES, TensorProto.FLOAT, [len(layers)]))
    return found


def renamed(item: TensorProto, name: str) -> TensorProto:
    """A copy of a constant under another name."""
    other = copy.deepcopy(item)
    other.name = name
    return other


def mixed(exact: NodeProto, int8: NodeProto, place: str) -> list[NodeProto]:
    """The layer in floating point, and what mixes its output with that of the INT8 layer; both are renamed."""
    name, output = exact.name, exact.output[0]
    exact.name, exact.output[0], int8.output[0] = f"{name}_exact", f"{output}_exact", f"{output}_int8"
    switch, difference, part = (f"{output}_{word}" for word in ("switch", "difference", "part"))
    return [
        exact,
        make_node("Gather", [SWITCHES, place], [switch], name=f"{name}_switch"),
        make_node("Sub", [int8.output[0], exact.output[0]], [difference], name=f"{name}_difference"),
        make_node("Mul", [difference, switch], [part], name=f"{name}_part"),
        make_node("Add", [exact.output[0], part], [output], name=f"{name}_mixed"),
    ]
