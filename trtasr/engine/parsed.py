"""From the layers of a parsed network to ONNX nodes: builders name layers that no ONNX graph has.

The parser adds layers of its own (``ONNXTRT_unsqueezeTensor_45`` in front of a one-dimensional convolution), and says
in the metadata of all others which node they are: ``[ONNX Layer: /encoder/Conv]``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from trtasr.engine.bindings import Layer, Network
from trtasr.engine.fallback import REGION, tokens

ONNX_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
OWN = "ONNXTRT_"
BACKWARD = f"{OWN}squeeze"  # stands behind the node that it belongs to; all others in front of it


@dataclass(frozen=True)
class ParsedLayer:
    """A layer of a parsed network.

    Attributes:
        name: as the builder's messages have it.
        node: ONNX node that it was made from; empty for the parser's own.
        inputs: names of tensors; outputs: likewise.
    """

    name: str
    node: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def parsed_layers(network: Network) -> tuple[ParsedLayer, ...]:
    """The layers of a network in the parser's order, which is that of the graph."""
    return tuple(parsed_layer(network.get_layer(index)) for index in range(network.num_layers))


def parsed_layer(layer: Layer) -> ParsedLayer:
    """One of them."""
    node = ONNX_NODE.search(layer.metadata)
    given = [layer.get_input(index) for index in range(layer.num_inputs)]
    made = [layer.get_output(index) for index in range(layer.num_outputs)]
    inputs, outputs = (tuple(tensor.name for tensor in side if tensor is not None) for side in (given, made))
    return ParsedLayer(layer.name, node[1] if node else "", inputs, outputs)


def nodes_behind(layers: Sequence[ParsedLayer], failed: Iterable[str]) -> tuple[str, ...]:
    """ONNX nodes behind layers that a builder named.

    Args:
        layers: of the parsed network.
        failed: engine names (`trtasr.engine.fallback.unsupported`).

    Returns:
        names in the lowered graph, without repetition: of one of the parser's own layers the nearest node that it was
        added for, of a compiled region ``{ForeignNode[first...last]}`` every node from its first to its last.
    """
    known = {layer.name: index for index, layer in enumerate(layers)}
    found: list[str] = []
    for name in failed:
        places = [known[token] for token in tokens(name) if token in known]
        owners = [nearest(layers, place) for place in places]
        if REGION in name:
            inside = [place for place in (*places, *owners) if place is not None]
            found += [layer.node for layer in layers[min(inside, default=0) : max(inside, default=-1) + 1]]
        else:
            found += [layers[place].node for place in owners if place is not None]
    return tuple(dict.fromkeys(filter(None, found)))


def nearest(layers: Sequence[ParsedLayer], place: int) -> int | None:
    """Index of the first layer with an ONNX node from here on, in the direction in which it belongs; None for none."""
    backward = layers[place].name.startswith(BACKWARD)
    beside = neighbours(layers, backward)
    reached, seen = [place], {place}
    while reached:
        here = reached.pop(0)
        if layers[here].node:
            return here
        following = [index for index in beside.get(here, ()) if index not in seen]
        seen.update(following)
        reached += following
    return None


def neighbours(layers: Sequence[ParsedLayer], backward: bool) -> Mapping[int, list[int]]:
    """Index of each layer -> those that read what it writes; backward: those that write what it reads."""
    writers = {tensor: index for index, layer in enumerate(layers) for tensor in layer.outputs}
    found: dict[int, list[int]] = {}
    for reader, layer in enumerate(layers):
        for writer in (writers[tensor] for tensor in layer.inputs if tensor in writers):
            here, there = (reader, writer) if backward else (writer, reader)
            found.setdefault(here, []).append(there)
    return found
