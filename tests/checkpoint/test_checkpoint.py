"""What every reader gives, whatever it read."""

import pytest
from nemo_archive import archive
from whisper_folder import write_folder

from trtasr.checkpoint.read import read_checkpoint
from trtasr.models.load import FAMILIES


@pytest.fixture(params=["archive", "folder"])
def path(request, tmp_path):
    return archive(tmp_path) if request.param == "archive" else write_folder(tmp_path / "folder")


def test_a_checkpoint_is_of_a_family_that_can_be_built_and_knows_its_tokens(path):
    found = read_checkpoint(path)
    assert found.family in FAMILIES
    assert found.path == path
    assert len(found.sha256) == 64
    assert found.vocabulary == found.tokenizer.vocabulary
    assert all(tensor.device.type == "cpu" for tensor in found.weights.values())
    assert read_checkpoint(path).sha256 == found.sha256
