"""Whisper's encoder and decoder (Radford et al. 2022, arXiv 2212.04356, section 2.2), names as Hugging Face has them.

The encoder also projects the keys and values of every cross-attention, once per utterance; the decoder takes them, and
the keys and values of the tokens before, as inputs and gives those of the new tokens back. So both are plain functions.
A ``config.json`` that would be computed otherwise is refused.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from trtasr.errors import CheckpointError
from trtasr.models.checks import check_table
from trtasr.models.encoder_decoder import CachedDecoder, EncoderDecoder, KeyValue, source_bias
from trtasr.models.layers import length_mask

# Bounds, both included, above any published model: a folder may come from anywhere and must not claim memory.
INTEGERS = {
    "d_model": (8, 2**13),
    "num_mel_bins": (1, 512),
    "vocab_size": (2, 2**20),
    "encoder_layers": (1, 256),
    "decoder_layers": (1, 256),
    "encoder_attention_heads": (1, 256),
    "decoder_attention_heads": (1, 256),
    "encoder_ffn_dim": (1, 2**15),
    "decoder_ffn_dim": (1, 2**15),
    "max_source_positions": (1, 2**16),
    "max_target_positions": (1, 2**16),
}
FIXED: Mapping[str, Any] = {"activation_function": "gelu", "scale_embedding": False, "tie_word_embeddings": True}


class Attention(nn.Module):
    """softmax(q k' / sqrt(d_k)) v, per head; keys have no bias (as in the original).

    Args:
        width: d_model.
        heads: number of heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def key_value(self, x: Tensor, batch: int) -> KeyValue:
        """Keys and values [B, heads, T, d_k] of x [B, T, d]."""
        return cast(KeyValue, self(x, batch))  # by a call, so that exported nodes bear this module's name

    def forward(
        self, x: Tensor, batch: int, memory: KeyValue | None = None, bias: Tensor | None = None
    ) -> Tensor | KeyValue:
        """Attend from x to keys and values.

        Args:
            x: [B, L, d].
            batch: B; read once by the caller, so that the exported graph computes it once.
            memory: keys and values, each [B, heads, T, d_k]; None: x itself is projected to them; they are returned.
            bias: added to the scores, broadcast to [B, heads, L, T]; None: nothing.

        Returns:
            [B, L, d].
        """
        if memory is None:
            return self.split(self.k_proj(x), batch), self.split(self.v_proj(x), batch)
        key, value = memory
        query = self.split(self.q_proj(x) * (1 / math.sqrt(self.head_width)), batch)
        scores = torch.matmul(query, key.transpose(2, 3))
        if bias is not None:
            scores = scores + bias
        attended = torch.matmul(torch.softmax(scores, dim=-1), value).transpose(1, 2)
        return cast(Tensor, self.out_proj(attended.reshape(batch, -1, self.heads * self.head_width)))

    def split(self, x: Tensor, batch: int) -> Tensor:
        """[B, T, d] -> [B, heads, T, d_k]."""
        return x.reshape(batch, -1, self.heads, self.head_width).transpose(1, 2)


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)).

    Args:
        width: d_model.
        heads: of the attention.
        inner: width of the feed-forward.
    """

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """[B, T, d] and the scores' bias [B, 1, 1, T] -> [B, T, d]."""
        normed, batch = self.self_attn_layer_norm(x), bias.shape[0]
        x = x + self.self_attn(normed, batch, self.self_attn.key_value(normed, batch), bias)
        return cast(Tensor, x + self.fc2(nn.functional.gelu(self.fc1(self.final_layer_norm(x)))))


class Encoder(nn.Module):
    """Two convolutions (the second halves the frame rate), sinusoidal positions, layers, a final norm."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width = config["d_model"]
        self.conv1 = nn.Conv1d(config["num_mel_bins"], width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config["max_source_positions"], width)
        self.layers = nn.ModuleList(
            EncoderLayer(width, config["encoder_attention_heads"], config["encoder_ffn_dim"])
            for _ in range(config["encoder_layers"])
        )
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel [B, mel, T] and valid frames int64 [B] -> encoded [B, T', d], valid positions int64 [B].

        T' is ceil(T / 2). Frames beyond an utterance's length are zero in front of each convolution, as the padding at
        its end is, and no position sees those beyond the valid ones: a batch gives what its items give alone.
        """
        mask = length_mask(lengths, features.shape[2])
        hidden = nn.functional.gelu(self.conv1(features * mask)) * mask
        hidden = nn.functional.gelu(self.conv2(hidden)).transpose(1, 2)
        positions = self.positions(lengths)
        x = hidden + self.embed_positions.weight[: hidden.shape[1]]
        bias = source_bias(positions, x.shape[1])
        for layer in self.layers:
            x = layer(x, bias)
        return self.layer_norm(x), positions

    def positions(self, lengths: Tensor) -> Tensor:
        """Encoder positions int64 [B] of feature frames int64 [B]."""
        return (lengths + 1) // 2


class DecoderLayer(nn.Module):
    """Self-attention over the tokens so far, cross-attention to the encoder, feed-forward; each on a norm, each added.

    Args:
        width: d_model.
        heads: of both attentions.
        inner: width of the feed-forward.
    """

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.encoder_attn = Attention(width, heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(
        self, x: Tensor, past: KeyValue, cross: KeyValue, biases: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, KeyValue]:
        """New tokens x [B, L, d], keys and values, as `CachedDecoder` says -> x, and those of all P + L tokens."""
        normed, batch = self.self_attn_layer_norm(x), biases[1].shape[0]
        key, value = self.self_attn.key_value(normed, batch)
        present = torch.cat((past[0], key), 2), torch.cat((past[1], value), 2)
        x = x + self.self_attn(normed, batch, present, biases[0])
        x = x + self.encoder_attn(self.encoder_attn_layer_norm(x), batch, cross, biases[1])
        return x + self.fc2(nn.functional.gelu(self.fc1(self.final_layer_norm(x)))), present


class Decoder(CachedDecoder):
    """Token and position embeddings, layers, a final norm."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width = config["d_model"]
        self.embed_tokens = nn.Embedding(config["vocab_size"], width)
        self.embed_positions = nn.Embedding(config["max_target_positions"], width)
        self.layers = nn.ModuleList(
            DecoderLayer(width, config["decoder_attention_heads"], config["decoder_ffn_dim"])
            for _ in range(config["decoder_layers"])
        )
        self.layer_norm = nn.LayerNorm(width)

    def begin(self, tokens: Tensor, places: Tensor, batch: int) -> tuple[Tensor, tuple[()]]:  # noqa: ARG002
        """Tokens int64 [B, L] at places int64 [L] -> x [B, L, d], and nothing that the layers share."""
        return self.embed_tokens(tokens) + self.embed_positions(places), ()

    def end(self, x: Tensor) -> Tensor:
        """The final norm of x [B, L, d]."""
        return cast(Tensor, self.layer_norm(x))


class Whisper(EncoderDecoder):
    """Whisper by Hugging Face's ``config.json``.

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
    for key in ("encoder_attention_heads", "decoder_attention_heads"):
        if config["d_model"] % config[key]:
            raise CheckpointError(
                f"config.json: {key} = {config[key]} does not divide d_model = {config['d_model']}",
                "use the configuration that belongs to the weights",
            )
