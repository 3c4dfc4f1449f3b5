"""Networks of tiny checkpoints with their graphs written, for whatever works on graphs."""

from pathlib import Path

from trtasr.checkpoint.read import read_checkpoint
from trtasr.network.network import Exported
from trtasr.pipeline.export import export
from trtasr.pipeline.job import wired


def exported(checkpoint: Path, folder: Path) -> Exported:
    """FP32 graphs of a checkpoint, written to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return export(*wired(read_checkpoint(checkpoint)), folder)
