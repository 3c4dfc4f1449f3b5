"""Roofline estimate of a Tesla T4: where time would go, before anyone rents one.

The time of a layer is bounded from below by its arithmetic and by its memory traffic:
``t >= max(2 MACs / peak, bytes / bandwidth)`` (Williams, Waterman, Patterson 2009, "Roofline"). Launch overhead, kernel
efficiency and cache reuse between layers are not in it: a measured time is larger, or, where a layer's input still lies
in the 4 MB L2 cache, its memory part smaller. These are estimates and never stand in for a measurement.
"""

from collections.abc import Sequence, Set

from trtasr.results import Bound, Roofline, Traffic

BANDWIDTH = 320e9  # bytes per second, Tesla T4
PEAKS = {"fp32": 8.1e12, "fp16": 65e12, "int8": 130e12}  # operations per second, Tesla T4
BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


def bound(layer: Traffic, precision: str, int8: Set[str] = frozenset()) -> Bound:
    """Lower bound of one layer.

    Args:
        layer: at one input shape.
        precision: of its operands.
        int8: names of the nodes that read INT8 operands. A layer all of whose readers are among them writes one byte
            per element (its kernel requantizes); any other writes FP16, or FP32 in FP32.
    """
    element = BYTES[precision]
    requantized = bool(layer.readers) and set(layer.readers) <= int8
    written = layer.outputs * (1 if requantized else max(element, 2))
    moved = (layer.inputs + layer.weights) * element + written
    return Bound(layer.node, precision, 2e3 * layer.macs / PEAKS[precision], 1e3 * moved / BANDWIDTH, layer.depthwise)


def roofline(layers: Sequence[Traffic], int8: Set[str], batch: int, seconds: float, tokens: int = 0) -> Roofline:
    """Estimate all precisions.

    Args:
        layers: at this batch and length.
        int8: names of the nodes that read INT8 operands; the others run in FP16.
        batch: utterances.
        seconds: of audio each.
        tokens: generated for each, one run after the other; 0 where none are.
    """
    depthwise = {layer.node for layer in layers if layer.depthwise}
    return Roofline(
        batch,
        seconds,
        fp32=tuple(bound(layer, "fp32") for layer in layers),
        fp16=tuple(bound(layer, "fp16") for layer in layers),
        int8=bounds(layers, int8),
        int8_depthwise=bounds(layers, int8 | depthwise),
        tokens=tokens,
    )


def bounds(layers: Sequence[Traffic], int8: Set[str]) -> tuple[Bound, ...]:
    """Bounds of a graph whose layers are INT8 where `int8` names them, and FP16 elsewhere."""
    return tuple(bound(layer, "int8" if layer.node in int8 else "fp16", int8) for layer in layers)
