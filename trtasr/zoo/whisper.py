"""The bundled Whisper: its Hugging Face configuration, its tokenizer, and writing its folder."""

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import tokenizers
import torch
from safetensors.torch import save
from torch import Tensor, nn

from trtasr.audio.log_mel import LogMelConfig, LogMelFrontend
from trtasr.checkpoint.generation import read_generation
from trtasr.checkpoint.huggingface import read_huggingface
from trtasr.models.encoder_decoder import KeyValue, no_past
from trtasr.models.load import build_model
from trtasr.models.whisper import Whisper
from trtasr.text.generate import Generation, biases, greedy
from trtasr.text.huggingface import HuggingFaceTokenizer
from trtasr.text.tokens import Tokenizer
from trtasr.values import FloatArray, IntArray
from trtasr.zoo.grammar import sample

PIECES, SENTENCES = 512, 20_000
SPECIAL = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
END, START, ENGLISH, TRANSLATE, TRANSCRIBE, PREVIOUS, NO_SPEECH, NO_TIMESTAMPS = range(PIECES, PIECES + len(SPECIAL))
PROMPT = (START, ENGLISH, TRANSCRIBE, NO_TIMESTAMPS)
LONGEST_TEXT = 64  # tokens, the prompt included
SECONDS = 15  # longest audio; positions are 20 ms apart
NAME = "whisper"


def configuration() -> dict[str, Any]:
    """``config.json``: Whisper with 4 encoder and 2 decoder layers of width 224."""
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "activation_function": "gelu",
        "d_model": 224,
        "num_mel_bins": 80,
        "vocab_size": PIECES + len(SPECIAL),
        "scale_embedding": False,
        "encoder_layers": 4,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 896,
        "max_source_positions": 50 * SECONDS,
        "decoder_layers": 2,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 896,
        "max_target_positions": LONGEST_TEXT,
        "decoder_start_token_id": START,
        "bos_token_id": END,
        "eos_token_id": END,
        "pad_token_id": END,
        "is_encoder_decoder": True,
        "use_cache": True,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "torch_dtype": "float16",
    }


def generation() -> dict[str, Any]:
    """``generation_config.json``: what transformers and trtasr generate by."""
    return {
        "decoder_start_token_id": START,
        "bos_token_id": END,
        "eos_token_id": END,
        "pad_token_id": END,
        "is_multilingual": True,
        "lang_to_id": {"<|en|>": ENGLISH},
        "language": "<|en|>",
        "task": "transcribe",
        "task_to_id": {"transcribe": TRANSCRIBE, "translate": TRANSLATE},
        "no_timestamps_token_id": NO_TIMESTAMPS,
        "prev_sot_token_id": PREVIOUS,
        "max_length": LONGEST_TEXT,
        "return_timestamps": False,
        "suppress_tokens": [START, ENGLISH, TRANSLATE, TRANSCRIBE, PREVIOUS, NO_SPEECH, NO_TIMESTAMPS],
        "begin_suppress_tokens": [],
    }


def preprocessor() -> dict[str, Any]:
    """``preprocessor_config.json``; the audio keeps its own length (``padding``), the network was trained so."""
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": 80,
        "sampling_rate": 16000,
        "n_fft": 400,
        "hop_length": 160,
        "chunk_length": SECONDS,
        "n_samples": 16000 * SECONDS,
        "nb_max_frames": 100 * SECONDS,
        "padding": "longest",
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
        "processor_class": "WhisperProcessor",
    }


def tokenizer_config() -> dict[str, Any]:
    """``tokenizer_config.json``."""
    return {
        "tokenizer_class": "WhisperTokenizer",
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[0],
        "pad_token": SPECIAL[0],
        "unk_token": SPECIAL[0],
        "model_max_length": LONGEST_TEXT,
        "clean_up_tokenization_spaces": False,
    }


@cache
def train_tokenizer(seed: int = 0) -> Any:
    """Byte-level BPE of sampled sentences, each with a space in front, as Whisper's texts are."""
    rng = random.Random(seed)  # noqa: S311
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    texts = [f" {sample(rng)}" for _ in range(SENTENCES)]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=PIECES, show_progress=False)
    made.train_from_iterator(texts, trainer)
    made.add_special_tokens(list(SPECIAL))
    return made


def untrained() -> Whisper:
    """The network with normal weights of 0.04, residual outputs smaller by depth, and sinusoidal positions."""
    config = configuration()
    model = Whisper(config)
    depths = {"encoder": 2 * config["encoder_layers"], "decoder": 3 * config["decoder_layers"]}  # residual sums
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            small = name.endswith(("out_proj.weight", "fc2.weight"))
            nn.init.normal_(parameter, std=0.04 / (depths[name.partition(".")[0]] ** 0.5 if small else 1))
    with torch.no_grad():
        model.encoder.embed_positions.weight.copy_(sinusoids(config["max_source_positions"], config["d_model"]))
    model.encoder.embed_positions.requires_grad_(False)
    return model


