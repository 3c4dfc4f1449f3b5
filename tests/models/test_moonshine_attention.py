"""Heads whose last numbers are there twice, and rotation in another order, change no result."""

import math

import pytest
import torch
from golden.moonshine_configs import PUBLISHED, config

from trtasr.models.moonshine_attention import Attention, HeadLinear, Rotary, Run, SelfAttention, repeated, turned


@pytest.mark.parametrize(("width", "missing"), [(36, 4), (52, 4), (64, 0), (8, 0), (6, 2), (4, 4), (2, 0), (10, 6)])
def test_heads_get_a_multiple_of_eight_numbers_where_they_have_enough_to_repeat(width, missing):
    assert repeated(width) == missing


@pytest.mark.parametrize("width", [4, 10, 12, 16])
def test_repeated_numbers_change_no_product_and_no_output(width):
    torch.manual_seed(0)
    attention, x = Attention(3 * width, 3), torch.randn(2, 5, 3 * width)
    key, value = attention.key_value(x, 2)
    query = attention.query(x, 2)
    plain = {
        name: torch.nn.functional.linear(x, getattr(attention, f"{name}_proj").weight)
        .reshape(2, 5, 3, width)
        .transpose(1, 2)
        for name in ("q", "k", "v")
    }
    assert key.shape == value.shape == query.shape == (2, 3, 5, width + repeated(width))
    torch.testing.assert_close(
        query @ key.transpose(2, 3), plain["q"] @ plain["k"].transpose(2, 3) / math.sqrt(width), atol=1e-5, rtol=1e-5
    )
    expected = plain["v"].transpose(1, 2).reshape(2, 5, -1) @ attention.o_proj.weight.t()
    found = attention.o_proj(value.transpose(1, 2).reshape(2, 5, -1))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_repeated_weights_are_exact_and_no_channel_is_dead():
    torch.manual_seed(0)
    layer = HeadLinear(24, 2, halved=True)
    made = layer(torch.eye(24)[None])[0].t().reshape(2, 16, 24)
    stored = layer.weight.reshape(2, 12, 24)
    torch.testing.assert_close(made[:, :8], stored[:, :8], atol=0, rtol=0)
    for again in (made[:, 8:12], made[:, 12:]):
        torch.testing.assert_close(again, stored[:, 8:] / 2, atol=0, rtol=0)
    assert made.abs().amax(dim=2).min() > 0


def test_a_product_of_turned_pairs_depends_on_the_distance_alone():
    run = Rotary(PUBLISHED["tiny"])(torch.arange(300), 1)
    torch.manual_seed(0)
    query, key = turned(torch.randn(40).expand(1, 1, 300, 40), run), turned(torch.randn(40).expand(1, 1, 300, 40), run)
    products = (query @ key.transpose(2, 3))[0, 0]
    for distance in (0, 7, -150):
        line = products.diagonal(distance)
        torch.testing.assert_close(line, line[:1].expand_as(line), atol=1e-3, rtol=0)
    assert products[0].std() > 0.1


def test_pairs_turn_as_complex_numbers_do():
    x, angles = torch.randn(1, 1, 4, 6), torch.rand(4, 3)
    found = turned(x, Run(1, angles.cos(), angles.sin()))
    expected = torch.view_as_complex(x.reshape(1, 1, 4, 3, 2)) * torch.polar(torch.ones(4, 3), angles)
    torch.testing.assert_close(found, torch.cat((expected.real, expected.imag), -1))


def test_numbers_behind_the_share_do_not_turn_and_repeated_pairs_turn_as_their_originals():
    behind, wholly = Rotary(PUBLISHED["base"]).rates, Rotary(config(hidden_size=24, partial_rotary_factor=1.0)).rates
    assert not behind[16:].any()
    assert wholly[-2:].tolist() == wholly[4:6].tolist()
    assert (wholly > 0).all()


def test_what_is_past_comes_before():
    torch.manual_seed(0)
    attention = SelfAttention(24, 2)
    x, run = torch.randn(1, 5, 24), Rotary(config(hidden_size=24))(torch.arange(5), 1)
    whole, present = attention(x, None, torch.zeros(5, 5), run)
    _, past = attention(x[:, :3], None, torch.zeros(3, 3), Run(1, run.cos[:3], run.sin[:3]))
    later, both = attention(x[:, 3:], past, torch.zeros(2, 5), Run(1, run.cos[3:], run.sin[3:]))
    torch.testing.assert_close(later, whole[:, 3:], atol=1e-5, rtol=0)
    for found, expected in zip(both, present, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
