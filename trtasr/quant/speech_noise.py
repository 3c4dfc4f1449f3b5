"""Waveforms with the coarse shape of speech, without any speech, for networks without batch norm.

Networks with batch norm tell what their training data looked like; encoder-decoders with layer norm alone do not. What
they share is the front-end: log-mel of a waveform, scaled by its own maximum, or the waveform itself. So the noise is
made as a waveform and goes through the model's own front-end.
"""

import torch
from torch import Tensor

from trtasr.quant.synthesize import smooth, speech_shaped_noise

BANDS = 32  # of the spectral envelope, evenly spaced on the mel scale
RATE = 100  # envelope frames per second
DECADES = 1.6  # standard deviation of a band's log10 power over time
TILT = -3.0  # log10 power between the lowest and the highest band: speech falls by about 6 dB per octave
PEAK = 0.5
PITCH = (90.0, 240.0)  # Hz


def speech_shaped_audio(batch: int, seconds: float, rate: int, generator: torch.Generator) -> Tensor:
    """Noise and pulses, filtered by an envelope that moves as speech does.

    The excitation is pulses of a slowly moving pitch with white noise at a quarter of their power. Its short-time
    spectrum is multiplied by an envelope: log10 power = tilt over the mel scale + 1.6 x `speech_shaped_noise` (a
    loudness contour of phrases and syllables, and texture over neighbouring bands), interpolated over frequency.

    Args:
        batch: B.
        seconds: length.
        rate: samples per second.
        generator: of the random numbers.

    Returns:
        float32 [B, samples], with a largest magnitude of 0.5.
    """
    samples, hop = round(seconds * rate), rate // RATE
    size = 4 * hop
    window = torch.hann_window(size)
    spectrum = torch.stft(excitation(batch, samples, rate, generator), size, hop, window=window, return_complex=True)
    bins, frames = spectrum.shape[1:]
    envelope = DECADES * speech_shaped_noise((batch, BANDS, frames), generator)
    envelope = envelope + torch.linspace(0, TILT, BANDS)[:, None]
    gain = 10 ** (interpolated(envelope, bins, rate) / 2)
    audio = torch.istft(spectrum * gain, size, hop, window=window, length=samples)
    return PEAK * audio / audio.abs().amax(1, keepdim=True).clamp(min=1e-6)


def excitation(batch: int, samples: int, rate: int, generator: torch.Generator) -> Tensor:
    """Pulses of a slowly moving pitch plus white noise, float32 [B, samples]."""
    frames = samples * RATE // rate + 2
    drift = smooth(torch.randn(batch, 1, frames, generator=generator), 25.0, 0.0)
    low, high = PITCH
    pitch = low + (high - low) * torch.sigmoid(drift + torch.randn(batch, 1, 1, generator=generator))
    phase = torch.cumsum(torch.nn.functional.interpolate(pitch, samples, mode="linear")[:, 0].double() / rate, 1)
    pulses = torch.diff(torch.floor(phase), dim=1, prepend=torch.zeros(batch, 1, dtype=torch.float64)).float()
    period = (rate / pitch.mean(2)).sqrt()  # pulses of one per period have the power of noise times this squared
    return pulses * period + 0.5 * torch.randn(batch, samples, generator=generator)


def interpolated(envelope: Tensor, bins: int, rate: int) -> Tensor:
    """Bands evenly spaced in mel -> bins evenly spaced in Hz: [B, bands, T] -> [B, bins, T], linear in between."""
    hertz = torch.linspace(0, rate / 2, bins)
    mel = 2595 * torch.log10(1 + hertz / 700)
    place = mel / mel[-1] * (envelope.shape[1] - 1)
    below = place.floor().long().clamp(max=envelope.shape[1] - 2)
    share = (place - below)[:, None]
    return envelope[:, below] * (1 - share) + envelope[:, below + 1] * share
