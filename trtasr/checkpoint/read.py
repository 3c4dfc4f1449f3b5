"""A checkpoint of any kind: a Hugging Face folder or a NeMo archive."""

from pathlib import Path

from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.checkpoint.formats import PYTORCH, format_of, refuse_file
from trtasr.checkpoint.huggingface import read_huggingface
from trtasr.checkpoint.nemo import read_nemo
from trtasr.errors import CheckpointError
from trtasr.files.look import is_file, is_folder, is_there

PARTS = (".safetensors", ".json", ".bin")  # files of a folder


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint: a folder as Hugging Face's, a file as NeMo's.

    Raises:
        CheckpointError: missing, damaged, untrustworthy or unsupported; names the file, member or key.
    """
    if is_folder(path):
        return read_huggingface(path)
    if not is_there(path):
        raise CheckpointError(
            f"{path}: no such file or folder", "give the path of a .nemo archive or of a Hugging Face folder"
        )
    if not is_file(path):
        raise CheckpointError(f"{path}: is no regular file", "give a .nemo archive or a Hugging Face folder")
    if path.suffix in PARTS and (path.suffix != ".bin" or format_of(path) is PYTORCH):
        raise CheckpointError(f"{path}: one file of a Hugging Face folder", f"give the folder: {path.parent}")
    refuse_file(path)
    return read_nemo(path)
