"""Augmentation: rooms, telephone band, noise and level of waveforms; masks on features."""

import random
from dataclasses import dataclass

import numpy as np
import soxr
from torch import Tensor

from trtasr.values import FloatArray
from trtasr.zoo.speech import SAMPLE_RATE

MASKED_BINS, MASKED_FRAMES = 0.15, 0.05  # widest mask, of all mel bins and of the valid frames


@dataclass(frozen=True)
class Conditions:
    """How much a waveform is disturbed.

    Attributes:
        snr: (lowest, highest) signal to noise ratio in dB, drawn uniformly.
        noisy: probability of noise; room: of reverberation; telephone: of an 8 kHz sample rate.
        pad: longest added silence at each end in seconds.
        gain: (lowest, highest) level change in dB.
    """

    snr: tuple[float, float] = (5.0, 35.0)
    noisy: float = 0.8
    room: float = 0.2
    telephone: float = 0.25
    pad: float = 0.25
    gain: tuple[float, float] = (-18.0, 3.0)


def disturb(audio: FloatArray, babble: FloatArray, conditions: Conditions, rng: random.Random) -> FloatArray:
    """Pad, reverberate, limit the band, add noise and change the level, each with its probability.

    Args:
        audio: float32 [samples] at 16 kHz.
        babble: float32 [any], other people's speech, for babble noise.
        conditions: probabilities and ranges.
        rng: source of all randomness.

    Returns:
        float32 [samples + padding] in -1..1.
    """
    ends = (int(rng.uniform(0, conditions.pad) * SAMPLE_RATE), int(rng.uniform(0, conditions.pad) * SAMPLE_RATE))
    audio = np.pad(audio, ends)
    if rng.random() < conditions.room:
        audio = reverberate(audio, rng.uniform(0.1, 0.45), rng)
    if rng.random() < conditions.noisy:
        audio = add_noise(audio, noise(len(audio), babble, rng), rng.uniform(*conditions.snr))
    if rng.random() < conditions.telephone:
        narrow = soxr.resample(audio, SAMPLE_RATE, 8000, "MQ")
        audio = soxr.resample(narrow, 8000, SAMPLE_RATE, "MQ")
    gain = 10 ** (rng.uniform(*conditions.gain) / 20)
    return np.asarray(np.clip(audio * gain, -1, 1), np.float32)


def reverberate(audio: FloatArray, t60: float, rng: random.Random) -> FloatArray:
    """Convolve with exponentially decaying noise (Polack's room model) behind a direct path.

    Args:
        audio: float32 [samples].
        t60: seconds in which the tail decays by 60 dB.
        rng: draws the tail and the direct-to-reverberant level.
    """
    time = np.arange(int(t60 * SAMPLE_RATE)) / SAMPLE_RATE
    tail = numpy_generator(rng).standard_normal(len(time)) * np.exp(-np.log(1000) * time / t60)
    response = tail * 10 ** (-rng.uniform(2, 12) / 20) / np.linalg.norm(tail)
    response[0] = 1.0
    size = 1 << (len(audio) + len(response)).bit_length()
    wet = np.fft.irfft(np.fft.rfft(audio, size) * np.fft.rfft(response, size), size)[: len(audio)]
    return np.asarray(wet, np.float32)


def noise(samples: int, babble: FloatArray, rng: random.Random) -> FloatArray:
    """White, pink, red (power 1, 1/f, 1/f^2) or babble noise, float32 [samples]."""
    kind = rng.randrange(4)
    generator = numpy_generator(rng)
    if kind == 3:
        starts = generator.integers(0, len(babble), rng.randint(3, 6))
        speakers = [np.take(babble, np.arange(start, start + samples), mode="wrap") for start in starts]
        return np.asarray(np.sum(speakers, axis=0), np.float32)
    white = generator.standard_normal(samples).astype(np.float32)
    if kind == 0:
        return white
    spectrum = np.fft.rfft(white)
    spectrum /= np.maximum(np.arange(len(spectrum)), 1.0) ** (kind / 2)
    return np.asarray(np.fft.irfft(spectrum, samples), np.float32)


def add_noise(audio: FloatArray, disturbance: FloatArray, snr: float) -> FloatArray:
    """Mix at a signal to noise ratio in dB over the whole signal."""
    level = np.sqrt(np.mean(audio**2) / max(float(np.mean(disturbance**2)), 1e-12)) * 10 ** (-snr / 20)
    return np.asarray(audio + level * disturbance, np.float32)


def change_speed(audio: FloatArray, factor: float) -> FloatArray:
    """Resample so that the sound is ``factor`` times faster and higher."""
    return np.asarray(soxr.resample(audio, SAMPLE_RATE * factor, SAMPLE_RATE, "MQ"), np.float32)


def mask(features: Tensor, frames: Tensor, count: int, rng: random.Random) -> None:
    """Zero ``count`` bands and ``count`` spans of every utterance, in place (SpecAugment, arXiv 1904.08779).

    Args:
        features: [B, mel, T], of mean zero.
        frames: int64 [B], valid frames.
        count: of bands, and of spans; each has a random width from none to the widest.
        rng: draws widths and places.
    """
    for utterance, length in zip(features, frames.tolist(), strict=True):
        for _ in range(count):
            utterance[span(len(utterance), MASKED_BINS, rng)] = 0
            utterance[:, span(length, MASKED_FRAMES, rng)] = 0


def span(size: int, widest: float, rng: random.Random) -> slice:
    """A random stretch of an axis, at most so wide a part of it."""
    width = rng.randint(0, int(widest * size))
    start = rng.randint(0, size - width)
    return slice(start, start + width)


def numpy_generator(rng: random.Random) -> np.random.Generator:
    """Numpy's generator, seeded by Python's."""
    return np.random.default_rng(rng.getrandbits(64))
