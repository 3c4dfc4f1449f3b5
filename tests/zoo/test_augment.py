import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trtasr.zoo.augment import MASKED_BINS, Conditions, add_noise, disturb, mask, noise, reverberate

TONE = (0.3 * np.sin(np.arange(16000) * 0.1)).astype(np.float32)


@settings(deadline=None, max_examples=30)
@given(snr=st.floats(-5, 40))
def test_noise_is_mixed_at_the_wanted_ratio(snr):
    rng = np.random.default_rng(0)
    disturbance = rng.standard_normal(len(TONE)).astype(np.float32)
    added = add_noise(TONE, disturbance, snr) - TONE
    assert 10 * np.log10(np.mean(TONE**2) / np.mean(added**2)) == pytest.approx(snr, abs=0.05)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_disturbed_sound_is_finite_in_range_and_repeatable(seed):
    heard = disturb(TONE, TONE[::-1], Conditions(), random.Random(seed))
    assert heard.dtype == np.float32
    assert np.isfinite(heard).all()
    assert np.abs(heard).max() <= 1
    assert len(TONE) - 2 <= len(heard) <= len(TONE) + 2 * 0.25 * 16000
    np.testing.assert_array_equal(heard, disturb(TONE, TONE[::-1], Conditions(), random.Random(seed)))


def test_noise_of_every_kind_has_the_wanted_length():
    rng = random.Random(0)
    for _ in range(20):
        assert noise(5001, TONE, rng).shape == (5001,)


def test_reverberation_keeps_the_direct_sound_first():
    click = np.zeros(8000, np.float32)
    click[100] = 1.0
    wet = reverberate(click, 0.3, random.Random(1))
    assert np.abs(wet[:100]).max() < 1e-6
    assert np.argmax(np.abs(wet)) == 100


def test_masks_are_bands_and_spans_of_valid_frames():
    features = torch.ones(3, 80, 100)
    mask(features, torch.tensor([100, 60, 0]), 1, random.Random(2))
    bins = (features == 0).all(dim=2).sum(dim=1)
    frames = (features == 0).all(dim=1).sum(dim=1)
    assert 0 < bins.max() <= MASKED_BINS * 80
    assert 0 < frames.max() <= 5
    assert frames[2] == 0
    untouched = torch.ones(1, 80, 100)
    mask(untouched, torch.tensor([100]), 0, random.Random(2))
    assert untouched.all()
