"""Moonshine's attention: rotary embeddings on a part of each head, and heads as wide as GPUs like them."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from trtasr.errors import CheckpointError
from trtasr.models.encoder_decoder import KeyValue

LANES = 8  # heads get a multiple of so many numbers
ROPE_THETA, PARTIAL_ROTARY_FACTOR = 10000.0, 0.9  # transformers' defaults
MAX_THETA = 1e9


def rotary(config: Mapping[str, Any]) -> tuple[float, float]:
    """Rotary embeddings: ``rope_theta``, and the share of each head that turns, ``partial_rotary_factor``.

    They stand in ``rope_parameters`` (older: ``rope_scaling``), or beside it, or have transformers' default.

    Raises:
        CheckpointError: naming the key.
    """
    name = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    section = config.get(name) or {}
    if not isinstance(section, Mapping):
        raise CheckpointError(f"config.json: {name} is {section!r:.80}", "use an object, or null")
    kind = section.get("rope_type", section.get("type", "default"))
    if kind != "default":
        raise CheckpointError(f"config.json: {name}.rope_type is {kind!r:.80}", "only 'default' is supported")
    values = {"rope_theta": ROPE_THETA, "partial_rotary_factor": PARTIAL_ROTARY_FACTOR} | {
        key: source[key]
        for source in (config, section)
        for key in ("rope_theta", "partial_rotary_factor")
        if key in source
    }
    for key, (low, high) in {"rope_theta": (1.0, MAX_THETA), "partial_rotary_factor": (0.0, 1.0)}.items():
        if type(values[key]) not in (int, float) or not low <= values[key] <= high:
            raise CheckpointError(
                f"config.json: {key} is {values[key]!r:.80}", f"use a number from {low:g} to {high:g}"
            )
    return float(values["rope_theta"]), float(values["partial_rotary_factor"])


class Run(NamedTuple):
    """What all layers of one run share; the exported graph then computes it once.

    Attributes:
        batch: B.
        cos: cosines of the angles that queries and keys turn by, float32 [T, d_k / 2]; sin: sines.
    """

    batch: int
    cos: Tensor
    sin: Tensor


def repeated(width: int) -> int:
    """How many numbers a head of that width says twice, so that its numbers are a multiple of `LANES`.

    With 36 or 52 numbers, as published models have, TensorRT copies the keys and values of all positions at every step;
    transformers has the key ``pad_head_dim_to_multiple_of`` for the like.
    """
    missing = -width % LANES
    return missing if missing <= width else 0


class HeadLinear(nn.Module):
    """A linear layer into heads, or out of them, whose last numbers are there twice: `repeated`.

    That changes no result where one of two factors is `halved` (exact in floating point): q k' of queries and keys, and
    v W' of values and the layer out of the heads. Zeros instead would be dead channels, which INT8 has no scale for.

    Args:
        width: d_model.
        heads: number of heads.
        outward: the heads are the layer's inputs.
        halved: both of two equal numbers count half.
    """

    def __init__(self, width: int, heads: int, outward: bool = False, halved: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width, width)))
        self.shape = heads, width // heads, width
        self.outward, self.halved = outward, halved

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, d] -> [B, T, heads * d_k], or outward the other way."""
        _, own, width = self.shape
        last = repeated(own)
        if not last:
            return nn.functional.linear(x, self.weight)
        parts = (self.weight.t() if self.outward else self.weight).reshape(self.shape)
        once, twice = parts[:, : own - last], parts[:, own - last :]
        if self.halved:
            twice = twice * 0.5
        weight = torch.cat((once, twice, twice), 1).reshape(-1, width)  # a constant of the exported graph
        return torch.matmul(x, weight) if self.outward else nn.functional.linear(x, weight)


