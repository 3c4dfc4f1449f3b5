"""Networks of tiny checkpoints with their graphs written, and what is made of them."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from trtasr.bench.agreement import output_sqnr
from trtasr.checkpoint.read import read_checkpoint
from trtasr.files.scratch import scratch
from trtasr.graph.own_part import own_part, own_patterns
from trtasr.network.network import Exported, Files, Outputs, run
from trtasr.pipeline.controls import quantized, quantized_graph
from trtasr.pipeline.export import export
from trtasr.pipeline.job import wired
from trtasr.pipeline.scales import make_table
from trtasr.recipe import Quantization
from trtasr.targets import Target
from trtasr.targets.place import place
from trtasr.values import Array, CalibrationSet, FloatArray, ScaleTable

NOTED = {"a": 1}  # settings that tables of `Tiny` name


@dataclass(frozen=True)
class Tiny:
    """A tiny network and what its tables are made from.

    Attributes:
        exported: FP32 graphs.
        features: for calibration.
        plain: settings that tests change.
        made: tables by their changes.
    """

    exported: Exported
    features: CalibrationSet
    plain: Quantization
    made: dict[Any, ScaleTable] = field(default_factory=dict)

    def make(self, features: CalibrationSet | None = None, **changes: Any) -> ScaleTable:
        """A table, made anew."""
        return make_table(self.exported, features or self.features, replace(self.plain, **changes), NOTED)

    def table(self, **changes: Any) -> ScaleTable:
        """A table that other tests may have made already."""
        key = tuple(sorted(changes.items()))
        if key not in self.made:
            self.made[key] = self.make(**changes)
        return self.made[key]

    def models(self) -> list[onnx.ModelProto]:
        """The FP32 graphs."""
        return [onnx.load(file) for file in self.exported.files]

    def quantized(self, table: ScaleTable) -> list[onnx.ModelProto]:
        """The Q/DQ graphs of a table."""
        models = self.models()
        patterns = own_patterns(self.plain.exclude, models)
        return [quantized_graph(m, table, own) for m, own in zip(models, patterns, strict=True)]

    def stream(self, table: ScaleTable | None = None) -> list[Outputs]:
        """What FP32, or the Q/DQ graphs of a table, give to every utterance."""
        network, examples = self.exported.network, self.features.examples()
        if table is None:
            return list(run(network, self.exported.files, examples))
        with scratch() as folder:
            return list(run(network, quantized(self.exported, table, self.plain.exclude, folder), examples))

    def judged(self, table: ScaleTable | None = None) -> list[FloatArray]:
        """What the last part is judged by, of every utterance."""
        return [self.exported.network.last.valid(seen) for seen in self.stream(table)]

    def sqnr(self, table: ScaleTable) -> float:
        """Of the last part's output on the calibration features, in dB."""
        return output_sqnr(self.judged(), self.judged(table))


def initializers(model: onnx.ModelProto) -> dict[str, Array]:
    """Values by name."""
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def exported(checkpoint: Path, folder: Path) -> Exported:
    """FP32 graphs of a checkpoint, written to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return export(*wired(read_checkpoint(checkpoint)), folder)


def placed(graphs: Exported, table: ScaleTable, target: Target, folder: Path) -> Files:
    """The graphs, centered already, quantized for a target and written to a folder."""
    folder.mkdir()
    files = graphs.network.files(folder, "onnx")
    for source, file in zip(graphs.files, files, strict=True):
        fp32 = onnx.load(source)
        onnx.save(place(fp32, own_part(table, fp32), target, []).model, file)
    return files
