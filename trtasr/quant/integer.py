"""The executor of an integer-only graph: int8, int32 and int64 arithmetic, and nothing else.

It runs the graph of ``model.integer.onnx`` operator by operator in numpy, takes the composite functions (Rescale,
Softmax, Sigmoid, Normalize) from `quant.integer_math` instead of the graph's own spelling of them, and requires of
every tensor that it is an integer and, up to 32 bits, fits its type, and of the sums of convolutions and matrix
products that they stay within their proved bounds (64-bit numbers are the proof's business). ONNX Runtime runs the same
file; both must give the same integers.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from trtasr.errors import QualityError
from trtasr.quant.integer_kernels import KERNELS, attributes
from trtasr.values import Array, FloatArray, IntArray

COMPOSITES = ("Rescale", "Sigmoid", "Softmax", "Normalize")  # of the graph's own domain
PRODUCTS = ("ConvInteger", "MatMulInteger", "MatMul")
REPAIR = "compile the bundle again; if it stays, report the checkpoint"


class IntegerExecutor:
    """Runs an integer-only graph.

    Args:
        model: the graph, its composite functions not inlined.
        bounds: node of a convolution or matrix product -> proved largest |sum|.

    Raises:
        QualityError: an operator that has no integer kernel.
    """

    def __init__(self, model: onnx.ModelProto, bounds: Mapping[str, int] | None = None) -> None:
        self._nodes = list(model.graph.node)
        self._bounds = bounds or {}
        self._stored = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
        self._types = element_types(model)
        self._outputs = [output.name for output in model.graph.output]
        self._last = last_use(self._nodes)
        for node in self._nodes:
            known = node.op_type in KERNELS or node.op_type in ("Constant", "Split")
            if not known or (node.domain != "") != (node.op_type in COMPOSITES):
                raise QualityError(f"{node.name}: {node.op_type} has no integer kernel", REPAIR)

    def __call__(self, features: FloatArray, lengths: IntArray) -> tuple[IntArray, IntArray]:
        """Features float32 [B, mel, T], lengths int64 [B] -> logits int32 [B, T', V + 1], lengths [B]."""
        found = self.run({"features": features, "lengths": lengths}, self._outputs[:2])
        return found[self._outputs[0]], found[self._outputs[1]]

    def run(self, feeds: Mapping[str, Array], wanted: Iterable[str]) -> dict[str, Array]:
        """Run the graph once.

        Args:
            feeds: input name -> array.
            wanted: names of the tensors to be returned.

        Raises:
            QualityError: a tensor that is no integer, does not fit its type, or exceeds its proved bound; names the
                node.
        """
        kept = set(wanted)
        live: dict[str, Array] = dict(feeds)
        found: dict[str, Array] = {}
        for index, node in enumerate(self._nodes):
            for name, value in zip(node.output, self._made(node, live), strict=True):
                live[name] = self._checked(node, name, value)
                if name in kept:
                    found[name] = live[name]
            for name in self._last[index]:
                live.pop(name, None)
        return found

    def _made(self, node: NodeProto, live: Mapping[str, Array]) -> list[Array]:
        given = attributes(node)
        if node.op_type == "Constant":
            return [numpy_helper.to_array(given["value"])]
        inputs = [live[name] if name in live else self._stored[name] for name in node.input if name]
        if node.op_type != "QuantizeLinear" and any(item.dtype.kind not in "iu" for item in inputs):
            raise QualityError(f"{node.name} ({node.op_type}): reads a tensor that is no integer", REPAIR)
        if node.op_type == "Split":
            return list(np.split(inputs[0], len(node.output), given.get("axis", 0)))
        return [KERNELS[node.op_type](inputs, given)]

    def _checked(self, node: NodeProto, name: str, value: Array) -> Array:
        """The value in the type that the graph gives it.

        Raises:
            QualityError: it is no integer, or does not fit that type or its bound.
        """
        kind = self._types.get(name, value.dtype)
        if value.dtype.kind not in "iu" or kind.kind not in "iu":
            raise QualityError(f"{node.name} ({node.op_type}): {name} is {kind}, not an integer", REPAIR)
        if value.size:
            low, high = int(value.min()), int(value.max())
            limits = np.iinfo(kind)
            bound = self._bounds.get(node.name) if node.op_type in PRODUCTS else None
            if low < limits.min or high > limits.max:
                raise QualityError(f"{node.name} ({node.op_type}): {low} .. {high} does not fit {kind}", REPAIR)
            if bound is not None and max(-low, high) > bound:
                raise QualityError(f"{node.name} ({node.op_type}): {low} .. {high} exceeds its bound {bound}", REPAIR)
        return value.astype(kind, copy=False)


def element_types(model: onnx.ModelProto) -> dict[str, np.dtype[Any]]:
    """Type of every tensor that shape inference knows, and of composite functions' results: int64."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    known = {item.name: item.type.tensor_type.elem_type for item in (*graph.value_info, *graph.output)}
    return {name: np.dtype(helper.tensor_dtype_to_np_dtype(kind)) for name, kind in known.items() if kind}


def last_use(nodes: list[NodeProto]) -> list[list[str]]:
    """For each node, the tensors that no later node reads: they can go."""
    seen: set[str] = set()
    found: list[list[str]] = []
    for node in reversed(nodes):
        names = [name for name in dict.fromkeys(node.input) if name not in seen]
        seen.update(names)
        found.append(names)
    return found[::-1]
