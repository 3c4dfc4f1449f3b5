"""One target's quantized graph, from the centered FP32 graph and the scale table: the same for every use of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from trtasr.graph.center import give_back_quantized
from trtasr.graph.codes import code_formats
from trtasr.graph.corrected import with_corrections
from trtasr.graph.cpu_qdq import quantize_for_cpu
from trtasr.graph.qdq import decide, insert_qdq
from trtasr.targets.target import Target
from trtasr.values import Decision, ScaleTable


@dataclass(frozen=True)
class Placed:
    """A graph before and after quantization.

    Attributes:
        fp32: the same function without Q/DQ nodes: INT8 layers have their corrected weights, all others their own.
        model: Q/DQ graph; for the CPU its own INT8 form.
        decisions: one per quantizable node.
    """

    fp32: onnx.ModelProto
    model: onnx.ModelProto
    decisions: tuple[Decision, ...]

    @property
    def int8(self) -> set[str]:
        """Names of the nodes that read INT8 operands."""
        return {decision.node for decision in self.decisions if decision.quantized}


def place(centered: onnx.ModelProto, table: ScaleTable, target: Target, patterns: Sequence[str]) -> Placed:
    """Decide which layers are INT8 on a target, give those their corrected weights, and quantize them.

    Args:
        centered: FP32 graph, shifted by the table's offsets; not changed.
        table: scales, offsets and corrected weights.
        target: its rules.
        patterns: of nodes that stay float.

    Raises:
        RecipeError: a pattern that matches no node. UsageError: a table of another graph.
    """
    int8 = {item.node for item in decide(centered, target.rules, patterns) if item.quantized}
    fp32 = give_back_quantized(with_corrections(centered, table, int8), table, int8)
    if target.passes == ("cpu_qdq",):
        quantized = quantize_for_cpu(fp32, table, patterns)
        return Placed(fp32, quantized.model, quantized.decisions)
    formats = code_formats(fp32, table) if "integer" in target.passes else None
    inserted = insert_qdq(fp32, table, target.rules, patterns, formats)
    return Placed(fp32, inserted.model, inserted.decisions)
