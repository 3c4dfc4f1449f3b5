"""Put the corrected weights and biases of a scale table into the FP32 graph."""

from collections.abc import Collection

import numpy as np
import onnx
from onnx import NodeProto

from trtasr.errors import UsageError
from trtasr.graph.edit import constants, rebuilt, tensor
from trtasr.values import ScaleTable


def with_corrections(model: onnx.ModelProto, table: ScaleTable, quantized: Collection[str]) -> onnx.ModelProto:
    """The graph whose INT8 layers make up for the quantization error of the layers before them.

    Their weights lie on the grid of the table's scales, so that every target rounds them to the same codes. Layers in
    floating point keep the weights they were trained with.

    Args:
        model: centered FP32 graph; not changed.
        table: corrected initializers; without any the graph itself is returned.
        quantized: names of the nodes that will have INT8 weights.

    Raises:
        UsageError: an initializer that this graph lacks or that has another shape.
    """
    if not table.corrected:
        return model
    stored = constants(model)
    for name, values in table.corrected.items():
        if name not in stored or tuple(stored[name].dims) != values.shape:
            raise UsageError(
                f"correction: {name!r} is not an initializer of this graph, or of another shape",
                "calibrate again for this graph",
            )
    made = {name for node in model.graph.node if node.name in quantized for name in node.output}
    read = {name for node in model.graph.node if node.name in quantized or adds(node, made) for name in node.input}
    changed = {
        name: tensor(name, np.asarray(table.corrected[name], np.float32)) for name in table.corrected.keys() & read
    }
    return rebuilt(model, model.graph.node, [changed.get(item.name, item) for item in model.graph.initializer])


def adds(node: NodeProto, made: Collection[str]) -> bool:
    """Whether a node adds something to an output of a quantized layer: its bias, behind a linear layer."""
    return node.op_type == "Add" and any(name in made for name in node.input)
