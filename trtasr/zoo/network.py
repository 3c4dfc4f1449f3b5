"""The bundled network: its NeMo configuration, and writing a NeMo archive."""

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import torch
import yaml

from trtasr.audio.features import FrontendConfig, MelFrontend
from trtasr.models.jasper import JasperCtc

LABELS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]
BLANK = len(LABELS)


def block(filters: int, kernel: int, repeat: int = 1, stride: int = 1, dilation: int = 1) -> dict[str, Any]:
    """One entry of the ``jasper`` list; repeated blocks are residual, kernels above 1 separable."""
    return {"filters": filters, "repeat": repeat, "kernel": [kernel], "stride": [stride], "dilation": [dilation],
            "dropout": 0.0, "residual": repeat > 1, "separable": kernel > 1}  # fmt: skip


def configuration() -> dict[str, Any]:
    """NeMo's ``model_config.yaml``: a QuartzNet 5x3 with 192 channels, one output frame per 20 ms."""
    body = [block(192, kernel, repeat=3) for kernel in (13, 17, 21, 25, 33)]
    blocks = [block(192, 33, stride=2), *body, block(384, 29, dilation=2), block(512, 1)]
    preprocessor = {"_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
                    "normalize": "per_feature", "window_size": 0.02, "sample_rate": 16000, "window_stride": 0.01,
                    "window": "hann", "features": 64, "n_fft": 512, "frame_splicing": 1, "dither": 1e-5}  # fmt: skip
    return {
        "target": "nemo.collections.asr.models.ctc_models.EncDecCTCModel",
        "sample_rate": 16000,
        "labels": list(LABELS),
        "preprocessor": preprocessor,
        "encoder": {"_target_": "nemo.collections.asr.modules.ConvASREncoder", "feat_in": 64, "activation": "relu",
                    "conv_mask": True, "jasper": blocks},
        "decoder": {"_target_": "nemo.collections.asr.modules.ConvASRDecoder", "feat_in": blocks[-1]["filters"],
                    "num_classes": len(LABELS), "vocabulary": list(LABELS)},
    }  # fmt: skip


def build() -> tuple[JasperCtc, MelFrontend]:
    """The untrained network and its front-end."""
    config = configuration()
    frontend = MelFrontend(FrontendConfig.from_mapping(config["preprocessor"]))
    return JasperCtc(config["encoder"], config["decoder"]), frontend


def save_nemo(path: Path, model: JasperCtc, frontend: MelFrontend) -> None:
    """Write a NeMo archive (tar, gzip): the same weights always give the same bytes."""
    state = {"preprocessor.featurizer.window": frontend.window, "preprocessor.featurizer.fb": frontend.bank[None]}
    state |= {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    weights = io.BytesIO()
    torch.save(state, weights)
    text = yaml.safe_dump(configuration(), sort_keys=False).encode()
    partial = path.with_suffix(".partial")
    with partial.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed, \
            tarfile.open(fileobj=packed, mode="w") as archive:  # fmt: skip
        for name, content in (("./model_config.yaml", text), ("./model_weights.ckpt", weights.getvalue())):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    partial.replace(path)


def load_nemo(path: Path) -> tuple[JasperCtc, MelFrontend]:
    """Read back an archive that `save_nemo` wrote, in evaluation mode."""
    with tarfile.open(path, "r:gz") as archive:
        member = archive.extractfile("./model_weights.ckpt")
        if member is None:
            raise FileNotFoundError(f"{path}: model_weights.ckpt")
        state = torch.load(io.BytesIO(member.read()), weights_only=True)
    model, frontend = build()
    model.load_state_dict({key: value for key, value in state.items() if not key.startswith("preprocessor.")})
    return model.eval(), frontend
