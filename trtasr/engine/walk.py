"""Two activation streams through one graph, node by node: full precision, and what the quantized network computes.

ONNX Runtime runs one operator at a time, so that a layer's weight can be decided from the inputs that the already
quantized part of the network gives it, before anything behind it is computed. A tensor is dropped as soon as nothing
reads it any more.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper
from tqdm import tqdm

from trtasr.files.cpus import SPINNING, threads
from trtasr.values import Array, FloatArray


@dataclass(frozen=True)
class Visited:
    """A weighted layer that both streams have reached.

    Attributes:
        node: with a constant weight.
        constants: its weight and bias by name.
        full: its data input in the full-precision stream, one array per utterance; quantized: in the other one.
        outputs: what it computes in the full-precision stream.
    """

    node: NodeProto
    constants: Mapping[str, Array]
    full: Sequence[FloatArray]
    quantized: Sequence[FloatArray]
    outputs: Sequence[FloatArray]


@dataclass(frozen=True)
class Replaced:
    """What the quantized stream computes a layer with.

    Attributes:
        inputs: data input of each utterance, quantized and dequantized.
        constants: initializers by name, where they differ from the graph's: weight and bias of this layer, the bias
            that a node behind it adds.
    """

    inputs: Sequence[FloatArray]
    constants: Mapping[str, Array]


@dataclass(frozen=True)
class Streams:
    """Graph outputs of both streams by name, one mapping per utterance: inputs of a graph behind this one."""

    full: list[dict[str, Array]]
    quantized: list[dict[str, Array]]


def walk(
    model: onnx.ModelProto,
    full: Iterable[Mapping[str, Array]],
    layers: Set[str],
    visit: Callable[[Visited], Replaced],
    seen: Callable[[str, FloatArray], None],
    quantized: Iterable[Mapping[str, Array]] | None = None,
) -> Streams:
    """Run a graph over calibration utterances in both streams at once.

    Each utterance runs alone at its own valid length: no padded frame enters a statistic. Of what the feeds hold, and
    nobody else, nothing is kept beyond its last reader.

    Args:
        model: FP32 graph.
        full: its inputs in the full-precision stream, one utterance each.
        layers: names of the nodes to visit; each has a constant weight as its second input.
        visit: decides inputs and weight of each of them, in graph order; all other nodes compute as they are.
        seen: is told every float32 tensor of the quantized stream, without the batch axis, before a reader is visited.
        quantized: inputs of the quantized stream, where they differ: what a graph in front of this one makes.
    """
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    changed: dict[str, Array] = {}
    streams = [[dict(values) for values in full], []]
    streams[1] = [dict(values) for values in (streams[0] if quantized is None else quantized)]
    for values in streams[1]:
        tell(seen, values)
    left = Counter(name for node in model.graph.node for name in dict.fromkeys(node.input))
    left.update(output.name for output in model.graph.output)
    for node in tqdm(model.graph.node, "correct", unit="node", disable=None):
        operator = Operator(node, model.opset_import)
        here = {name: constants[name] for name in node.input if name in constants}
        for values in streams[0]:
            values.update(operator(values, here))
        replaced = None
        if node.name in layers:
            data, noisy = ([values[node.input[0]] for values in stream] for stream in streams)
            replaced = visit(Visited(node, here, data, noisy, [values[node.output[0]] for values in streams[0]]))
            changed |= replaced.constants
        for index, values in enumerate(streams[1]):
            read = values if replaced is None else {**values, node.input[0]: replaced.inputs[index]}
            found = operator(read, {name: changed.get(name, value) for name, value in here.items()})
            values.update(found)
            tell(seen, found)
        forget(node, left, (*streams[0], *streams[1]))
    names = [output.name for output in model.graph.output]
    return Streams(*([{name: values[name] for name in names} for values in stream] for stream in streams))


def tell(seen: Callable[[str, FloatArray], None], found: Mapping[str, Array]) -> None:
    """Pass on the float32 tensors of one utterance."""
    for name, value in found.items():
        if value.dtype == np.float32 and value.ndim > 1:
            seen(name, value[0])


def forget(node: NodeProto, left: Counter[str], streams: Sequence[dict[str, Array]]) -> None:
    """Drop the inputs of a node that nothing reads any more."""
    for name in dict.fromkeys(node.input):
        left[name] -= 1
        if not left[name]:
            for values in streams:
                values.pop(name, None)


class Operator:
    """One node of a graph, run by ONNX Runtime; constants are inputs, so that one session serves any weight."""

    def __init__(self, node: NodeProto, opsets: Sequence[Any]) -> None:
        self._node, self._opsets = node, opsets
        self._session: Any = None
        self._names = [name for name in dict.fromkeys(node.input) if name]

    def __call__(self, values: Mapping[str, Array], constants: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name; an input is taken from `constants` first."""
        inputs = {name: constants[name] if name in constants else values[name] for name in self._names}
        if self._session is None:
            self._session = self._open(inputs)
        outputs = [name for name in self._node.output if name]
        return dict(zip(outputs, self._session.run(outputs, inputs), strict=True))

    def _open(self, inputs: Mapping[str, Array]) -> Any:
        import onnxruntime  # noqa: PLC0415 - half a second

        typed = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None)
            for name, value in inputs.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in self._node.output if name]
        graph = helper.make_graph([self._node], "operator", typed, outputs)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads()
        options.add_session_config_entry(SPINNING, "0")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        model = helper.make_model(graph, opset_imports=self._opsets, ir_version=9)
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