def sinusoids(positions: int, width: int) -> Tensor:
    """Whisper's fixed encoder positions: sines, then cosines, of position / 10000^(i / (width / 2 - 1)).

    Returns:
        float32 [positions, width]; width even.
    """
    rates = torch.exp(-math.log(10000.0) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.arange(positions)[:, None] * rates[None, :]
    return torch.cat((angles.sin(), angles.cos()), dim=1)


@dataclass(frozen=True)
class WhisperRecognizer:
    """The network with what stands before and behind it.

    Attributes:
        model: the network.
        frontend: waveforms -> features.
        tokens: ids -> text.
        generation: how tokens are generated.
    """

    model: Whisper
    frontend: LogMelFrontend
    tokens: Tokenizer
    generation: Generation

    def encoder(self) -> Callable[[str], list[int]]:
        """Text -> ids without the prompt."""
        made = train_tokenizer()
        return lambda text: list(made.encode(f" {text}").ids) if text else []

    def transcribe(self, audio: Tensor, lengths: Tensor) -> list[str]:
        """Greedy transcripts of zero-padded waveforms float32 [B, samples] with lengths int64 [B]."""
        features, frames = self.frontend(audio, lengths)
        seconds = (lengths / self.frontend.config.sample_rate).numpy()
        decoding = TorchDecoding(self.model, biases(self.generation, len(self.tokens.vocabulary)))
        found = greedy(decoding, features.numpy(), frames.numpy(), seconds, self.generation)
        return [self.tokens.decode(ids) for ids in found.tokens]


class TorchDecoding:
    """The module itself as a `trtasr.text.generate.Decoding`.

    Args:
        model: an encoder-decoder.
        rules: name -> float32 [V] added to the last logits.
    """

    def __init__(self, model: Whisper, rules: Mapping[str, FloatArray]) -> None:
        self._model, self._rules = model, rules
        self._cross: list[KeyValue] = []
        self._past: list[KeyValue] = []
        self._positions = self._start = torch.empty(0)

    def begin(self, features: FloatArray, lengths: IntArray) -> IntArray:
        """Encode a batch; valid encoder positions [B]."""
        encoded, self._positions = self._model.encoder(torch.from_numpy(features), torch.from_numpy(lengths))
        self._cross = self._model.decoder.cross(encoded)
        self._past = no_past(self._cross)
        self._start = torch.empty(0)
        return np.asarray(self._positions.numpy())

    def step(self, tokens: IntArray, bias: str) -> tuple[IntArray, FloatArray]:
        """Decode tokens [B, L]; the next ones [B] and their log-probabilities [B]."""
        logits, self._past = self._model.decoder(torch.from_numpy(tokens), self._past, self._cross, self._positions)
        self._start = self._start if self._start.numel() else logits[:, 0]
        found = torch.log_softmax(logits[:, -1] + torch.from_numpy(self._rules[bias]), 1).max(1)
        return found.indices.numpy(), found.values.numpy()

    def start_probability(self, token: int) -> FloatArray:
        """Probability [B] of a token behind the first one."""
        return np.asarray(torch.softmax(self._start, 1)[:, token].numpy())


def load_folder(path: Path) -> WhisperRecognizer:
    """Read a folder back, in evaluation mode and without gradients."""
    checkpoint = read_huggingface(path)
    model = cast(Whisper, build_model(checkpoint.family, checkpoint.config, checkpoint.weights))
    assert checkpoint.generation is not None
    return WhisperRecognizer(
        model, LogMelFrontend(cast(LogMelConfig, checkpoint.frontend)), checkpoint.tokenizer, checkpoint.generation
    )


def beginner() -> WhisperRecognizer:
    """An untrained network with all that belongs to it."""
    tokens = HuggingFaceTokenizer(train_tokenizer().to_str().encode(), configuration()["vocab_size"])
    rules = read_generation(NAME, configuration(), generation(), tokens.vocabulary)
    return WhisperRecognizer(untrained(), LogMelFrontend(LogMelConfig()), tokens, rules)


def write_folder(out: Path, model: Whisper) -> None:
    """Write the folder as transformers does, weights in float16; a file that is there is replaced whole."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{name}": value.detach().half().contiguous() for name, value in model.state_dict().items()}
    contents = {
        "config.json": configuration(),
        "generation_config.json": generation(),
        "preprocessor_config.json": preprocessor(),
        "tokenizer_config.json": tokenizer_config(),
    }
    files = {name: (json.dumps(content, indent=2) + "\n").encode() for name, content in contents.items()}
    files |= {
        "tokenizer.json": train_tokenizer().to_str(pretty=True).encode(),
        "model.safetensors": save(weights, metadata={"format": "pt"}),
    }
    for name, content in files.items():
        partial = out / f"{name}.partial"
        partial.write_bytes(content)
        partial.replace(out / name)
