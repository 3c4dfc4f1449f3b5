"""A small .nemo archive, whole or with any part replaced, and how a refusal is checked."""

import io
import tarfile

import pytest
import torch
import yaml
from golden import cases

from trtasr.audio.features import FrontendConfig, mel_bank
from trtasr.checkpoint.nemo import read_nemo
from trtasr.errors import CheckpointError
from trtasr.models.jasper import JasperCtc

MODULES = "nemo.collections.asr.modules."


def config(**changes):
    preprocessor = {"_target_": MODULES + "AudioToMelSpectrogramPreprocessor", "sample_rate": 16000, "dither": 1e-5}
    encoder = {"_target_": MODULES + "ConvASREncoder", **cases.encoder([cases.block(8, 3, stride=[2])])}
    decoder = {"_target_": MODULES + "ConvASRDecoder", "feat_in": 8, "num_classes": 3, "vocabulary": [" ", "a", "b"]}
    return {
        "target": "nemo.collections.asr.models.ctc_models.EncDecCTCModel",
        "sample_rate": 16000,
        "preprocessor": preprocessor,
        "encoder": encoder,
        "decoder": decoder,
        "train_ds": {"manifest_filepath": "???", "batch_size": "${oc.env:BATCH}"},
        **changes,
    }


def weights():
    parts = config()
    state = JasperCtc(parts["encoder"], parts["decoder"]).state_dict()
    state["preprocessor.featurizer.fb"] = torch.from_numpy(mel_bank(FrontendConfig()))[None]
    return state


def saved(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def member(name, content=b"", kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    return info, content


def archive(tmp_path, cfg=None, state=None, extra=(), mode="w"):
    """Write an archive as NeMo does: a folder entry, then ``./`` members."""
    text = cfg if isinstance(cfg, bytes) else yaml.safe_dump(config() if cfg is None else cfg).encode()
    content = state if isinstance(state, bytes) else saved(weights() if state is None else state)
    path = tmp_path / "model.nemo"
    with tarfile.open(path, mode) as tar:
        for info, data in (
            member(".", kind=tarfile.DIRTYPE),
            *extra,
            member("./model_config.yaml", text),
            member("./model_weights.ckpt", content),
        ):
            tar.addfile(info, io.BytesIO(data))
    return path


def refused(path, words):
    with pytest.raises(CheckpointError, match=words) as error:
        read_nemo(path)
    assert str(path) in error.value.problem
    assert error.value.repair
    assert error.value.exit_code == 2
    return error.value
