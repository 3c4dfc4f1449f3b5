"""Integer-only inference: every layer with a weight reads 8-bit codes, whatever a GPU has kernels for."""

from collections.abc import Sequence

import onnx

from trtasr.graph.codes import code_formats
from trtasr.graph.qdq import QdqResult, Rule, insert_qdq
from trtasr.targets.target import Target
from trtasr.values import ScaleTable


def insert_codes(model: onnx.ModelProto, table: ScaleTable, rules: Sequence[Rule], exclude: Sequence[str]) -> QdqResult:
    """The Q/DQ graph whose tensors have the 8-bit codes of the integer-only graph."""
    return insert_qdq(model, table, rules, exclude, code_formats(model, table))


INTEGER = Target(
    "integer",
    label="integer-only",
    graph="{}.integer.qdq.onnx".format,
    quantize=insert_codes,
)
