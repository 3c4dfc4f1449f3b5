"""Moonshine's encoder and decoder (Jeffries et al. 2024, arXiv 2410.15608), names as Hugging Face has them.

The encoder reads the waveform itself, of any length; positions are told by rotary embeddings. As with Whisper, the
encoder's part of every cross-attention is computed once per utterance, and both halves are plain functions.
A ``config.json`` that would be computed otherwise is refused.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from trtasr.errors import CheckpointError
from trtasr.models.checks import check_table
from trtasr.models.encoder_decoder import CachedDecoder, EncoderDecoder, KeyValue, source_bias
from trtasr.models.layers import length_mask
from trtasr.models.moonshine_attention import CrossAttention, Rotary, Run, SelfAttention, rotary

# Bounds, both included, above any published model: a folder may come from anywhere and must not claim memory.
INTEGERS = {
    "hidden_size": (8, 2**13),
    "intermediate_size": (1, 2**15),
    "vocab_size": (2, 2**20),
    "encoder_num_hidden_layers": (1, 256),
    "decoder_num_hidden_layers": (1, 256),
    "encoder_num_attention_heads": (1, 256),
    "decoder_num_attention_heads": (1, 256),
}
FIXED: Mapping[str, Any] = {
    "encoder_hidden_act": "gelu",
    "decoder_hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": True,
}
REPAIR = "use the configuration that belongs to the weights"
EPSILON = 1e-5  # of the group norm, added to the variance


class FrameNorm(nn.Module):
    """Group norm of one group: over all channels and the valid frames of an utterance, gain and bias per channel.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        """Normalize; what lies beyond the valid frames becomes the bias.

        Statistics are means over all frames, times all / valid frames: sums would leave the range of FP16.

        Args:
            x: [B, C, T].
            counts: valid frames, int64 [B].

        Returns:
            [B, C, T].
        """
        mask = length_mask(counts, x.shape[2])
        share = (x.shape[2] / counts.clamp(min=1))[:, None, None]
        centered = (x - (x * mask).mean((1, 2), keepdim=True) * share) * mask
        variance = centered.square().mean((1, 2), keepdim=True) * share
        return centered / (variance + EPSILON).sqrt() * self.weight[:, None] + self.bias[:, None]


class FeedForward(nn.Module):
    """fc2(gelu(fc1(x))): the encoder's.

    Args:
        width: d_model.
        inner: width between the layers.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, d] -> [B, T, d]."""
        return cast(Tensor, self.fc2(nn.functional.gelu(self.fc1(x))))


class GatedFeedForward(nn.Module):
    """fc2(silu(gate) * value), where fc1(x) is value and gate side by side: the decoder's (arXiv 2002.05202).

    Args:
        width: d_model.
        inner: width of value and of gate.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, d] -> [B, L, d]."""
        value, gate = self.fc1(x).split(self.fc2.in_features, dim=-1)
        return cast(Tensor, self.fc2(nn.functional.silu(gate) * value))


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)).

    Args:
        width: d_model.
        heads: of the attention.
        inner: width of the feed-forward.
    """

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(width, heads)
        self.mlp = FeedForward(width, inner)
        self.input_layernorm = nn.LayerNorm(width, bias=False)
        self.post_attention_layernorm = nn.LayerNorm(width, bias=False)

    def forward(self, x: Tensor, bias: Tensor, run: Run) -> Tensor:
        """[B, T, d], the scores' bias [B, 1, 1, T] and the angles -> [B, T, d]."""
        attended, _ = self.self_attn(self.input_layernorm(x), None, bias, run)
        x = x + attended
        return cast(Tensor, x + self.mlp(self.post_attention_layernorm(x)))


class Encoder(nn.Module):
    """Three convolutions without padding (one position per 384 samples), layers, a final norm."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.conv1 = nn.Conv1d(1, width, 127, stride=64, bias=False)
        self.groupnorm = FrameNorm(width)
        self.conv2 = nn.Conv1d(width, 2 * width, 7, stride=3)
        self.conv3 = nn.Conv1d(2 * width, width, 3, stride=2)
        self.rotary_emb = Rotary(config)
        self.layers = nn.ModuleList(
            EncoderLayer(width, config["encoder_num_attention_heads"], config["intermediate_size"])
            for _ in range(config["encoder_num_hidden_layers"])
        )
        self.layer_norm = nn.LayerNorm(width, bias=False)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms [B, 1, samples] and valid samples int64 [B] -> encoded [B, T', d], valid positions int64 [B].

        T' is (samples - 511) // 384; there must be `trtasr.audio.waveform.SHORTEST` samples, which give one position.
        A convolution without padding makes each valid frame from valid ones alone, so only the norm and the attention
        need to know lengths: a batch gives what its items give alone.
        """
        frames = whole(lengths - 63, 64)
        hidden = self.groupnorm(torch.tanh(self.conv1(features)), frames)
        hidden = nn.functional.gelu(self.conv2(hidden))
        x = nn.functional.gelu(self.conv3(hidden)).transpose(1, 2)
        positions = self.positions(lengths)
        bias = source_bias(positions, x.shape[1])
        run = self.rotary_emb(torch.arange(x.shape[1], device=x.device), lengths.shape[0])
        for layer in self.layers:
            x = layer(x, bias, run)
        return self.layer_norm(x), positions

    def positions(self, lengths: Tensor) -> Tensor:
        """Encoder positions int64 [B] of samples int64 [B]."""
        return whole(lengths - 511, 384)


