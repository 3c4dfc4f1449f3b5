"""The first part of a checkpoint as target t4 quantizes it; scales are of noise, which changes no graph's form."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from exported import exported
from graph.tiny_network import table_of

from trtasr.engine.profile import Shapes
from trtasr.graph.passes import passed
from trtasr.recipe import EngineShapes
from trtasr.targets import T4, Target
from trtasr.targets.place import place
from trtasr.values import ScaleTable

LENGTHS = np.array([161, 120, 37])


@dataclass(frozen=True)
class First:
    """The first part of a network.

    Attributes:
        fp32: graph without Q/DQ.
        feeds: a batch of mixed lengths for it.
        table: scales from that batch.
        shapes: that plans accept by default.
    """

    fp32: onnx.ModelProto
    feeds: dict[str, Any]
    table: ScaleTable
    shapes: Shapes

    def quantized(self, target: Target = T4) -> onnx.ModelProto:
        """The Q/DQ graph; of a baseline the FP32 graph."""
        return place(self.fp32, self.table, target, ()).model

    def lowered(self, target: Target) -> onnx.ModelProto:
        """The graph that the target's builder reads."""
        return passed(self.quantized(target), target.passes, target.name)


def first_part(checkpoint: Path, folder: Path) -> First:
    """Export a checkpoint into a folder, and make scales."""
    graphs = exported(checkpoint, folder)
    model, shapes = onnx.load(graphs.files[0]), graphs.original.shapes(EngineShapes())[0]
    rows = shapes.shapes()["features"][0][1]
    features = np.random.default_rng(1).normal(size=(len(LENGTHS), rows, LENGTHS[0])).astype(np.float32)
    features *= np.arange(LENGTHS[0]) < LENGTHS[:, None, None]
    feeds = {"features": features, "lengths": LENGTHS}
    return First(model, feeds, table_of(model, feeds), shapes)
