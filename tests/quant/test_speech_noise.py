"""Waveforms with the shape of speech: size, repeatability, contour over time, tilt over frequency, pitch."""

import pytest
import torch

from trtasr.quant.speech_noise import DECADES, PITCH, TILT, excitation, interpolated, speech_shaped_audio

pytestmark = pytest.mark.usefixtures("one_thread")
RATE, BANDS = 16000, 16


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def made(seed=0, batch=3, seconds=4.0, rate=RATE):
    return speech_shaped_audio(batch, seconds, rate, seeded(seed))


def energies(audio):
    """log10 of the energy in bands of equal width in mel: [B, bands, frames]."""
    power = torch.stft(audio, 640, 160, window=torch.hann_window(640), return_complex=True).abs().square()
    mel = torch.log10(1 + torch.linspace(0, RATE / 2, power.shape[1]) / 700)
    band = (mel / mel[-1] * BANDS).long().clamp(max=BANDS - 1)
    return torch.stack([power[:, band == index].sum(1) for index in range(BANDS)], 1).clamp(min=1e-12).log10()


@pytest.mark.parametrize(("batch", "seconds", "rate"), [(1, 0.5, 16000), (2, 1.25, 8000), (3, 1.0, 1000)])
def test_each_waveform_has_its_length_and_half_the_largest_magnitude(batch, seconds, rate):
    audio = made(0, batch, seconds, rate)
    assert audio.shape == (batch, round(seconds * rate))
    assert audio.dtype == torch.float32
    torch.testing.assert_close(audio.abs().amax(1), torch.full((batch,), 0.5))


def test_the_same_seed_gives_the_same_waveforms_another_one_others():
    first, again, other = made(0), made(0), made(1)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.01)
    assert not torch.allclose(first[0], first[1], atol=0.01)


def test_bands_move_over_time_as_they_do_in_speech():
    moving, still = (energies(audio).std(2).mean() for audio in (made(), excitation(3, 4 * RATE, RATE, seeded())))
    assert still < 0.2
    assert float(moving) == pytest.approx(DECADES, abs=0.2)


def test_there_are_pauses():
    loudness = energies(made()).mean(1)
    loud, quiet = loudness.quantile(0.9, 1), loudness.quantile(0.1, 1)
    assert (loud - quiet > 2).all()  # 20 dB


def test_the_spectrum_falls_with_frequency():
    shaped, flat = (energies(audio).mean((0, 2)) for audio in (made(), excitation(3, 4 * RATE, RATE, seeded())))
    gain = shaped - flat
    assert float(gain[-1] - gain[0]) == pytest.approx(TILT * (BANDS - 1) / BANDS, abs=0.4)
    assert (gain[2:] < gain[:-2]).all()


def test_half_of_the_excitation_repeats_with_the_pitch_of_a_voice():
    sound = excitation(4, 4 * RATE, RATE, seeded())
    repeats = torch.fft.irfft(torch.fft.rfft(sound, 2**17).abs().square())[:, : RATE // 60]
    found = repeats[:, 20:].argmax(1) + 20
    low, high = PITCH
    assert ((found > RATE / high) & (found < RATE / low)).all()
    assert (repeats[:, 20:].amax(1) > 0.03 * repeats[:, 0]).all()
    assert float(sound.square().mean()) == pytest.approx(1 + 0.5**2, abs=0.02)


def test_bands_are_interpolated_over_mel():
    ramp = torch.arange(5.0)[None, :, None].expand(1, 5, 2)
    found = interpolated(ramp, 9, RATE)
    assert found.shape == (1, 9, 2)
    mel = torch.log10(1 + torch.linspace(0, RATE / 2, 9) / 700)
    torch.testing.assert_close(found[0, :, 1], 4 * mel / mel[-1])
    torch.testing.assert_close(interpolated(torch.full((1, 5, 2), 3.0), 9, RATE), torch.full((1, 9, 2), 3.0))
