"""What encoder-decoders share: masks of the attention scores, the cache, teacher forcing."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from trtasr.models.layers import length_mask

MASKED = -10000.0  # added to scores of keys that are not to be seen; fits FP16

KeyValue = tuple[Tensor, Tensor]


class EncoderDecoder(nn.Module):
    """An encoder and a decoder.

    Args:
        encoder: (features [B, rows, T], lengths [B]) -> (encoded [B, T', d], positions [B]).
        decoder: (tokens [B, L], past, cross, positions [B]) -> (logits [B, L, V], presents), with a method ``cross``.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, features: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """Teacher forcing: features [B, rows, T], lengths [B], tokens int64 [B, L] -> logits float32 [B, L, V]."""
        encoded, positions = self.encoder(features, lengths)
        cross = cast(Any, self.decoder).cross(encoded)
        logits, _ = self.decoder(tokens, no_past(cross), cross, positions)
        return cast(Tensor, logits)


def no_past(cross: Sequence[KeyValue]) -> list[KeyValue]:
    """The cache before the first token, of the shape of the cross keys and values: [B, heads, 0, d_k] each."""
    return [(key[:, :, :0], value[:, :, :0]) for key, value in cross]


def cross_of(layers: Iterable[nn.Module], encoded: Tensor) -> list[KeyValue]:
    """Keys and values of every layer's cross-attention ``encoder_attn``, from encoded [B, T', d]."""
    batch = encoded.shape[0]
    return [cast(Any, layer).encoder_attn.key_value(encoded, batch) for layer in layers]


def source_bias(positions: Tensor, total: int | Tensor) -> Tensor:
    """0 for valid encoder positions, `MASKED` for the others: int64 [B] -> float32 [B, 1, 1, T']."""
    return ((1.0 - length_mask(positions, total)) * MASKED)[:, None]


def causal_bias(places: Tensor, total: int | Tensor) -> Tensor:
    """0 for tokens at or before a place, `MASKED` for later ones: int64 [L] -> float32 [L, total]."""
    steps = torch.arange(cast(int, total), device=places.device)
    return (steps[None, :] - places[:, None]).clamp(0, 1).to(torch.float32) * MASKED
