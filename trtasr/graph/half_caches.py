"""Keys and values that wait on the device between steps, in FP16."""

import onnx
from onnx import TensorProto

from trtasr.graph.edit import consumers, producers, rebuilt, renamed_inputs

CACHES = ("cross_key.", "cross_value.", "past_key.", "past_value.", "present_key.", "present_value.")


def half_caches(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give keys and values the type in which attention computes with them: half the memory, no conversion per step.

        past_key.0 (FP32) -> Cast -> Concat -> ... -> Cast -> present_key.0 (FP32)
    becomes
        past_key.0 (FP16) -> Concat -> ... -> present_key.0 (FP16)

    Args:
        model: graph in FP16 whose inputs and outputs are FP32 (`halve`); not changed. Without such inputs or outputs it
            stays as it is.
    """
    made_by, read_by = producers(model), consumers(model)
    inputs = {
        value.name: read_by[value.name]
        for value in model.graph.input
        if value.name.startswith(CACHES) and all(node.op_type in ("Cast", "Shape") for node in read_by[value.name])
    }
    outputs = {
        value.name: made_by[value.name]
        for value in model.graph.output
        if value.name.startswith(CACHES) and made_by[value.name].op_type == "Cast"
    }
    casts = {
        node.name: (node.output[0], name)
        for name, readers in inputs.items()
        for node in readers
        if node.op_type == "Cast"
    }
    dropped = casts.keys() | {node.name for node in outputs.values()}
    names = dict(casts.values())
    names |= {node.input[0]: name for name, node in outputs.items()}
    nodes = [renamed_inputs(node, names) for node in model.graph.node if node.name not in dropped]
    for node in nodes:
        node.output[:] = [names.get(name, name) for name in node.output]
    result = rebuilt(model, nodes, model.graph.initializer)
    for value in (*result.graph.input, *result.graph.output):
        if value.name in inputs or value.name in outputs:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return result
