"""Tiny models as .nemo archives, and speech-free audio for them: enough to drive every stage in seconds."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml
from torch import nn

from trtasr.models.conformer import ConformerCtc
from trtasr.models.jasper import JasperCtc

LETTERS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]
PIECES = ["<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz", "'", "\u2581the", "er", "ing"]
MODULES = "nemo.collections.asr.modules."
HYBRID = {
    "target": "nemo.collections.asr.models.hybrid_rnnt_ctc_bpe_models.EncDecHybridRNNTCTCBPEModel",
    "tokenizer": {"dir": "bpe", "type": "bpe"},
    "decoder": {"_target_": MODULES + "RNNTDecoder", "vocab_size": 32, "prednet": {"pred_hidden": 640}},
    "joint": {"_target_": MODULES + "RNNTJoint", "num_classes": 32, "vocabulary": PIECES},
    "aux_ctc": {"ctc_loss_weight": 0.3, "decoder": {"_target_": MODULES + "ConvASRDecoder", "vocabulary": PIECES}},
}


def block(filters: int, kernel: int, **changes: object) -> dict[str, object]:
    plain = {
        "filters": filters,
        "kernel": [kernel],
        "repeat": 1,
        "stride": [1],
        "dilation": [1],
        "dropout": 0.0,
        "residual": False,
        "separable": True,
    }
    return plain | changes


def config() -> dict[str, object]:
    return {
        "target": "nemo.collections.asr.models.ctc_models.EncDecCTCModel",
        "sample_rate": 16000,
        "labels": LETTERS,
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "features": 64,
            "n_fft": 512,
            "normalize": "per_feature",
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConvASREncoder",
            "feat_in": 64,
            "activation": "relu",
            "conv_mask": True,
            "jasper": [block(32, 11, stride=[2]), block(32, 7, repeat=2, residual=True), block(64, 1, separable=False)],
        },
        "decoder": {
            "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
            "feat_in": 64,
            "num_classes": 28,
            "vocabulary": LETTERS,
        },
    }


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


def conformer_config(**encoder: object) -> dict[str, object]:
    """A Conformer over pieces; ``encoder`` keys replace the defaults."""
    small = {"feat_in": 64, "n_layers": 2, "d_model": 32, "n_heads": 4, "conv_kernel_size": 9}
    return config() | {
        "target": "nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE",
        "tokenizer": {"dir": "bpe", "type": "bpe", "model_path": "nemo:0123_tokenizer.model"},
        "encoder": {"_target_": MODULES + "ConformerEncoder", **small, **encoder},
        "decoder": {
            "_target_": MODULES + "ConvASRDecoder",
            "feat_in": 32,
            "num_classes": len(PIECES),
            "vocabulary": PIECES,
        },
    }


def conformer_network(**encoder: object) -> ConformerCtc:
    """The same Conformer in evaluation mode; no norm or bias is trivial."""
    torch.manual_seed(0)
    settings = conformer_config(**encoder)
    model = ConformerCtc(settings["encoder"], settings["decoder"])
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.05, 0.3)  # as the convolutions leave it
        elif tensor.dim() == 1:
            tensor.add_(torch.empty_like(tensor).uniform_(-0.3, 0.3))
        elif "pos_bias" in name:
            tensor.normal_()
    model.decoder.decoder_layers[0].weight.data.mul_(6)
    return model.eval().requires_grad_(False)


def write_conformer(path: Path, changes: dict | None = None) -> Path:
    settings = conformer_config() | (changes or {})
    return write_members(path, settings, conformer_network().state_dict())


def write_archive(path: Path, changes: dict | None = None, members: dict[str, bytes] | None = None) -> Path:
    return write_members(path, config() | (changes or {}), state(), members)


def write_members(path: Path, settings: dict, weights: dict, members: dict[str, bytes] | None = None) -> Path:
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    content = {"model_config.yaml": yaml.safe_dump(settings).encode(), "model_weights.ckpt": buffer.getvalue()} | (
        members or {}
    )
    with tarfile.open(path, "w:gz") as archive:
        for name, data in content.items():
            if data:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


def write_raw(path: Path, content: dict[str, bytes]) -> Path:
    """An uncompressed archive of any members."""
    with tarfile.open(path, "w") as archive:
        for name, data in content.items():
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
