"""Small helpers that every pass uses: look up, copy, rebuild, and write a graph of any size."""

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from trtasr.errors import UsageError
from trtasr.values import Array, ScaleTable, TensorScale, WeightScale

LARGE = 1024  # elements; below are shapes, axes and scales, which decide what a graph computes
LARGEST = 1_900_000_000  # bytes; protobuf ends at 2^31
SMALL = 1024  # bytes; smaller constants stay in the graph: shapes and axes decide what it computes


def tensor(name: str, value: Any) -> TensorProto:
    """An initializer; a numpy scalar keeps rank 0 (TensorRT drops convolutions with a scale of shape [1] from INT8)."""
    return numpy_helper.from_array(np.asarray(value), name)


def constants(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """Initializers by name."""
    return {item.name: item for item in model.graph.initializer}


def constant_arrays(model: onnx.ModelProto) -> dict[str, Array]:
    """Values of initializers and Constant nodes by name; of text and sparse ones none."""
    found = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            [item] = node.attribute
            if item.name == "value":
                found[node.output[0]] = numpy_helper.to_array(item.t)
            elif item.name.startswith(("value_int", "value_float")):
                kind = np.int64 if item.name.startswith("value_int") else np.float32
                found[node.output[0]] = np.asarray(helper.get_attribute_value(item), kind)
    return found


def producers(model: onnx.ModelProto) -> dict[str, NodeProto]:
    """Tensor name -> the node that computes it."""
    return {name: node for node in model.graph.node for name in node.output}


def consumers(model: onnx.ModelProto) -> dict[str, list[NodeProto]]:
    """Tensor name -> the nodes that read it, in graph order."""
    found: dict[str, list[NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            found[name].append(node)
    return found


def rebuilt(model: onnx.ModelProto, nodes: Iterable[NodeProto], initializers: Iterable[TensorProto]) -> onnx.ModelProto:
    """A copy of the model with other nodes and initializers; unused ones are dropped."""
    result = empty_copy(model)
    live = live_nodes(list(nodes), {value.name for value in model.graph.output})
    used = {name for node in live for name in node.input}
    result.graph.node.extend(live)
    result.graph.initializer.extend(item for item in initializers if item.name in used)
    return result


def outline(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with large initializers as inputs of their type and shape.

    Shape inference and the checker copy a model several times; they read nothing of a weight but these.
    """
    result = empty_copy(model)
    result.graph.node.extend(model.graph.node)
    for item in model.graph.initializer:
        if prod(item.dims) > LARGE:
            result.graph.input.append(helper.make_tensor_value_info(item.name, item.data_type, item.dims))
        else:
            result.graph.initializer.append(item)
    return result


def renamed_inputs(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    """A copy of the node that reads other tensors: those that ``names`` maps, and those that these are mapped to."""
    changed = copy.deepcopy(node)
    for index, name in enumerate(node.input):
        final = name
        while final in names:
            final = names[final]
        changed.input[index] = final
    return changed


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Write ``path``, and ``<path>.data`` with its weights where they are more than one protobuf message can hold."""
    if sum(len(item.raw_data) for item in model.graph.initializer) <= LARGEST:
        onnx.save(model, path)
        return
    weights = path.with_name(f"{path.name}.data")
    weights.unlink(missing_ok=True)  # onnx appends
    onnx.save(model, path, save_as_external_data=True, location=weights.name, size_threshold=SMALL)
    onnx.load_external_data_for_model(model, str(path.parent))  # saving has taken the values out
    for item in model.graph.initializer:
        item.ClearField("data_location")


def scale_of(table: ScaleTable, name: str) -> TensorScale:
    """The scale that the table holds for an activation tensor.

    Raises:
        UsageError: no entry, or a scale that is not positive and finite.
    """
    if name not in table.activations:
        raise UsageError(f"scale table: no activation scale for tensor {name!r}", "calibrate again for this graph")
    entry = table.activations[name]
    check_scales(f"activation {name!r}", np.asarray([entry.scale]))
    return entry


def weight_scales_of(table: ScaleTable, name: str) -> WeightScale:
    """The per-channel scales that the table holds for a weight.

    Raises:
        UsageError: no entry, or a scale that is not positive and finite.
    """
    if name not in table.weights:
        raise UsageError(f"scale table: no scales for weight {name!r}", "calibrate again for this graph")
    check_scales(f"weight {name!r}", table.weights[name].scales)
    return table.weights[name]


def check_scales(what: str, scales: Array) -> None:
    """Refuse scales that nothing can be divided by.

    Raises:
        UsageError: naming the tensor.
    """
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise UsageError(f"scale table: {what} has a scale that is not positive and finite", "calibrate again")


def empty_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without nodes and initializers."""
    shell = onnx.ModelProto()
    shell.ir_version = model.ir_version
    shell.producer_name = "trtasr"
    shell.opset_import.extend(model.opset_import)
    shell.graph.name = model.graph.name
    shell.graph.input.extend(model.graph.input)
    shell.graph.output.extend(model.graph.output)
    return shell


def live_nodes(nodes: list[NodeProto], needed: set[str]) -> list[NodeProto]:
    """The nodes that something needed is computed from, in their order; ``needed`` grows by what they read."""
    live = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            live.append(node)
    return live[::-1]
