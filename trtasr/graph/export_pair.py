"""torch encoder-decoder -> two FP32 ONNX graphs: encoder with every cross-attention key and value, and decoder step."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from trtasr.graph.export import export_module

KeyValue = tuple[Tensor, Tensor]


class Pair(Protocol):
    """An encoder-decoder as `trtasr.models` has them."""

    encoder: nn.Module
    decoder: nn.Module


class CrossAttention(nn.Module):
    """The projections of one cross-attention that read the encoder's output.

    Called as a module, and so are the layer and the decoder around it: exported nodes bear the names of the modules
    that are called, ``/decoder/layers.0/encoder_attn/k_proj/MatMul``.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.k_proj, self.v_proj = attention.k_proj, attention.v_proj

    def forward(self, encoded: Tensor) -> KeyValue:
        """Encoded [B, T', d] -> key and value of all heads, each [B, T', heads * d_k]."""
        return self.k_proj(encoded), self.v_proj(encoded)


class CrossLayer(nn.Module):
    """The part of a decoder layer that reads the encoder's output alone."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.encoder_attn = CrossAttention(layer.encoder_attn)

    def forward(self, encoded: Tensor) -> KeyValue:
        """Encoded [B, T', d] -> key and value of all heads."""
        return cast(KeyValue, self.encoder_attn(encoded))


class CrossDecoder(nn.Module):
    """The part of a decoder that reads the encoder's output alone."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(map(CrossLayer, decoder.layers))

    def forward(self, encoded: Tensor) -> list[KeyValue]:
        """Encoded [B, T', d] -> key and value of every layer."""
        return [layer(encoded) for layer in self.layers]


class EncoderStage(nn.Module):
    """The encoder, and the keys and values that the decoder's cross-attentions read.

    Heads are split here, not in the decoder's name: no tensor of the decoder's graph has a namesake in this one.
    """

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.encoder, self.decoder = pair.encoder, CrossDecoder(pair.decoder)
        self.splits = [layer.encoder_attn.split for layer in cast(Any, pair.decoder).layers]

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Features [B, rows, T], lengths [B] -> encoded [B, T', d], positions [B], key and value of every layer."""
        encoded, positions = self.encoder(features, lengths)
        batch, cross = encoded.shape[0], self.decoder(encoded)
        heads = [split(item, batch) for split, both in zip(self.splits, cross, strict=True) for item in both]
        return encoded, positions, *heads


class DecoderStage(nn.Module):
    """One step of the decoder, and the choice of the next token."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.decoder = pair.decoder

    def forward(self, tokens: Tensor, positions: Tensor, token_bias: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        """Decode new tokens.

        Args:
            tokens: int64 [B, L].
            positions: valid encoder positions, int64 [B].
            token_bias: float32 [V], added to the last logits: very negative for what must not follow.
            caches: cross key and value of each layer, then past key and value of each.

        Returns:
            logits [B, L, V] without the bias, next tokens int64 [B], their log-probabilities [B], present caches.
        """
        half = len(caches) // 2
        logits, presents = self.decoder(tokens, pairs(caches[half:]), pairs(caches[:half]), positions)
        last = logits[:, -1] + token_bias
        chosen = last.argmax(1)
        best = last.amax(1, keepdim=True)
        log_probs = -torch.exp(last - best).sum(1).log()
        return logits, chosen, log_probs, *chain.from_iterable(presents)


def pairs(flat: Sequence[Tensor]) -> list[KeyValue]:
    """Key, value, key, value ... -> pairs."""
    return list(zip(flat[::2], flat[1::2], strict=True))


def cache_names(kind: str, layers: int) -> list[str]:
    """``past_key.0``, ``past_value.0``, ``past_key.1`` ... of one of ``cross``, ``past``, ``present``."""
    return [f"{kind}_{part}.{layer}" for layer in range(layers) for part in ("key", "value")]


def export_pair(pair: Pair, encoder: Path, decoder: Path, rows: int) -> None:
    """Write both graphs (opset 20) with dynamic batch, time, tokens and cache.

    Encoder: ``features`` float32 [batch, rows, time], ``lengths`` int64 [batch] -> ``encoded`` [batch, positions,
    width], ``positions`` int64 [batch], ``cross_key.i`` and ``cross_value.i`` [batch, heads, positions, d_k].

    Decoder: ``tokens`` int64 [batch, new], ``positions``, ``token_bias`` float32 [vocabulary], the cross keys and
    values, ``past_key.i`` and ``past_value.i`` [batch, heads, past, d_k] -> ``logits`` [batch, new, vocabulary],
    ``next_tokens`` int64 [batch], ``next_log_probs`` [batch], ``present_key.i`` and ``present_value.i``.

    The same module gives the same bytes; no two layers of one graph share a weight.

    Args:
        pair: in eval mode.
        encoder: file to write.
        decoder: file to write.
        rows: of the features: mel bins, or 1 for a waveform.
    """
    frames = 64 if rows > 1 else 16000
    features, lengths = torch.zeros(2, rows, frames), torch.tensor([frames, frames * 3 // 4])
    with torch.no_grad():
        encoded, positions = pair.encoder(features, lengths)
        cross = list(chain.from_iterable(cast(Any, pair.decoder).cross(encoded)))
    layers, each = len(cross) // 2, {0: "batch"}
    cached = {name: {0: "batch", 2: "positions"} for name in cache_names("cross", layers)}
    heard = {"features": {0: "batch", 2: "time"}, "lengths": each}
    encodings = {"encoded": {0: "batch", 1: "positions"}, "positions": each, **cached}
    export_module(EncoderStage(pair), (features, lengths), encoder, heard, encodings)
    vocabulary = cast(nn.Embedding, cast(Any, pair.decoder).embed_tokens).num_embeddings
    past = [torch.zeros_like(item[:, :, :3]) for item in cross]
    before = {name: {0: "batch", 2: "past"} for name in cache_names("past", layers)}
    after = {name: {0: "batch", 2: "total"} for name in cache_names("present", layers)}
    given = {"tokens": {0: "batch", 1: "new"}, "positions": each, "token_bias": {}, **cached, **before}
    made = {"logits": {0: "batch", 1: "new"}, "next_tokens": each, "next_log_probs": each, **after}
    example = (torch.zeros(2, 2, dtype=torch.int64), positions, torch.zeros(vocabulary), *cross, *past)
    export_module(DecoderStage(pair), example, decoder, given, made)
