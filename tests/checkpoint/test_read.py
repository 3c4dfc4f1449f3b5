import pytest
from nemo_archive import archive
from whisper_folder import write_folder

from trtasr.checkpoint.read import read_checkpoint
from trtasr.errors import CheckpointError


def test_a_folder_is_hugging_faces_and_a_file_is_nemos(tmp_path):
    assert read_checkpoint(archive(tmp_path)).family == "jasper"
    folder = write_folder(tmp_path / "folder")
    assert read_checkpoint(folder).family == "whisper"
    assert read_checkpoint(folder).generation is not None
    assert read_checkpoint(archive(tmp_path)).generation is None


def test_what_is_neither(tmp_path):
    with pytest.raises(CheckpointError, match=r"no such file .*\n.*\.nemo"):
        read_checkpoint(tmp_path / "none")
    folder = write_folder(tmp_path / "folder")
    for name in ("model.safetensors", "config.json"):
        with pytest.raises(CheckpointError, match=f"{name}.*\n.* folder: {folder}"):
            read_checkpoint(folder / name)
