"""The CTC head of NeMo's models: a pointwise convolution to the vocabulary."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trtasr.errors import CheckpointError
from trtasr.models.checks import check_integer


class ConvASRDecoder(nn.Module):
    """Pointwise convolution to the vocabulary and log-softmax.

    Args:
        channels: encoder output channels.
        classes: vocabulary size plus one for the blank, which is the last class.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.decoder_layers = nn.Sequential(nn.Conv1d(channels, classes, 1))

    def forward(self, encoded: Tensor) -> Tensor:
        """Encoded [B, C, T] -> log-probabilities [B, T, V + 1]."""
        return torch.log_softmax(self.decoder_layers(encoded).transpose(1, 2), dim=-1)


class CtcNetwork(nn.Module):
    """An encoder with a CTC head: features and lengths in, log-probabilities and lengths out.

    Args:
        encoder: (features [B, mel, T], lengths [B]) -> (encoded [B, C, T'], lengths [B]).
        channels: C.
        decoder: NeMo's ``decoder`` section.

    Raises:
        CheckpointError: neither a vocabulary nor its size.
    """

    def __init__(self, encoder: nn.Module, channels: int, decoder: Mapping[str, Any]) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = ConvASRDecoder(channels, class_count(decoder) + 1)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features float32 [B, mel, T], lengths int64 [B] -> log-probabilities [B, T', V + 1], lengths [B]."""
        encoded, lengths = self.encoder(features, lengths)
        return self.decoder(encoded), lengths


def class_count(decoder: Mapping[str, Any]) -> int:
    """Tokens of the vocabulary, without the blank.

    Raises:
        CheckpointError: neither a vocabulary nor their number.
    """
    vocabulary = decoder.get("vocabulary")
    if isinstance(vocabulary, list | tuple) and vocabulary:
        return len(vocabulary)
    if vocabulary:
        raise CheckpointError(f"decoder.vocabulary: {vocabulary!r:.80}", "use a list of tokens")
    check_integer("decoder.num_classes", decoder.get("num_classes"), (1, 2**20))
    return int(decoder["num_classes"])
