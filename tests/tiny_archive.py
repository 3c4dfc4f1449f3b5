"""A tiny QuartzNet as a .nemo archive, and speech-free audio for it: enough to drive every stage in seconds."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml
from torch import nn

from trtasr.models.jasper import JasperCtc

LETTERS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]


def block(filters: int, kernel: int, **changes: object) -> dict[str, object]:
    plain = {"filters": filters, "kernel": [kernel], "repeat": 1, "stride": [1], "dilation": [1], "dropout": 0.0,
             "residual": False, "separable": True}  # fmt: skip
    return plain | changes


def config() -> dict[str, object]:
    return {
        "target": "nemo.collections.asr.models.ctc_models.EncDecCTCModel",
        "sample_rate": 16000,
        "labels": LETTERS,
        "preprocessor": {"_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
                         "sample_rate": 16000, "features": 64, "n_fft": 512, "normalize": "per_feature"},
        "encoder": {"_target_": "nemo.collections.asr.modules.ConvASREncoder", "feat_in": 64, "activation": "relu",
                    "conv_mask": True,
                    "jasper": [block(32, 11, stride=[2]), block(32, 7, repeat=2, residual=True),
                               block(64, 1, separable=False)]},
        "decoder": {"_target_": "nemo.collections.asr.modules.ConvASRDecoder", "feat_in": 64, "num_classes": 28,
                    "vocabulary": LETTERS},
    }  # fmt: skip


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    settings = config()
    model = JasperCtc(settings["encoder"], settings["decoder"])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.weight.data.uniform_(0.8, 1.5)
            module.bias.data.normal_(0, 0.2)
    model.train()
    with torch.no_grad():
        for _ in range(30):
            model(torch.randn(4, 64, 120), torch.full((4,), 120))
    model.decoder.decoder_layers[0].weight.data.mul_(6)
    return model.state_dict()


def write_archive(path: Path, changes: dict | None = None, members: dict[str, bytes] | None = None) -> Path:
    buffer = io.BytesIO()
    torch.save(state(), buffer)
    content = {"model_config.yaml": yaml.safe_dump(config() | (changes or {})).encode(),
               "model_weights.ckpt": buffer.getvalue()} | (members or {})  # fmt: skip
    with tarfile.open(path, "w:gz") as archive:
        for name, data in content.items():
            if data:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


def write_manifest(folder: Path, count: int = 3, rate: int = 16000, text: str = "one two") -> Path:
    generator = np.random.default_rng(0)
    lines = []
    for index in range(count):
        samples = generator.normal(0, 0.1, rate + index * rate // 4).astype(np.float32)
        soundfile.write(folder / f"{index}.wav", samples, rate)
        lines.append(json.dumps({"audio_filepath": f"{index}.wav", "duration": len(samples) / rate, "text": text}))
    path = folder / "manifest.json"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
