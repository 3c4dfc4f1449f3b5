"""Two forms of one quantized graph, and which of them a builder has made less of."""

from collections.abc import Iterable

from trtasr.results.engine import Counts, LayerRow
from trtasr.results.kernels import REFORMAT, kernel_kind

PLAIN, CHAINS = "plain", "chains"
CODES = ("QuantizeLinear", "DequantizeLinear")  # end the names of such nodes, and are kinds of layers
MOVING = {"shuffle", "transpose", "squeeze", "unsqueeze"}


def counts_of(layers: Iterable[LayerRow]) -> Counts:
    """The layers of an engine, counted."""
    rows = tuple(layers)
    others = [row for row in rows if not is_pair(row)]
    return Counts(
        int8=sum(row.int8 for row in rows),
        written=sum(row.int8 and row.outputs[:1] == ("Int8",) for row in rows),
        kernels=len(rows),
        reformats=sum(kernel_kind(row) == REFORMAT for row in others),
        shuffles=sum(row.kind.lower() in MOVING for row in others),
        pairs=len(rows) - len(others),
    )


def is_pair(row: LayerRow) -> bool:
    """Whether a layer does nothing but quantize or dequantize; TensorRT calls some of these reformats."""
    if row.onnx_nodes:
        return not row.int8 and all(name.endswith(CODES) for name in row.onnx_nodes)
    return row.kind.lower() in ("quantize", "dequantize")


def is_less(one: Counts, other: Counts) -> bool:
    """Whether a builder has made less of one form than of another.

    As many layers must compute in INT8. Then the fewest kernels decide, among as many those that only change type,
    layout or scale, at last how many INT8 layers write INT8: a byte for each element instead of two or four.
    """
    return cost(one) < cost(other)


def cost(counts: Counts) -> tuple[int, ...]:
    """What is compared, the first difference decides."""
    glue = counts.reformats + counts.shuffles + counts.pairs
    return -counts.int8, counts.kernels, glue, -counts.written
