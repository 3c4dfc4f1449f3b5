"""Self-attention with relative positions (Dai et al. 2019, Transformer-XL, arXiv 1901.02860, section 3.3)."""

import math
from typing import cast

import torch
from torch import Tensor, nn

MASKED = -10000.0  # NeMo's INF_VAL; fits FP16


class RelPositionMultiHeadAttention(nn.Module):
    """softmax(((q + u) k' + shift((q + v) p')) / sqrt(d_k)) v, per head.

    Args:
        heads: number of heads.
        width: d_model; d_k is width / heads.
        bias: of the projections of queries, keys, values and output.
    """

    def __init__(self, heads: int, width: int, bias: bool) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.linear_q = nn.Linear(width, width, bias)
        self.linear_k = nn.Linear(width, width, bias)
        self.linear_v = nn.Linear(width, width, bias)
        self.linear_out = nn.Linear(width, width, bias)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, self.head_width))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, self.head_width))

    def forward(self, x: Tensor, positions: Tensor, bias: Tensor) -> Tensor:
        """Attend.

        Args:
            x: [B, T, d].
            positions: [1, 2T - 1, d], from T - 1 down to -(T - 1).
            bias: [B, 1, 1, T], 0 for valid keys, `MASKED` for the others.

        Returns:
            [B, T, d].
        """
        query = self.split(self.linear_q(x))
        key, value = self.split(self.linear_k(x)).transpose(1, 2), self.split(self.linear_v(x)).transpose(1, 2)
        position = self.split(self.linear_pos(positions)).transpose(1, 2)
        content = torch.matmul((query + self.pos_bias_u).transpose(1, 2), key.transpose(-2, -1))
        distance = torch.matmul((query + self.pos_bias_v).transpose(1, 2), position.transpose(-2, -1))
        scores = (content + relative_shift(distance)) / math.sqrt(self.head_width) + bias
        attended = torch.matmul(torch.softmax(scores, dim=-1), value)
        return cast(Tensor, self.linear_out(attended.transpose(1, 2).flatten(2)))

    def split(self, x: Tensor) -> Tensor:
        """[B, T, d] -> [B, T, heads, d_k]."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.head_width)


def relative_shift(distance: Tensor) -> Tensor:
    """Column j of row i: from the score of distance index j to the score of key j.

    Row i holds scores for the distances T - 1 .. -(T - 1); key j lies at distance i - j, which is index T - 1 - i + j.

    Args:
        distance: [B, heads, T, 2T - 1].

    Returns:
        [B, heads, T, T].
    """
    batch, heads, frames, span = distance.shape
    padded = nn.functional.pad(distance, (1, 0)).reshape(batch, heads, span + 1, frames)
    return padded[:, :, 1:].reshape(batch, heads, frames, span)[..., :frames]


def relative_positions(frames: int | Tensor, width: int, like: Tensor) -> Tensor:
    """Sinusoidal embeddings of the distances T - 1 .. -(T - 1), sines and cosines interleaved (arXiv 1706.03762, 3.5).

    Args:
        frames: T.
        width: d_model, even.
        like: tensor whose type and device the result has; angles are float32, as in NeMo.

    Returns:
        [1, 2T - 1, width].
    """
    steps = torch.arange(cast(int, frames - 1), cast(int, -frames), -1, device=like.device).to(torch.float32)
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * -(math.log(10000.0) / width))
    angles = steps[:, None] * rates.to(like.device)
    return torch.stack((torch.sin(angles), torch.cos(angles)), dim=2).flatten(1)[None].to(like.dtype)


def attention_bias(mask: Tensor) -> Tensor:
    """[B, 1, T] of 1 and 0 -> [B, 1, 1, T] of 0 and `MASKED`, to be added to attention scores."""
    return ((1.0 - mask) * MASKED)[:, None]
