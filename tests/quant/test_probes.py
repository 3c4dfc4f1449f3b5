import pytest
import torch

from trtasr.quant.probes import PROBES, gated

RATE = 16_000


def made(kind, seconds=3.0, seed=1):
    make, _ = PROBES[kind]
    return make(seconds, RATE, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", PROBES)
def test_a_kind_has_its_length_and_its_own_seed(kind):
    audio = made(kind)
    assert audio.shape == (3 * RATE,)
    assert bool(torch.isfinite(audio).all())
    assert torch.equal(audio, made(kind))
    assert not torch.equal(audio, made(kind, seed=2))


def test_all_kinds_together_take_less_than_a_minute():
    assert sum(sum(seconds) for _, seconds in PROBES.values()) < 60


def test_quiet_is_30_db_lower():
    ratio = made("quiet").square().mean() / made("long").square().mean()
    assert float(10 * torch.log10(ratio)) == pytest.approx(-30.46, abs=0.01)


def test_noise_is_5_db_below_what_it_is_added_to():
    audio = made("long")
    noise = made("noisy") - audio
    assert float(10 * torch.log10(audio.square().mean() / noise.square().mean())) == pytest.approx(5, abs=0.2)


def test_clipped_audio_stands_at_its_limits():
    audio = made("clipped")
    assert float((audio.abs() == audio.abs().max()).float().mean()) > 0.005


@pytest.mark.parametrize(("kind", "loud"), [("spelled", (0.4, 0.85)), ("sparse", (0.1, 0.6))])
def test_bursts_are_loud_and_pauses_are_not(kind, loud):
    frames = made(kind, 8.0)[: 8 * RATE].reshape(-1, RATE // 100).square().mean(1).sqrt()
    assert loud[0] < float((frames > 0.003).float().mean()) < loud[1]


def test_audio_shorter_than_a_burst_is_one():
    found = gated(torch.ones(100), RATE, ((0.1, 0.2), (0.1, 0.2)), torch.Generator().manual_seed(0))
    assert found.shape == (100,)
    assert float(found.max()) > 0.1
