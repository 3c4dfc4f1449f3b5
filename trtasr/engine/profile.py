"""The input shapes an engine accepts, in seconds of audio."""

import math
from dataclasses import dataclass
from typing import Protocol

from trtasr.errors import UsageError

ROUNDING = 1e-6  # frames: 0.29 s times 100 frames a second is 28.999999999999996
FRAME_MULTIPLE = 16  # front-ends pad utterances to a multiple of 16 frames: the largest shape must leave room for it


class Shapes(Protocol):
    """The range of input shapes that a plan accepts."""

    def shapes(self) -> dict[str, list[list[int]]]:
        """Input name -> [min, opt, max] shape."""


@dataclass(frozen=True)
class Profile:
    """The range of input shapes an engine accepts, in seconds of audio.

    Attributes:
        batches: utterances per batch: smallest, usual, largest. Kernels are tuned for the usual shape.
        seconds: seconds of audio per utterance: shortest, usual, longest.
        frames_per_second: feature frames per second of audio.
        mel_bins: of the front-end.
    """

    batches: tuple[int, int, int]
    seconds: tuple[float, float, float]
    frames_per_second: float
    mel_bins: int

    def __post_init__(self) -> None:
        for key, values in (("batches", self.batches), ("seconds", self.seconds)):
            smallest, usual, largest = values
            if not 0 < smallest <= usual <= largest:
                raise UsageError(f"profile {key}={values} is not 0 < min <= opt <= max", f"put {key} in that order")

    def shapes(self) -> dict[str, list[list[int]]]:
        """Input name -> [min, opt, max] shape, for ``features`` [B, mel, T] and ``lengths`` [B].

        Frames are rounded down for the shortest utterance and up to a multiple of 16 for the others.
        """
        shortest = max(1, math.floor(self.seconds[0] * self.frames_per_second + ROUNDING))
        frames = [shortest, *(_padded(seconds * self.frames_per_second) for seconds in self.seconds[1:])]
        features = [[batch, self.mel_bins, count] for batch, count in zip(self.batches, frames, strict=True)]
        return {"features": features, "lengths": [[batch] for batch in self.batches]}


def _padded(frames: float) -> int:
    # A centred transform of S seconds has one frame more than S * frames_per_second.
    return math.ceil((math.ceil(frames - ROUNDING) + 1) / FRAME_MULTIPLE) * FRAME_MULTIPLE
