"""A graph in which every INT8 layer can be switched to floating point: the harm of each alone costs one run."""

import copy
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper
from onnx.helper import make_node

from trtasr.graph.edit import constants, rebuilt, tensor

SWITCHES = "switches"  # the input that is added


def switched(
    fp32: onnx.ModelProto, quantized: onnx.ModelProto, layers: list[str], own: Mapping[str, TensorProto]
) -> onnx.ModelProto:
    """A graph that computes what `quantized` computes where a layer's switch is 1, and what `fp32` does where it is 0.

        x_dq ---------> Conv(w_dq) -> y
    becomes
        x + s (x_dq - x) ---------> Conv(w + s (w_dq - w)) -> y

    Args:
        fp32: the graph before quantization; not changed.
        quantized: a graph whose layers have the same names and read quantized, dequantized tensors.
        layers: names of its INT8 layers; the input ``switches``, float32 [layers], has one value for each, in order.
        own: weight -> the values that a layer has in floating point.
    """
    reads = {node.name: list(node.input) for node in fp32.graph.node}
    places = {name: index for index, name in enumerate(layers)}
    stored = constants(fp32) | constants(quantized)
    nodes: list[NodeProto] = []
    for original in quantized.graph.node:
        node = copy.deepcopy(original)
        if node.name in places:
            switch, place = f"{node.name}_switch", f"{node.name}_place"
            stored[place] = tensor(place, np.array(places[node.name], np.int64))
            nodes.append(make_node("Gather", [SWITCHES, place], [switch], name=switch))
            for index, name in enumerate(reads[node.name][:2]):
                if node.input[index] != name:
                    nodes += mixed(name, node.input[index], switch)
                    node.input[index] = nodes[-1].output[0]
        nodes.append(node)
    found = rebuilt(quantized, nodes, (stored | {name: own[name] for name in stored.keys() & own.keys()}).values())
    found.graph.input.append(helper.make_tensor_value_info(SWITCHES, TensorProto.FLOAT, [len(layers)]))
    return found


def mixed(exact: str, found: str, switch: str) -> list[NodeProto]:
    """Nodes that compute exact + switch (found - exact)."""
    difference, part, name = (f"{switch}/{exact}_{word}" for word in ("difference", "part", "mixed"))
    return [
        make_node("Sub", [found, exact], [difference], name=difference),
        make_node("Mul", [difference, switch], [part], name=part),
        make_node("Add", [exact, part], [name], name=name),
    ]
