"""Does a scale table that lay on disk belong to these graphs?"""

from collections.abc import Sequence

import onnx

from trtasr.errors import RecipeError
from trtasr.graph.center import centered_bias
from trtasr.graph.tensors import activation_tensors, weight_tensors
from trtasr.values import ScaleTable

REMAKE = "remake the scale table with `make calib`, or add --recalibrate"


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
    """Refuse offsets and corrections of what no graph has: each graph takes its own part, and nobody would miss them.

    Raises:
        RecipeError: naming the tensor.
    """
    known = {item.name for model in models for item in model.graph.initializer}
    for node in (node for model in models for node in model.graph.node):
        known.update((*node.output, centered_bias(node)))
    if foreign := sorted((table.offsets.keys() | table.corrected.keys()) - known):
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
