"""The export stage: FP32 graphs of a checkpoint, and the same with their channels centered, as a bundle holds them."""

from functools import partial
from pathlib import Path

import onnx

from trtasr.graph.center import center
from trtasr.graph.check import write_checked
from trtasr.graph.own_part import check_fits, own_part
from trtasr.graph.passes import passed
from trtasr.network.network import Exported, Network, Original
from trtasr.values import ScaleTable


def export(network: Network, original: Original, folder: Path) -> Exported:
    """Write the FP32 graphs of a trained module."""
    original.export(folder)
    return Exported(network, original, network.files(folder))


def centered(exported: Exported, table: ScaleTable, folder: Path) -> Exported:
    """Write the FP32 graphs, shifted by the table's offsets, into a bundle's folder.

    Raises:
        RecipeError: a scale table of other graphs.
    """
    models = [onnx.load(file) for file in exported.files]
    check_fits(table, models)
    files = exported.network.files(folder)
    for model, file in zip(models, files, strict=True):
        passes = [partial(center, offsets=own_part(table, model).offsets)]
        write_checked(passed(model, passes, f"center.{file.name.partition('.')[0]}"), file)
    return Exported(exported.network, exported.original, files)
