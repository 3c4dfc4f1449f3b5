"""Probe signals: what a recording can be like, made without any recording, to judge an engine before it hears speech.

All begin as `speech_shaped_audio`. Each kind is one function: seconds, samples per second, random numbers -> audio.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from trtasr.quant.speech_noise import speech_shaped_audio

QUIET = 0.03  # of the usual level: 30 dB below it
SNR_DB = 5.0  # of what is noisy
OVERDRIVE = 6.0  # how much louder than the largest value a clipped recording was
LETTER, GAP = (0.10, 0.20), (0.05, 0.15)  # seconds: of a letter that is spelled fast, and of the pause behind it
BURST, SILENCE = (0.2, 0.6), (0.8, 1.6)  # likewise of a word and of the silence behind it
FLOOR = 0.0003  # standard deviation of the noise in a silent room
RAMP = 0.01  # seconds in which a burst begins, or ends


def plain(seconds: float, rate: int, generator: torch.Generator) -> Tensor:
    """Speech-shaped audio as it is, float32 [samples]; so is the audio of the other kinds."""
    return speech_shaped_audio(1, seconds, rate, generator)[0]


def quiet(seconds: float, rate: int, generator: torch.Generator) -> Tensor:
    """The same 30 dB lower."""
    return QUIET * plain(seconds, rate, generator)


def noisy(seconds: float, rate: int, generator: torch.Generator) -> Tensor:
    """With white noise 5 dB below it."""
    audio = plain(seconds, rate, generator)
    level = audio.square().mean().sqrt() * 10 ** (-SNR_DB / 20)
    return audio + level * torch.randn(len(audio), generator=generator)


def clipped(seconds: float, rate: int, generator: torch.Generator) -> Tensor:
    """Recorded six times too loud."""
    audio = plain(seconds, rate, generator)
    most = audio.abs().max()
    return (OVERDRIVE * audio).clamp(-most, most)


def spelled(seconds: float, rate: int, generator: torch.Generator) -> Tensor:
    """Letters, spelled fast: bursts of 100 to 200 ms with short pauses."""
    return gated(plain(seconds, rate, generator), rate, (LETTER, GAP), generator)


def sparse(seconds: float, rate: int, generator: torch.Generator) -> Tensor:
    """Silence with single bursts."""
    return gated(plain(seconds, rate, generator), rate, (BURST, SILENCE), generator)


def gated(
    audio: Tensor, rate: int, spans: tuple[tuple[float, float], tuple[float, float]], generator: torch.Generator
) -> Tensor:
    """Audio that is heard in bursts, each at full level, over the noise of a silent room.

    Args:
        audio: [samples].
        rate: samples per second.
        spans: shortest and longest burst, shortest and longest gap, in seconds.
        generator: of the random numbers.
    """
    ramp = max(1, round(RAMP * rate))
    found = FLOOR * torch.randn(len(audio), generator=generator)
    place = 0
    while place < len(audio):
        length, gap = (round(rate * float(torch.empty(1).uniform_(*span, generator=generator))) for span in spans)
        burst = audio[place : place + length]
        edges = torch.minimum(torch.arange(1, len(burst) + 1), torch.arange(len(burst), 0, -1)) / ramp
        level = burst.abs().max().clamp(min=1e-6)
        found[place : place + length] += 0.5 * edges.clamp(max=1) * burst / level
        place += length + gap
    return found


Probe = Callable[[float, int, torch.Generator], Tensor]
PROBES: Mapping[str, tuple[Probe, tuple[float, ...]]] = {  # kind -> how it is made, and seconds of each utterance
    "long": (plain, (10.0,)),
    "short": (plain, (1.0, 1.5, 2.0)),
    "quiet": (quiet, (5.0,)),
    "noisy": (noisy, (5.0,)),
    "clipped": (clipped, (5.0,)),
    "spelled": (spelled, (6.0,)),
    "sparse": (sparse, (6.0,)),
}
