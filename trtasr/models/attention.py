"""Self-attention with relative positions (Dai et al. 2019, Transformer-XL, arXiv 1901.02860, section 3.3)."""

import math
from typing import cast

import torch
from torch import Tensor, nn

MASKED = -10000.0  # added to scores of keys that are not to be seen, as NeMo's INF_VAL; fits FP16


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

        The scores are scaled where they are made, in the queries: there are fewer of those.

        Args:
            x: [B, T, d].
            positions: [1, 2T, d], from T down to -(T - 1).
            bias: [B, 1, 1, T], 0 for valid keys, `MASKED` for the others.

        Returns:
            [B, T, d].
        """
        # Sizes are read from `bias`, which all layers share: the exported graph then computes them once.
        batch, frames = bias.shape[0], bias.shape[3]
        scale = 1 / math.sqrt(self.head_width)
        query = self.split(self.linear_q(x) * scale, batch)
        key, value = (self.split(layer(x), batch).transpose(1, 2) for layer in (self.linear_k, self.linear_v))
        position = self.split(self.linear_pos(positions), 1).transpose(1, 2)
        content = torch.matmul((query + self.pos_bias_u * scale).transpose(1, 2), key.transpose(-2, -1))
        distance = torch.matmul((query + self.pos_bias_v * scale).transpose(1, 2), position.transpose(-2, -1))
        scores = content + relative_shift(distance, batch, frames) + bias
        attended = torch.matmul(torch.softmax(scores, dim=-1), value).transpose(1, 2)
        return cast(Tensor, self.linear_out(attended.reshape(batch, -1, self.heads * self.head_width)))

    def split(self, x: Tensor, batch: int) -> Tensor:
        """[B, T, d] -> [B, T, heads, d_k]."""
        return x.reshape(batch, -1, self.heads, self.head_width)


def relative_shift(distance: Tensor, batch: int, frames: int) -> Tensor:
    """From the scores of distances to the scores of keys.

    Row i of ``distance`` holds scores for the distances T .. -(T - 1). Key j lies at distance i - j, which is column
    T - i + j: one column less in each further row. So, in one flat row after another, the first T numbers go, and every
    2T - 1 of the others make a row, whose first T are wanted.

    Args:
        distance: [B, heads, T, 2T].
        batch: B.
        frames: T.

    Returns:
        [B, heads, T, T].
    """
    heads = distance.shape[1]
    flat = distance.reshape(batch, heads, 2 * frames, frames)[:, :, 1:]
    return flat.reshape(batch, heads, frames, 2 * frames - 1)[..., :frames]


def relative_positions(frames: int | Tensor, width: int, like: Tensor) -> Tensor:
    """Sinusoidal embeddings of the distances T .. -(T - 1), sines and cosines interleaved (arXiv 1706.03762, 3.5).

    Args:
        frames: T.
        width: d_model, even.
        like: tensor whose type and device the result has; angles are float32, as in NeMo.

    Returns:
        [1, 2T, width].
    """
    steps = torch.arange(cast(int, frames), cast(int, -frames), -1, device=like.device).to(torch.float32)
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * -(math.log(10000.0) / width))
    angles = steps[:, None] * rates.to(like.device)
    return torch.stack((torch.sin(angles), torch.cos(angles)), dim=2).flatten(1)[None].to(like.dtype)


def attention_bias(mask: Tensor) -> Tensor:
    """[B, 1, T] of 1 and 0 -> [B, 1, 1, T] of 0 and `MASKED`, to be added to attention scores."""
    return ((1.0 - mask) * MASKED)[:, None]
