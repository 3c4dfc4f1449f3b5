"""One target's graphs, from a part's FP32 graph and the scale table: the same for every use of them."""

import glob
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from trtasr.graph.center import give_back_quantized, uncentered
from trtasr.graph.check import write_checked
from trtasr.graph.corrected import with_corrections
from trtasr.graph.dynamic import dynamic_layers
from trtasr.graph.lint import HEADROOM, large_activations
from trtasr.graph.passes import pass_name, passed
from trtasr.graph.products import with_products
from trtasr.graph.qdq import decide, int8_nodes
from trtasr.graph.rotate import rotated_layers
from trtasr.targets.target import Target
from trtasr.values import Decision, ScaleTable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placed:
    """A graph before and after quantization.

    Attributes:
        fp32: the same function without Q/DQ nodes: INT8 layers have their corrected weights, all others their own. With
            scales computed at run time they have those of their products, and channels are not centered.
        model: Q/DQ graph; for the CPU its own INT8 form; of a baseline the same as `fp32`.
        decisions: one per quantizable node; none of a baseline.
    """

    fp32: onnx.ModelProto
    model: onnx.ModelProto
    decisions: tuple[Decision, ...]

    @property
    def int8(self) -> set[str]:
        """Names of the nodes that read INT8 operands."""
        return set(int8_nodes(self.decisions))


def place(centered: onnx.ModelProto, table: ScaleTable, target: Target, patterns: Sequence[str]) -> Placed:
    """Decide which layers are INT8 on a target, give those their corrected weights, and quantize them.

    Args:
        centered: FP32 graph, shifted by the table's offsets; not changed.
        table: scales, offsets and corrected weights.
        target: its rules, and how it quantizes.
        patterns: of nodes that stay float.

    Raises:
        RecipeError: a pattern that matches no node. UsageError: a table of another graph.
    """
    if target.quantize is None:
        return Placed(centered, centered, ())
    decisions = decide(centered, (*target.graph_rules(centered), *target.rules), patterns)
    int8 = set(int8_nodes(decisions))
    if target.activation_scales == "dynamic":
        # The biases of a table make up for how a weight rounds as it is: not rotated, and to nearest.
        kept = int8 - rotated_layers(centered, table, int8) - table.products.keys()
        products = with_products(centered, table, int8)
        fp32 = uncentered(with_corrections(products, table, kept), table.offsets)
    else:
        fp32 = give_back_quantized(with_corrections(centered, table, int8), table, int8)
    return Placed(fp32, target.quantize(fp32, table, int8), decisions)


@dataclass(frozen=True)
class Lowered:
    """One part of a network, ready for a target's builder.

    Attributes:
        graph: file that the builder reads; without a builder it is the engine.
        decisions: one per quantizable node, with the rule that decided.
        subnormal: layers with a channel whose activation scale x weight scale is below FP16's normal range.
        overflowing: layers whose integer accumulator could exceed FP16's range.
        dynamic: INT8 layers that compute the scales of what they read at run time.
    """

    graph: Path
    decisions: tuple[Decision, ...]
    subnormal: tuple[str, ...] = ()
    overflowing: tuple[str, ...] = ()
    dynamic: tuple[str, ...] = ()

    @property
    def int8(self) -> tuple[str, ...]:
        """Names of the nodes that read INT8 operands."""
        return int8_nodes(self.decisions)


def lower(
    source: Path, table: ScaleTable, target: Target, exclude: Sequence[str], freed: Mapping[str, str] | None = None
) -> Lowered:
    """Quantize one part for a target, run the target's passes, and write its graphs into the bundle folder.

    With TRTASR_DUMP in the environment (`trtasr.graph.passes`) the graph after each step is written too, as
    ``t4-rtx.model.01-insert_qdq.onnx``.

    Args:
        source: ``<part>.fp32.onnx`` in the bundle folder.
        table: scales of this part.
        target: what it is lowered for.
        exclude: patterns of the recipe.
        freed: node that stays float all the same -> the rule that decided it (``fallback``, ``budget``, ``fidelity``).

    Raises:
        RecipeError: an exclude pattern that matches no node.
    """
    freed, folder, part = freed or {}, source.parent, source.name.partition(".")[0]
    placed = place(onnx.load(source), table, target, [*exclude, *map(glob.escape, freed)])
    graph = folder / target.graph(part)
    if target.plan:
        if target.quantize:
            write_checked(placed.model, graph)
        graph = (folder / target.plan(part)).with_suffix(".lowered.onnx")
    maker = pass_name(target.quantize) if target.quantize and target.explicit else ""
    given = placed.model if target.explicit else placed.fp32
    model = passed(given, target.passes, f"{target.name}.{part}", maker)
    write_checked(model, graph)
    subnormal, overflowing = target.lint(model, placed.fp32, table, placed.int8) if target.lint else ((), ())
    if target.lint:
        report_lint(subnormal, overflowing, large_activations(table))
    decisions = tuple(replace(item, rule=freed.get(item.node, item.rule)) for item in placed.decisions)
    return Lowered(graph, decisions, tuple(subnormal), tuple(overflowing), dynamic_layers(placed.model))


def report_lint(subnormal: Sequence[str], overflowing: Sequence[str], large: Sequence[str]) -> None:
    """Say how many layers, and which activations, come near the limits of FP16."""
    if subnormal:
        logger.info("%d layers: a channel whose scale product is subnormal in FP16 (bundle.json)", len(subnormal))
    if overflowing:
        logger.info(
            "%d layers: an accumulator that could exceed FP16's 65504 before it is scaled (bundle.json)",
            len(overflowing),
        )
    if large:
        logger.warning(
            "FP16 holds at most 65504; on the calibration features these came within a factor of %d: %s",
            HEADROOM,
            ", ".join(large),
        )
