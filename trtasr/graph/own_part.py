"""What belongs to which graph: its part of a scale table, its patterns of a recipe; a table of others is refused."""

import fnmatch
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import onnx

from trtasr.errors import RecipeError
from trtasr.graph.center import centered_bias
from trtasr.graph.tensors import WEIGHTED, activation_tensors, weight_tensors
from trtasr.values import ScaleTable

REMAKE = "remake the scale table with `make calib`, or add --recalibrate"


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
        for field in ("activations", "weights", "alphas", "offsets", "corrected", "products")
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


def check_fits(table: ScaleTable, models: Sequence[onnx.ModelProto]) -> None:
    """Refuse a table that lacks a scale of these graphs, has one of another size, or changes what they lack.

    Args:
        table: of all the graphs together.
        models: FP32 graphs.

    Raises:
        RecipeError: naming the tensor.
    """
    for model in models:
        for name in activation_tensors(model):
            if name not in table.activations:
                raise RecipeError(f"scale table: has no scale for the activation {name}", REMAKE)
        for weight in weight_tensors(model):
            entry = table.weights.get(weight.name)
            if entry is None or entry.axis != weight.axis or entry.scales.shape != (weight.shape[weight.axis],):
                raise RecipeError(
                    f"scale table: has no {weight.shape[weight.axis]} scales along axis {weight.axis} "
                    f"for the weight {weight.name}",
                    REMAKE,
                )
        check_sizes(table, model)
    refuse_foreign(table, models)


def refuse_foreign(table: ScaleTable, models: Sequence[onnx.ModelProto]) -> None:
    """Refuse offsets, corrections, products of what no graph has: each takes its own part, nobody would miss them.

    Raises:
        RecipeError: naming the tensor.
    """
    known = {item.name for model in models for item in model.graph.initializer}
    for node in (node for model in models for node in model.graph.node):
        known.update((node.name, *node.output, centered_bias(node)))
    if foreign := sorted((table.offsets.keys() | table.corrected.keys() | table.products.keys()) - known):
        raise RecipeError(f"scale table: {foreign[0]!r} is of another network", REMAKE)


def check_sizes(table: ScaleTable, model: onnx.ModelProto) -> None:
    """Refuse offsets and corrected weights of other sizes than the graph's.

    Raises:
        RecipeError: naming the tensor.
    """
    sizes = {item.name: tuple(item.dims) for item in model.graph.initializer}
    channels = {
        node.output[0]: sizes[node.input[1]][:1]
        for node in model.graph.node
        if node.op_type == "Conv" and node.input[1] in sizes
    }
    for found, expected in ((table.offsets, channels), (table.corrected, sizes)):
        for name, values in found.items():
            if name in expected and values.shape != expected[name]:
                raise RecipeError(f"scale table: {name} has {values.shape} values, the graph {expected[name]}", REMAKE)
