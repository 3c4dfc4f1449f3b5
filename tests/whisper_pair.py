"""A tiny random Whisper as a network of two exported graphs, and features with tokens for it."""

from dataclasses import replace

import numpy as np
import torch

from trtasr.audio.log_mel import LogMelConfig
from trtasr.models.whisper import Whisper
from trtasr.network.families import network_of, original_of
from trtasr.network.network import Described, Exported
from trtasr.pipeline.export import export
from trtasr.text.generate import Generation
from trtasr.text.tokens import CharTokenizer
from trtasr.values import CalibrationSet

ROWS, VOCABULARY = 16, 48
CONFIG = {
    "d_model": 32,
    "num_mel_bins": ROWS,
    "vocab_size": VOCABULARY,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_source_positions": 40,
    "max_target_positions": 32,
}
START, ENGLISH, FRENCH, TASK, END = 40, 41, 42, 43, 44
GENERATION = Generation(
    start=START,
    prompt=(START, ENGLISH, TASK),
    end=(END,),
    suppress=(START, ENGLISH, FRENCH, TASK),
    begin_suppress=(7, END),
    max_length=24,
    no_speech=None,
    languages=(),
    tokens_per_second=0.0,
)
FRONTEND = LogMelConfig(sample_rate=1000, features=ROWS, n_fft=40, hop_length=25)  # 40 frames a second: 2 s are 80
TOKENS = CharTokenizer(tuple(f"w{index}" for index in range(VOCABULARY)))
DESCRIBED = Described("whisper", FRONTEND, TOKENS, GENERATION, 2.0 * CONFIG["max_source_positions"])
CONVOLUTIONS = "/encoder/conv*"


def tiny_whisper(seed=0):
    """Random, with biases and embeddings of a size that every layer's output depends on."""
    torch.manual_seed(seed)
    model = Whisper(CONFIG).eval()
    with torch.no_grad():
        model.decoder.embed_tokens.weight.mul_(0.5)
        model.encoder.embed_positions.weight.mul_(0.5)
    return model


def exported(folder, model=None) -> Exported:
    """``encoder.fp32.onnx`` and ``decoder.fp32.onnx``."""
    network = network_of(DESCRIBED)
    return export(network, original_of(model or tiny_whisper(), network), folder)


def tiny_features(seed=0, batches=2):
    """Batches of three utterances of different lengths, noise behind their valid frames, and tokens for each."""
    random = np.random.default_rng(seed)
    lengths = np.array([60, 33, 46])
    features = [random.normal(size=(3, ROWS, 60)).astype(np.float32) for _ in range(batches)]
    tokens = [
        np.array([START, ENGLISH, TASK, *random.integers(0, START, 4 + count % 3)]) for count in range(3 * batches)
    ]
    return CalibrationSet(tuple(features), (lengths,) * batches, "noise", seed, tuple(tokens))


def alone(features):
    """The same utterances, each a batch of its own without padding."""
    items = [
        (item[None, :, :length], np.array([length]))
        for batch, lengths in zip(features.batches, features.lengths, strict=True)
        for item, length in zip(batch, lengths, strict=True)
    ]
    batches, lengths = zip(*items, strict=True)
    return replace(features, batches=batches, lengths=lengths)


def hearing_whisper(factor=12.0):
    """The same network with a decoder that says another thing to every sound: it listens more than it reads."""
    model = tiny_whisper()
    with torch.no_grad():
        for layer in model.decoder.layers:
            layer.encoder_attn.out_proj.weight.mul_(factor)
            layer.encoder_attn.q_proj.weight.mul_(factor)
    return model
