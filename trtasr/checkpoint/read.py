"""A checkpoint of any kind: a Hugging Face folder or a NeMo archive."""

from pathlib import Path

from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.checkpoint.huggingface import read_huggingface
from trtasr.checkpoint.nemo import read_nemo
from trtasr.errors import CheckpointError

PARTS = (".safetensors", ".json", ".bin")  # files of a folder


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint: a folder as Hugging Face's, a file as NeMo's.

    Raises:
        CheckpointError: missing, damaged, untrustworthy or unsupported; names the file, member or key.
    """
    if path.is_dir():
        return read_huggingface(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder",
                              "give the path of a .nemo archive or of a Hugging Face folder")  # fmt: skip
    if path.suffix in PARTS:
        raise CheckpointError(f"{path}: one file of a Hugging Face folder", f"give the folder: {path.parent}")
    return read_nemo(path)
