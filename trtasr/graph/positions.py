"""Tables of relative positions: sines and cosines computed once, kept as the 8-bit codes that the network reads."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from trtasr.errors import BuildError
from trtasr.graph.check import run_graph
from trtasr.graph.codes import LARGEST_CODE
from trtasr.graph.edit import consumers, empty_copy, producers, rebuilt
from trtasr.graph.integer_build import UNSUPPORTED, Builder
from trtasr.quant.fixed_point import LONGEST
from trtasr.values import Array


@dataclass(frozen=True)
class Positions:
    """Embeddings of the distances L .. -(L - 1), of which T frames read those from T to -(T - 1).

    Attributes:
        name: of the tensor in the FP32 graph, float32 [1, 2T, d].
        frames: name of the int64 tensor that holds T.
        values: float32 [1, 2L, d].
    """

    name: str
    frames: str
    values: Array

    def look_up(self, build: Builder) -> None:
        """Emit the codes at the table's scale, rows L - T to L + T."""
        read = build.formats[self.name]
        codes = np.clip(np.rint(self.values / read.scale) + read.zero, 0, LARGEST_CODE)
        rows = self.values.shape[1] // 2
        middle, axis = build.number(rows), build.constant("axis_1", np.array([1], np.int64))
        shape = build.constant("one_number", np.array([1], np.int64))
        frames = build.emit("Reshape", [self.frames, shape], f"{self.name}_frames")
        first = build.emit("Sub", [middle, frames], f"{self.name}_first")
        last = build.emit("Add", [middle, frames], f"{self.name}_last")
        stored = build.constant(f"{self.name}_table", codes.astype(np.uint8))
        build.codes_of[self.name] = build.emit("Slice", [stored, first, last, axis], f"{self.name}_quantized")


def position_tables(model: onnx.ModelProto, longest: int = LONGEST) -> dict[str, Positions]:
    """Every tensor of sines and cosines that a weighted node reads, evaluated for the longest input.

    Raises:
        BuildError: sines of something else than a range of frames.
    """
    made, readers, found = producers(model), consumers(model), {}
    for node in model.graph.node:
        if node.op_type != "Sin":
            continue
        steps, start = range_behind(node, made)
        name = followed(steps, readers)
        found[name] = Positions(name, start, evaluated(model, steps, name, longest))
    return found


def range_behind(node: NodeProto, made: dict[str, NodeProto]) -> tuple[str, str]:
    """(output of the Range T .. -T, name of T) that angles are computed from."""
    name = node.input[0]
    while name in made and made[name].op_type in ("Mul", "Unsqueeze", "Cast"):
        name = made[name].input[0]
    if name not in made or made[name].op_type != "Range":
        raise BuildError(f"{node.name}: sines of something else than a range of positions", UNSUPPORTED)
    start = made[name].input[0]
    while start in made and made[start].op_type == "Cast":
        start = made[start].input[0]
    return name, start


def followed(name: str, readers: dict[str, list[NodeProto]]) -> str:
    """What a weighted node reads of the positions."""
    carried = [name]
    for current in carried:  # grows while it is walked
        for node in readers[current]:
            if node.op_type not in ("MatMul", "Shape") and node.output[0] not in carried:
                carried.append(node.output[0])
    return carried[-1]


def evaluated(model: onnx.ModelProto, steps: str, name: str, longest: int) -> Array:
    """The table for the longest input, float32 [1, 2L, d], by running that part of the graph."""
    part = empty_copy(model)
    del part.graph.input[:], part.graph.output[:]
    part.graph.input.append(helper.make_tensor_value_info(steps, TensorProto.INT64, ["positions"]))
    part.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "rows", "width"]))
    behind = [node for node in model.graph.node if steps not in node.output]
    return run_graph(rebuilt(part, behind, model.graph.initializer), {steps: np.arange(longest, -longest, -1)})[name]
