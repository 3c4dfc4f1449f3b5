"""Layers of the stand-in for TensorRT's network, as its ONNX parser makes them."""

import enum


class LayerType(enum.IntEnum):
    CONVOLUTION, SQUEEZE, UNSQUEEZE, SHUFFLE, ELEMENTWISE, MATRIX_MULTIPLY, ACTIVATION = range(7)


KINDS = {
    "Squeeze": LayerType.SQUEEZE,
    "Unsqueeze": LayerType.UNSQUEEZE,
    "Reshape": LayerType.SHUFFLE,
    "Transpose": LayerType.SHUFFLE,
    "Mul": LayerType.ELEMENTWISE,
    "MatMul": LayerType.MATRIX_MULTIPLY,
}


class Tensor:
    def __init__(self, name):
        self.name = name


class Layer:
    def __init__(self, kind, name, inputs, outputs, node=""):
        self.type, self.name, self.inputs, self.outputs = kind, name, inputs, outputs
        self.metadata = f"[ONNX Layer: {node}]" if node else ""
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)
        self.precision = None

    def get_input(self, index):
        return self.inputs[index]

    def get_output(self, index):
        return self.outputs[index]

    @property
    def scaled(self):
        """Whether it is INT8 only where what it reads has scales."""
        return self.type in (LayerType.CONVOLUTION, LayerType.ELEMENTWISE)


def network_layers(graph):
    """Of an ONNX graph; constants are no layers."""
    constants = {item.name for item in graph.initializer}
    return [layer for node in graph.node for layer in node_layers(node, constants)]


def node_layers(node, constants):
    """Of one node."""
    inputs = [Tensor(name) for name in node.input if name and name not in constants]
    outputs = [Tensor(name) for name in node.output]
    if node.op_type != "Conv":
        return [Layer(KINDS.get(node.op_type, LayerType.ACTIVATION), node.name, inputs, outputs, node.name)]
    wide, narrow = Tensor(f"ONNXTRT_unsqueezeTensor_{node.name}_output"), Tensor(f"{node.name}_output")
    return [
        Layer(LayerType.UNSQUEEZE, f"ONNXTRT_unsqueezeTensor_{node.name}", inputs[:1], [wide]),
        Layer(LayerType.CONVOLUTION, node.name, [wide, *inputs[1:]], [narrow], node.name),
        Layer(LayerType.SQUEEZE, f"ONNXTRT_squeezeTensor_{node.name}", [narrow], outputs),
    ]
