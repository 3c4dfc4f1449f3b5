"""The part of a scale table that belongs to one of several graphs."""

from dataclasses import replace

import onnx

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
