"""A checkpoint of any kind: a Hugging Face folder or a NeMo archive."""

import stat
from pathlib import Path

from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.checkpoint.formats import PYTORCH, format_of, refuse_file
from trtasr.checkpoint.huggingface import read_huggingface
from trtasr.checkpoint.nemo import read_nemo
from trtasr.errors import CheckpointError

PARTS = (".safetensors", ".json", ".bin")  # files of a folder


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint: a folder as Hugging Face's, a file as NeMo's.

    Raises:
        CheckpointError: missing, damaged, untrustworthy or unsupported; names the file, member or key.
    """
    kind = kind_of(path)
    if kind == stat.S_IFDIR:
        return read_huggingface(path)
    if not kind:
        raise CheckpointError(f"{path}: no such file or folder",
                              "give the path of a .nemo archive or of a Hugging Face folder")  # fmt: skip
    if kind != stat.S_IFREG:
        raise CheckpointError(f"{path}: is no regular file", "give a .nemo archive or a Hugging Face folder")
    if path.suffix in PARTS and (path.suffix != ".bin" or format_of(path) is PYTORCH):
        raise CheckpointError(f"{path}: one file of a Hugging Face folder", f"give the folder: {path.parent}")
    refuse_file(path)
    return read_nemo(path)


def kind_of(path: Path) -> int:
    """Kind of a file as `stat` has it, links followed; 0: there is none, or no file system has such a name."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError):
        return 0