class Rotary(nn.Module):
    """Angles of rotary embeddings (Su et al. 2021, arXiv 2104.09864): position / theta^(2i / r) for pair i.

    r numbers of each head turn, and the pairs behind them by an angle of 0. Angles are computed from positions, in
    float32: a stored table would limit the length of the audio.

    Args:
        config: Hugging Face's ``config.json``.
    """

    rates: Tensor

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"] // config["encoder_num_attention_heads"]
        theta, share = rotary(config)
        turning = int(width * share)
        # On the CPU whatever the default: a model may be built without memory, and no state dict brings this.
        steps = torch.arange(0, turning, 2, dtype=torch.float32, device="cpu") / turning
        rates = nn.functional.pad(1.0 / theta**steps, (0, width // 2 - len(steps)))
        again = rates[len(rates) - repeated(width) // 2 :]
        self.register_buffer("rates", torch.cat((rates, again)), persistent=False)

    def forward(self, places: Tensor, batch: int) -> Run:
        """Positions int64 [T] and B -> the angles, as a `Run` has them."""
        angles = places.to(torch.float32)[:, None] * self.rates[None, :]
        return Run(batch, angles.cos(), angles.sin())


class Attention(nn.Module):
    """softmax(q k' / sqrt(d_model / heads)) v, per head, without biases; the scores are scaled in the queries.

    Args:
        width: d_model.
        heads: number of heads; d_k is d_model / heads and what is `repeated`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, 1 / math.sqrt(width // heads)
        self.head_width = width // heads + repeated(width // heads)
        self.q_proj = HeadLinear(width, heads, halved=True)
        self.k_proj = HeadLinear(width, heads)
        self.v_proj = HeadLinear(width, heads)
        self.o_proj = HeadLinear(width, heads, outward=True, halved=True)

    def query(self, x: Tensor, batch: int) -> Tensor:
        """Scaled queries [B, heads, L, d_k] of x [B, L, d]."""
        return self.split(self.q_proj(x) * self.scale, batch)

    def key_value(self, x: Tensor, batch: int) -> KeyValue:
        """Keys and values [B, heads, T, d_k] of x [B, T, d]."""
        return self.split(self.k_proj(x), batch), self.split(self.v_proj(x), batch)

    def split(self, x: Tensor, batch: int) -> Tensor:
        """[B, T, heads * d_k] -> [B, heads, T, d_k]."""
        return x.reshape(batch, -1, self.heads, self.head_width).transpose(1, 2)

    def attend(self, query: Tensor, memory: KeyValue, bias: Tensor, batch: int) -> Tensor:
        """Attend from queries [B, heads, L, d_k] to keys and values, with a bias of the scores: -> [B, L, d]."""
        scores = torch.matmul(query, memory[0].transpose(2, 3)) + bias
        attended = torch.matmul(torch.softmax(scores, dim=-1), memory[1]).transpose(1, 2)
        return cast(Tensor, self.o_proj(attended.reshape(batch, -1, self.heads * self.head_width)))


class SelfAttention(Attention):
    """Attention to the sequence itself; positions turn its queries and keys."""

    def forward(self, x: Tensor, past: KeyValue | None, bias: Tensor, run: Run) -> tuple[Tensor, KeyValue]:
        """Attend from x to what is past and to x.

        Args:
            x: [B, L, d].
            past: keys (turned) and values of the P tokens before, each [B, heads, P, d_k]; None: there are none.
            bias: added to the scores, broadcast to [B, heads, L, P + L].
            run: of this run.

        Returns:
            [B, L, d], and the keys and values of all P + L tokens.
        """
        key, value = self.key_value(x, run.batch)
        present = turned(key, run), value
        if past is not None:
            present = torch.cat((past[0], present[0]), 2), torch.cat((past[1], value), 2)
        return self.attend(turned(self.query(x, run.batch), run), present, bias, run.batch), present


class CrossAttention(Attention):
    """Attention to the encoder, without positions."""

    def forward(self, x: Tensor, cross: KeyValue, bias: Tensor, run: Run) -> Tensor:
        """Attend from x [B, L, d] to keys and values [B, heads, T', d_k], with a bias [B, 1, 1, T'] -> [B, L, d]."""
        return self.attend(self.query(x, run.batch), cross, bias, run.batch)


def turned(x: Tensor, run: Run) -> Tensor:
    """Turn each pair of numbers (2i, 2i + 1) by its angle: [B, heads, T, d_k] -> the same shape.

    The first numbers of all pairs then stand before the second ones. Queries and keys are ordered alike, and their
    product is the same in any order.
    """
    first, second = x[..., ::2], x[..., 1::2]
    return torch.cat((first * run.cos - second * run.sin, second * run.cos + first * run.sin), dim=-1)
