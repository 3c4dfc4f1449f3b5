"""Reading and building a checkpoint leaves nothing of torch's among the temporary files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from golden import moonshine_configs
from tiny_archive import write_archive, write_conformer
from whisper_folder import write_folder

from trtasr.models.moonshine import Moonshine

ROOT = Path(__file__).resolve().parents[2]
BUILD = (
    "import sys, pathlib; from trtasr.pipeline.job import model_of; "
    "from trtasr.checkpoint.read import read_checkpoint; "
    "model_of(read_checkpoint(pathlib.Path(sys.argv[1])))"
)


def write_moonshine(path):
    config = {**moonshine_configs.config(vocab_size=97), "architectures": ["MoonshineForConditionalGeneration"]}
    state = {f"model.{name}": tensor for name, tensor in Moonshine(config).state_dict().items()}
    files = {"generation_config": {"max_length": 194}, "preprocessor_config": {"sampling_rate": 16000}}
    return write_folder(path, state, config=config, **files)


@pytest.mark.parametrize("write", [write_archive, write_conformer, write_folder, write_moonshine])
def test_building_a_model_leaves_no_folder(tmp_path, write):
    torch.manual_seed(0)
    model = write(tmp_path / "model.nemo")
    (tmp_path / "temporary").mkdir()
    variables = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    variables |= {"TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(model)], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "temporary").iterdir()) == []
