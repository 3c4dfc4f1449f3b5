"""What belongs to one of several graphs: its part of a scale table, its part of the patterns of a recipe."""

import fnmatch
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import onnx

from trtasr.errors import RecipeError
from trtasr.graph.tensors import WEIGHTED
from trtasr.values import ScaleTable


def own_part(table: ScaleTable, model: onnx.ModelProto) -> ScaleTable:
    """The entries of a table whose tensor, initializer or layer this graph has; the settings stay.

    An encoder-decoder has one table for two graphs; a table that names what a graph lacks would be taken for another's.

    Args:
        table: of this graph and others.
        model: FP32 graph.
    """
    graph = model.graph
    names = {item.name for item in (*graph.input, *graph.initializer, *graph.node)}
    names.update(name for node in graph.node for name in node.output)
    parts = {
        field: {name: entry for name, entry in getattr(table, field).items() if name in names}
        for field in ("activations", "weights", "alphas", "offsets", "corrected")
    }
    return replace(table, **parts)


def refuse_unmatched(patterns: Sequence[str], nodes: Sequence[str]) -> None:
    """Refuse a pattern that no weighted node has the name for.

    Raises:
        RecipeError: naming it.
    """
    for pattern in patterns:
        if not fnmatch.filter(nodes, pattern):
            raise RecipeError(
                f"exclude: {pattern!r} matches no Conv, MatMul or Gemm node",
                "use node names as in layers.json; * matches any characters",
            )


def own_patterns(patterns: Sequence[str], models: Sequence[onnx.ModelProto]) -> list[tuple[str, ...]]:
    """The patterns that match a weighted node, graph by graph.

    Raises:
        RecipeError: one that matches none in any.
    """
    names = [[node.name for node in model.graph.node if node.op_type in WEIGHTED] for model in models]
    refuse_unmatched(patterns, [*chain.from_iterable(names)])
    return [tuple(one for one in patterns if fnmatch.filter(each, one)) for each in names]
