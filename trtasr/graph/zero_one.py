"""Masks: tensors of zeros and ones, whose range is known without observing anything."""

import numpy as np
import onnx

from trtasr.graph.edit import constant_arrays
from trtasr.values import Array

CONDITIONS = ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "Not", "And", "Or")


def mask_tensors(model: onnx.ModelProto) -> tuple[str, ...]:
    """Float tensors that are 0 or 1 by construction, in graph order.

        clip(length - t, 0, 1) -> Cast -> mask            t < length -> Cast -> mask

    What only reshapes a mask is not named.
    """
    arrays = constant_arrays(model)
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type in CONDITIONS or (node.op_type == "Clip" and bounds(node, arrays) == (0, 1)):
            found.update(node.output)
    casts = [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in found]
    return tuple(node.output[0] for node in casts if to_float(node))


def bounds(node: onnx.NodeProto, arrays: dict[str, Array]) -> tuple[float, ...]:
    """Constant bounds of a Clip; fewer than two where one is missing or computed."""
    return tuple(float(arrays[name].item()) for name in node.input[1:3] if name in arrays)


def to_float(node: onnx.NodeProto) -> bool:
    """Whether a Cast gives floating point."""
    kind = next(item.i for item in node.attribute if item.name == "to")
    return bool(np.issubdtype(onnx.helper.tensor_dtype_to_np_dtype(kind), np.floating))
