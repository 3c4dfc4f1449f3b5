"""Networks of tiny checkpoints with their graphs written, for whatever works on graphs."""

from pathlib import Path

import onnx

from trtasr.checkpoint.read import read_checkpoint
from trtasr.graph.own_part import own_part
from trtasr.network.network import Exported, Files
from trtasr.pipeline.export import export
from trtasr.pipeline.job import wired
from trtasr.targets import Target
from trtasr.targets.place import place
from trtasr.values import ScaleTable


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
