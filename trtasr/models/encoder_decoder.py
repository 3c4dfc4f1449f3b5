"""What encoder-decoders share: masks of the attention scores, the decoder with its cache, teacher forcing."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from trtasr.models.attention import MASKED, attention_bias
from trtasr.models.layers import length_mask

KeyValue = tuple[Tensor, Tensor]


class CachedDecoder(nn.Module):
    """Decodes new tokens, given the keys and values of those before; the logits use the token embeddings again.

    Attributes:
        embed_tokens: of V tokens.
        layers: of x [B, L, d], past and cross keys and values, the biases of the scores of both attentions ([L, P + L]
            and [B, 1, 1, T']) and what else `begin` gives -> x, and the keys and values of all P + L tokens.
    """

    embed_tokens: nn.Embedding
    layers: nn.ModuleList

    def begin(self, tokens: Tensor, places: Tensor, batch: int) -> tuple[Tensor, tuple[Any, ...]]:
        """Tokens int64 [B, L] at places int64 [L] -> x [B, L, d], and what all layers read besides."""
        raise NotImplementedError

    def end(self, x: Tensor) -> Tensor:
        """The final norm of x [B, L, d]."""
        raise NotImplementedError

    def cross(self, encoded: Tensor) -> list[KeyValue]:
        """Keys and values of every layer's cross-attention, from encoded [B, T', d]."""
        batch = encoded.shape[0]
        return [cast(Any, layer).encoder_attn.key_value(encoded, batch) for layer in self.layers]

    def forward(
        self, tokens: Tensor, past: Sequence[KeyValue], cross: Sequence[KeyValue], positions: Tensor
    ) -> tuple[Tensor, list[KeyValue]]:
        """Decode new tokens.

        Args:
            tokens: int64 [B, L].
            past: per layer, keys and values [B, heads, P, d_k]; P is 0 at the beginning.
            cross: per layer, from `cross`.
            positions: valid encoder positions, int64 [B].

        Returns:
            logits float32 [B, L, V], and per layer the keys and values of P + L tokens.
        """
        before, length = past[0][0].shape[2], tokens.shape[1]
        places = torch.arange(length, device=tokens.device) + before
        x, shared = self.begin(tokens, places, positions.shape[0])
        biases = causal_bias(places, before + length), source_bias(positions, cross[0][0].shape[2])
        presents = []
        for layer, own, other in zip(self.layers, past, cross, strict=True):
            x, present = layer(x, own, other, biases, *shared)
            presents.append(present)
        return nn.functional.linear(self.end(x), self.embed_tokens.weight), presents


class EncoderDecoder(nn.Module):
    """An encoder and a decoder.

    Args:
        encoder: (features [B, rows, T], lengths [B]) -> (encoded [B, T', d], positions [B]).
        decoder: of what the encoder gives and tokens.
    """

    def __init__(self, encoder: nn.Module, decoder: CachedDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, features: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """Teacher forcing: features [B, rows, T], lengths [B], tokens int64 [B, L] -> logits float32 [B, L, V]."""
        encoded, positions = self.encoder(features, lengths)
        cross = self.decoder.cross(encoded)
        logits, _ = self.decoder(tokens, no_past(cross), cross, positions)
        return cast(Tensor, logits)


def no_past(cross: Sequence[KeyValue]) -> list[KeyValue]:
    """The cache before the first token, of the shape of the cross keys and values: [B, heads, 0, d_k] each."""
    return [(key[:, :, :0], value[:, :, :0]) for key, value in cross]


def source_bias(positions: Tensor, total: int | Tensor) -> Tensor:
    """0 for valid encoder positions, `MASKED` for the others: int64 [B] -> float32 [B, 1, 1, T']."""
    return attention_bias(length_mask(positions, total))


def causal_bias(places: Tensor, total: int | Tensor) -> Tensor:
    """0 for tokens at or before a place, `MASKED` for later ones: int64 [L] -> float32 [L, total]."""
    steps = torch.arange(cast(int, total), device=places.device)
    return (steps[None, :] - places[:, None]).clamp(0, 1).to(torch.float32) * MASKED
