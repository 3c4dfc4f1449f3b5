"""Relative-position attention against the formulas of the papers, written as loops."""

import math

import numpy as np
import pytest
import torch

from trtasr.models.attention import (
    RelPositionMultiHeadAttention,
    attention_bias,
    relative_positions,
    relative_shift,
)

MASKED = -1e4


def embedding(distance, width):
    """NeMo's `RelPositionalEncoding`: sines in even columns, cosines in odd ones."""
    angles = [distance / 10000 ** (column / width) for column in range(0, width, 2)]
    return np.array([function(angle) for angle in angles for function in (math.sin, math.cos)])


@pytest.mark.parametrize(("batch", "heads", "frames"), [(1, 1, 1), (1, 1, 2), (2, 3, 5), (3, 2, 8)])
def test_relative_shift_picks_the_score_of_the_distance_to_each_key(batch, heads, frames):
    distances = list(range(frames, -frames, -1))
    scores = torch.randn(batch, heads, frames, len(distances))
    expected = torch.empty(batch, heads, frames, frames)
    for query in range(frames):
        for key in range(frames):
            expected[:, :, query, key] = scores[:, :, query, distances.index(query - key)]
    torch.testing.assert_close(relative_shift(scores, batch, frames), expected, atol=0, rtol=0)


@pytest.mark.parametrize(("frames", "width"), [(1, 2), (2, 8), (7, 10), (33, 176)])
def test_relative_positions_follow_the_formula(frames, width):
    found = relative_positions(frames, width, torch.zeros(1))
    expected = np.stack([embedding(distance, width) for distance in range(frames, -frames, -1)])
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-5)


def test_relative_positions_hold_for_long_audio():
    """Ten minutes at 80 ms a frame; float32 angles of 7500 radians are right to 5e-4."""
    found = relative_positions(7500, 8, torch.zeros(1))[0]
    for row, distance in ((0, 7500), (1, 7499), (7500, 0), (14999, -7499)):
        np.testing.assert_allclose(found[row].numpy(), embedding(distance, 8), atol=1e-3)


def test_relative_positions_take_the_type_of_what_they_meet():
    exact = relative_positions(600, 16, torch.zeros(1))
    half = relative_positions(600, 16, torch.zeros(1, dtype=torch.float16))
    torch.testing.assert_close(half, exact.half(), atol=0, rtol=0)  # angles in FP16 would be wrong by whole radians


def test_attention_bias_is_zero_for_valid_keys_and_fits_half_precision():
    bias = attention_bias(torch.tensor([[[1.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]]))
    assert bias.tolist() == [[[[0, 0, MASKED]]], [[[0, MASKED, MASKED]]]]
    assert bias.half().isfinite().all()


def attend(layer, x, count):
    """Attention of one utterance, by its formula: x [T, d] of which ``count`` frames are keys."""
    names = ("linear_q", "linear_k", "linear_v", "linear_out")
    weight = {name: getattr(layer, name).weight.double().numpy() for name in (*names, "linear_pos")}
    zero = np.zeros(x.shape[1])
    bias = {name: zero if (stored := getattr(layer, name).bias) is None else stored.double().numpy() for name in names}
    u, v = (parameter.double().numpy() for parameter in (layer.pos_bias_u, layer.pos_bias_v))
    query, key, value = (x @ weight[name].T + bias[name] for name in names[:3])
    frames, width = x.shape
    size = width // len(u)
    out = np.zeros((frames, width))
    for head in range(len(u)):
        part = slice(head * size, (head + 1) * size)
        for i in range(frames):
            scores = np.array(
                [
                    (query[i, part] + u[head]) @ key[j, part]
                    + (query[i, part] + v[head]) @ (weight["linear_pos"] @ embedding(i - j, width))[part]
                    for j in range(count)
                ]
            ) / math.sqrt(size)
            chances = np.exp(scores - scores.max())
            out[i, part] = chances / chances.sum() @ value[:count, part]
    return out @ weight["linear_out"].T + bias["linear_out"]


@pytest.mark.parametrize(("heads", "bias"), [(1, True), (4, True), (4, False)])
def test_attention_equals_its_formula(heads, bias):
    torch.manual_seed(0)
    layer = RelPositionMultiHeadAttention(heads, 16, bias).requires_grad_(False)
    layer.pos_bias_u.normal_()
    layer.pos_bias_v.normal_()
    x, counts = torch.randn(3, 6, 16), (6, 4, 1)
    mask = torch.tensor([[[float(frame < count) for frame in range(6)]] for count in counts])
    found = layer(3 * x, relative_positions(6, 16, x), attention_bias(mask))
    for row, count in enumerate(counts):
        np.testing.assert_allclose(found[row].numpy(), attend(layer, 3 * x[row].double().numpy(), count), atol=2e-5)


def test_nothing_but_padding_gives_numbers():
    layer = RelPositionMultiHeadAttention(2, 8, True).requires_grad_(False)
    x = torch.randn(1, 5, 8)
    assert layer(x, relative_positions(5, 8, x), attention_bias(torch.zeros(1, 1, 5))).isfinite().all()
