"""Integer-only inference: every layer with a weight reads 8-bit codes, whatever a GPU has kernels for."""

from collections.abc import Collection

import onnx

from trtasr.graph.codes import code_formats
from trtasr.graph.qdq import insert_qdq
from trtasr.targets.target import Target
from trtasr.values import ScaleTable


def insert_codes(model: onnx.ModelProto, table: ScaleTable, int8: Collection[str]) -> onnx.ModelProto:
    """The Q/DQ graph whose tensors have the 8-bit codes of the integer-only graph."""
    return insert_qdq(model, table, int8, code_formats(model, table))


INTEGER = Target(
    "integer",
    label="integer-only",
    graph="{}.integer.qdq.onnx".format,
    quantize=insert_codes,
)
