"""The bundled networks: their NeMo configurations, and writing and reading NeMo archives."""

import gzip
import io
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import yaml
from torch import Tensor, nn

from trtasr.audio.features import FrontendConfig, MelFrontend
from trtasr.checkpoint.nemo import model_family, read_nemo
from trtasr.checkpoint.nemo_tokenizer import read_tokenizer
from trtasr.models.conformer import ConformerCtc
from trtasr.models.jasper import JasperCtc
from trtasr.models.load import FAMILIES, build_model
from trtasr.text.ctc import greedy
from trtasr.text.tokens import SentencePieceTokenizer, Tokenizer
from trtasr.zoo import pieces

LABELS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]
VOCAB_FILE = "vocab.txt"

Network = JasperCtc | ConformerCtc


class Transcriber(Protocol):
    """What training and evaluation need of a network."""

    @property
    def model(self) -> nn.Module:
        """Its weights."""

    @property
    def frontend(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Waveforms float32 [B, samples] and lengths int64 [B] -> features [B, mel, T] and frames [B]."""

    def encoder(self) -> Callable[[str], list[int]]:
        """Text -> token ids."""

    def transcribe(self, audio: Tensor, lengths: Tensor) -> list[str]:
        """Greedy transcripts of zero-padded waveforms float32 [B, samples] with lengths int64 [B]."""


@dataclass(frozen=True)
class Recognizer:
    """A CTC network with what stands before and behind it.

    Attributes:
        config: NeMo's ``model_config.yaml``.
        model: features float32 [B, mel, T] and frames int64 [B] -> log-probabilities [B, T', V + 1] and frames [B].
        frontend: waveforms -> features.
        tokens: ids -> text.
    """

    config: Mapping[str, Any]
    model: Network
    frontend: MelFrontend
    tokens: Tokenizer

    def encoder(self) -> Callable[[str], list[int]]:
        """Text -> ids, the inverse of ``tokens.decode``."""
        if isinstance(self.tokens, SentencePieceTokenizer):
            return pieces.piece_encoder()
        ids = {token: index for index, token in enumerate(self.tokens.vocabulary)}
        return lambda text: [ids[letter] for letter in text]

    def transcribe(self, audio: Tensor, lengths: Tensor) -> list[str]:
        """Transcripts by greedy CTC of zero-padded waveforms float32 [B, samples] with lengths int64 [B]."""
        log_probs, frames = self.model(*self.frontend(audio, lengths))
        blank = len(self.tokens.vocabulary)
        return [self.tokens.decode(ids) for ids in greedy(log_probs.numpy(), frames.numpy(), blank)]


def quartznet() -> dict[str, Any]:
    """A QuartzNet 5x3 with 192 channels, one output frame per 20 ms."""
    body = [separable_block(192, kernel, repeat=3) for kernel in (13, 17, 21, 25, 33)]
    ends = [separable_block(384, 29, dilation=2), separable_block(512, 1)]
    return jasper_configuration([separable_block(192, 33, stride=2), *body, *ends])


def separable_block(filters: int, kernel: int, repeat: int = 1, stride: int = 1, dilation: int = 1) -> dict[str, Any]:
    """One entry of the ``jasper`` list; repeated blocks are residual, kernels above 1 separable."""
    return block(filters, kernel, repeat, stride, dilation) | {"residual": repeat > 1, "separable": kernel > 1}


def jasper() -> dict[str, Any]:
    """A Jasper 4x2 with 128 channels and dense residual connections, one output frame per 20 ms."""
    plain, dense = ({"residual": value, "residual_dense": value, "separable": False} for value in (False, True))
    body = [block(128, kernel, repeat=2) | dense for kernel in (11, 11, 13, 17)]
    ends = [block(128, 21, dilation=2) | plain, block(256, 1) | plain]
    return jasper_configuration([block(128, 11, stride=2) | plain, *body, *ends])


def block(filters: int, kernel: int, repeat: int = 1, stride: int = 1, dilation: int = 1) -> dict[str, Any]:
    """The sizes in one entry of the ``jasper`` list."""
    return {
        "filters": filters,
        "repeat": repeat,
        "kernel": [kernel],
        "stride": [stride],
        "dilation": [dilation],
        "dropout": 0.0,
    }


def jasper_configuration(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """``model_config.yaml`` of a character model with a Jasper-block encoder on 64 mel bins."""
    return {
        "target": "nemo.collections.asr.models.ctc_models.EncDecCTCModel",
        "sample_rate": 16000,
        "labels": list(LABELS),
        "preprocessor": preprocessor(features=64, window=0.02),
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConvASREncoder",
            "feat_in": 64,
            "activation": "relu",
            "conv_mask": True,
            "jasper": blocks,
        },
        "decoder": decoder(blocks[-1]["filters"], LABELS),
    }


def conformer() -> dict[str, Any]:
    """A Conformer of 5 layers of width 128 over SentencePiece pieces, one output frame per 40 ms."""
    encoder = {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_in": 80,
        "feat_out": -1,
        "n_layers": 5,
        "d_model": 128,
        "subsampling": "striding",
        "subsampling_factor": 4,
        "subsampling_conv_channels": 64,
        "ff_expansion_factor": 4,
        "self_attention_model": "rel_pos",
        "n_heads": 4,
        "att_context_size": [-1, -1],
        "xscaling": True,
        "untie_biases": True,
        "pos_emb_max_len": 5000,
        "conv_kernel_size": 15,
        "conv_norm_type": "batch_norm",
        "dropout": 0.0,
        "dropout_emb": 0.0,
        "dropout_att": 0.0,
    }
    return {
        "target": "nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE",
        "sample_rate": 16000,
        "tokenizer": {
            "dir": "bpe",
            "type": "bpe",
            "model_path": f"nemo:{pieces.MODEL}",
            "vocab_path": f"nemo:{VOCAB_FILE}",
        },
        "preprocessor": preprocessor(features=80, window=0.025),
        "encoder": encoder,
        "decoder": decoder(128, pieces.pieces()),
    }


def preprocessor(features: int, window: float) -> dict[str, Any]:
    """The ``preprocessor`` section: mel bins, and the window in seconds."""
    return {
        "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
        "normalize": "per_feature",
        "window_size": window,
        "sample_rate": 16000,
        "window_stride": 0.01,
        "window": "hann",
        "features": features,
        "n_fft": 512,
        "frame_splicing": 1,
        "dither": 1e-5,
    }


def decoder(channels: int, vocabulary: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """The ``decoder`` section."""
    return {
        "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
        "feat_in": channels,
        "num_classes": len(vocabulary),
        "vocabulary": list(vocabulary),
    }


NETWORKS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "quartznet": quartznet,
    "jasper": jasper,
    "conformer": conformer,
}


def configuration(name: str) -> dict[str, Any]:
    """NeMo's ``model_config.yaml`` of one of `NETWORKS`."""
    return NETWORKS[name]()


def untrained(name: str) -> Recognizer:
    """One of `NETWORKS`, untrained."""
    config = configuration(name)
    return Recognizer(
        config,
        cast(Network, FAMILIES[model_family(config)](config)),
        MelFrontend(FrontendConfig.from_mapping(config["preprocessor"])),
        read_tokenizer(config, tokenizer_files(config)),
    )


def bundled(name: str) -> Path:
    """Where the trained archive of one of `NETWORKS`, or the folder of another network, is committed."""
    return pieces.HERE / (f"{name}.nemo" if name in NETWORKS else name)


def write_nemo(path: Path, config: Mapping[str, Any], model: Network, frontend: MelFrontend) -> None:
    """Write a NeMo archive (tar, gzip): the same weights always give the same bytes."""
    state = {"preprocessor.featurizer.window": frontend.window, "preprocessor.featurizer.fb": frontend.bank[None]}
    state |= {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    weights = io.BytesIO()
    torch.save(state, weights)
    text = yaml.safe_dump(dict(config), sort_keys=False).encode()
    members = {**tokenizer_files(config), "model_config.yaml": text, "model_weights.ckpt": weights.getvalue()}
    partial = path.with_suffix(".partial")
    with (
        partial.open("wb") as raw,
        gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for name, content in members.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    partial.replace(path)


def tokenizer_files(config: Mapping[str, Any]) -> dict[str, bytes]:
    """What the ``tokenizer`` section of a configuration refers to; nothing for a character model."""
    if "tokenizer" not in config:
        return {}
    words = pieces.word_pieces(tuple(config["decoder"]["vocabulary"]))
    return {pieces.MODEL: (pieces.HERE / pieces.MODEL).read_bytes(), VOCAB_FILE: words.encode()}


def load_nemo(path: Path) -> Recognizer:
    """Read an archive back, in evaluation mode and without gradients."""
    checkpoint = read_nemo(path)
    model = cast(Network, build_model(checkpoint.family, checkpoint.config, checkpoint.weights))
    front = MelFrontend(cast(FrontendConfig, checkpoint.frontend))
    return Recognizer(checkpoint.config, model, front, checkpoint.tokenizer)
