"""Which ONNX nodes a builder had no kernel for, read from its messages."""

import re
from collections.abc import Iterable, Sequence

from trtasr.engine.inspect import origin

PATTERNS = (
    re.compile(r"Could not find any implementation for node (?P<node>.+?)\.?(?: In \w+ at [^)]*)?\)*$", re.MULTILINE),
    re.compile(r"Cannot compile operation '(?P<node>[^']+)' for "),  # TensorRT for RTX
    # Q/DQ that the builder could not merge with its weighted layer, or scales that it could not find.
    re.compile(r"Internal Error \((?P<node>.+?): (?:Could not fuse|Missing scale)\b"),
)
MEMORY = re.compile(r"insufficient workspace|out of memory|OutOfMemory", re.IGNORECASE)
SEPARATORS = re.compile(r"\s\+\s|\.\.\.|[\s(){}\[\],]+")
REGION = "{ForeignNode["


def unsupported(messages: Iterable[str]) -> tuple[str, ...]:
    """Engine names of the layers that failed, without repetition.

    TensorRT reports the first one only: ``Could not find any implementation for node <name>.``, where the name of a
    fused layer joins its nodes by `` + `` and that of a compiled region is ``{ForeignNode[first...last]}``. Where the
    messages speak of memory there is none: every layer would fail, INT8 or not.
    """
    messages = tuple(messages)
    if any(MEMORY.search(message) for message in messages):
        return ()
    found = [match["node"] for message in messages for pattern in PATTERNS for match in pattern.finditer(message)]
    return tuple(dict.fromkeys(found))


def tokens(layer: str) -> list[str]:
    """The names that an engine name joins, in its order."""
    return [token for token in SEPARATORS.split(layer) if token]


def nodes_to_free(layers: Sequence[str], order: Sequence[str], quantized: Sequence[str]) -> tuple[str, ...]:
    """Quantized FP32 nodes behind the failed layers.

    Args:
        layers: engine names from `unsupported`, and names of ONNX nodes behind them (`trtasr.engine.parsed`).
        order: names of all FP32 nodes in graph order.
        quantized: names of those that read INT8 operands.

    Returns:
        those named directly, or made from by a graph pass (``<node>_MatMul``, ``<node>_...``); of a compiled region all
        from its first to its last node. In graph order.
    """
    names, chosen = set(order), set()
    for layer in layers:
        owners = [owner for token in tokens(layer) if (owner := origin(token, names))]
        chosen.update(owners)
        if REGION in layer and owners:
            positions = [order.index(owner) for owner in owners]
            chosen.update(order[min(positions) : max(positions) + 1])
    return tuple(name for name in order if name in chosen.intersection(quantized))


def with_kin(freed: Sequence[str], depthwise: Sequence[str]) -> tuple[str, ...]:
    """The nodes to free, and with one depthwise convolution all of them.

    What a GPU lacks is the kind of kernel, not the one layer that the builder names first: freed one by one, the 77 of
    QuartzNet15x5 would take as many builds.

    Args:
        freed: from `nodes_to_free`.
        depthwise: the quantized ones, in graph order.
    """
    return tuple(dict.fromkeys((*freed, *(depthwise if set(freed) & set(depthwise) else ()))))