def whole(samples: Tensor, step: int) -> Tensor:
    """How many whole steps fit: int64 [B] -> int64 [B], none where there are fewer than no samples."""
    return torch.div(samples.clamp(min=0), step, rounding_mode="trunc")


class DecoderLayer(nn.Module):
    """Self-attention over the tokens so far, cross-attention to the encoder, feed-forward; each on a norm, each added.

    Args:
        width: d_model.
        heads: of both attentions.
        inner: width of the feed-forward.
    """

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(width, heads)
        self.encoder_attn = CrossAttention(width, heads)
        self.mlp = GatedFeedForward(width, inner)
        self.input_layernorm = nn.LayerNorm(width, bias=False)
        self.post_attention_layernorm = nn.LayerNorm(width, bias=False)
        self.final_layernorm = nn.LayerNorm(width, bias=False)

    def forward(
        self, x: Tensor, past: KeyValue, cross: KeyValue, biases: tuple[Tensor, Tensor], run: Run
    ) -> tuple[Tensor, KeyValue]:
        """New tokens x [B, L, d], keys (turned) and values, as `CachedDecoder` says -> x, and those of all tokens."""
        attended, present = self.self_attn(self.input_layernorm(x), past, biases[0], run)
        x = x + attended
        x = x + self.encoder_attn(self.post_attention_layernorm(x), cross, biases[1], run)
        return x + self.mlp(self.final_layernorm(x)), present


class Decoder(CachedDecoder):
    """Token embeddings, layers, a final norm."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.embed_tokens = nn.Embedding(config["vocab_size"], width)
        self.rotary_emb = Rotary(config)
        self.layers = nn.ModuleList(
            DecoderLayer(width, config["decoder_num_attention_heads"], config["intermediate_size"])
            for _ in range(config["decoder_num_hidden_layers"])
        )
        self.norm = nn.LayerNorm(width, bias=False)

    def begin(self, tokens: Tensor, places: Tensor, batch: int) -> tuple[Tensor, tuple[Run]]:
        """Tokens int64 [B, L] at places int64 [L] -> x [B, L, d], and the angles of the places."""
        run = self.rotary_emb(places, batch)
        return self.embed_tokens(tokens), (run,)

    def end(self, x: Tensor) -> Tensor:
        """The final norm of x [B, L, d]."""
        return cast(Tensor, self.norm(x))


class Moonshine(EncoderDecoder):
    """Moonshine by Hugging Face's ``config.json``.

    Raises:
        CheckpointError: a key that is missing, out of bounds or unsupported.
    """

    encoder: Encoder
    decoder: Decoder

    def __init__(self, config: Mapping[str, Any]) -> None:
        check_config(config)
        super().__init__(Encoder(config), Decoder(config))


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse what this module does not compute.

    Raises:
        CheckpointError: naming the key.
    """
    check_table(config, INTEGERS, FIXED)
    check_heads(config)
    rotary(config)


def check_heads(config: Mapping[str, Any]) -> None:
    """Refuse heads that do not fit, or that share keys and values.

    transformers gives the decoder the encoder's heads, whatever the decoder's key says; so both must be alike.

    Raises:
        CheckpointError: naming the key.
    """
    width, heads = config["hidden_size"], config["encoder_num_attention_heads"]
    if width % heads or width // heads % 2:
        raise CheckpointError(
            f"config.json: encoder_num_attention_heads = {heads} does not divide hidden_size = {width} into even parts",
            REPAIR,
        )
    expected = {
        "decoder_num_attention_heads": heads,
        "encoder_num_key_value_heads": heads,
        "decoder_num_key_value_heads": heads,
        "head_dim": width // heads,
    }
    for key, value in expected.items():
        if config.get(key) not in (None, value):
            raise CheckpointError(f"config.json: {key} is {config[key]!r:.80}", f"only {value} is supported here")
