"""What both sides of the Moonshine comparison share: configurations, seeded weights, audio, tokens."""

import numpy as np
import torch
from golden import cases

START, END = 1, 2
NEW_TOKENS = 12


def config(**options: object) -> dict:
    """``config.json`` of a small Moonshine."""
    return {
        "model_type": "moonshine",
        "vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 48,
        "encoder_num_hidden_layers": 2,
        "decoder_num_hidden_layers": 2,
        "encoder_num_attention_heads": 2,
        "decoder_num_attention_heads": 2,
        "encoder_num_key_value_heads": 2,
        "decoder_num_key_value_heads": 2,
        "encoder_hidden_act": "gelu",
        "decoder_hidden_act": "silu",
        "max_position_embeddings": 194,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": START,
        "decoder_start_token_id": START,
        "eos_token_id": END,
        "pad_token_id": END,
        **options,
    }


def published(width: int, layers: int, share: float) -> dict:
    """A size that Useful Sensors publishes, in the form of its ``config.json``."""
    return config(
        vocab_size=32768,
        hidden_size=width,
        intermediate_size=4 * width,
        encoder_num_hidden_layers=layers,
        decoder_num_hidden_layers=layers,
        encoder_num_attention_heads=8,
        decoder_num_attention_heads=8,
        encoder_num_key_value_heads=8,
        decoder_num_key_value_heads=8,
        pad_head_dim_to_multiple_of=8,
        partial_rotary_factor=share,
        rope_scaling=None,
        rope_theta=10000.0,
    )


# Numbers that turn in each head: 14 of 16, 7 (so 8) of 12, all 12, 7 (so 8) of 8.
SMALL = {
    "partly_turned": config(partial_rotary_factor=0.9, rope_theta=10000.0, pad_head_dim_to_multiple_of=8),
    "odd_share": config(
        hidden_size=24,
        encoder_num_hidden_layers=1,
        decoder_num_hidden_layers=3,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.62},
    ),
    "wholly_turned": config(
        hidden_size=24, partial_rotary_factor=1.0, rope_scaling={"type": "default", "rope_theta": 100.0}
    ),
    "defaults": config(
        hidden_size=8,
        encoder_num_attention_heads=1,
        decoder_num_attention_heads=1,
        encoder_num_key_value_heads=None,
        decoder_num_key_value_heads=None,
    ),
}
PUBLISHED = {"tiny": published(288, 6, 0.9), "base": published(416, 8, 0.62)}
# Attention that chooses, and logits that are largest for tokens unlike the last one, so that greedy tokens vary.
FACTORS = {"q_proj": 2, "k_proj": 2, "embed_tokens": 3, "decoder.norm": -0.25}
SAMPLES = (895, 1279, 5003, 20479)  # one position, nearly two, odd, and 52


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """`cases.random_weight`, by the name without ``model.``, times `FACTORS`."""
    factor = next((factor for part, factor in FACTORS.items() if part in name), 1)
    return (factor * cases.random_weight(name, shape)).astype(np.float32)


def waveform(samples: int) -> np.ndarray:
    """Audio: float32 [samples]."""
    return cases.signal(samples / cases.RATE, seed=samples)


def tokens(vocabulary: int, length: int = 9) -> np.ndarray:
    """Tokens for teacher forcing, the start first: int64 [1, length]."""
    drawn = np.random.Generator(np.random.PCG64(vocabulary)).integers(0, vocabulary, (1, length))
    drawn[0, 0] = START
    return drawn


def greedy(model: torch.nn.Module, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The start and `NEW_TOKENS` tokens, each decoded from the one before and the cache: int64 [B, 1 + new]."""
    encoded, positions = model.encoder(features, lengths)
    cross = model.decoder.cross(encoded)
    past = [(key[:, :, :0], value[:, :, :0]) for key, value in cross]
    found = [torch.full((len(lengths), 1), START)]
    for _ in range(NEW_TOKENS):
        logits, past = model.decoder(found[-1], past, cross, positions)
        found.append(logits[:, -1:].argmax(-1))
    return torch.cat(found, 1)
