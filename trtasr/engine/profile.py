"""The input shapes an engine accepts, in seconds of audio."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from trtasr.errors import UsageError

ROUNDING = 1e-6  # frames: 0.29 s times 100 frames a second is 28.999999999999996
BUCKET = 64  # frames, 0.64 s of most front-ends: 20 s are 32 shapes, each of which soon repeats
FRAME_MULTIPLE = 16  # front-ends pad utterances to a multiple of 16 frames: the largest shape must leave room for it


class Shapes(Protocol):
    """The range of input shapes that a plan accepts."""

    def shapes(self) -> dict[str, list[list[int]]]:
        """Input name -> [min, opt, max] shape."""

    def busy_shapes(self) -> dict[str, list[list[int]]]:
        """The same range, tuned for its busy end; empty where one tuning serves all."""


@dataclass(frozen=True)
class Alone:
    """The range of a plan for one utterance at a time, as short and as long as in another's.

    Attributes:
        others: of the other plan.
    """

    others: Shapes

    def shapes(self) -> dict[str, list[list[int]]]:
        """Input name -> [min, opt, max] shape, with batches of one."""
        return {
            name: [[1, *sizes] for _, *sizes in shapes]  # the first axis is that of the batch
            for name, shapes in self.others.shapes().items()
        }

    def busy_shapes(self) -> dict[str, list[list[int]]]:
        """None: there are no batches that kernels could be tuned for."""
        return {}


def check_order(**ranges: tuple[float, float, float]) -> None:
    """Refuse a range whose usual value does not lie between its ends.

    Raises:
        UsageError: naming the range.
    """
    for key, (smallest, usual, largest) in ranges.items():
        if not 0 < smallest <= usual <= largest:
            problem = f"profile {key}={(smallest, usual, largest)} is not 0 < min <= opt <= max"
            raise UsageError(problem, f"put {key} in that order")


@dataclass(frozen=True)
class Profile:
    """The range of input shapes an engine accepts, in seconds of audio.

    Attributes:
        batches: utterances per batch: smallest, usual, largest. Kernels are tuned for the usual shape.
        seconds: seconds of audio per utterance: shortest, usual, longest.
        frames_per_second: feature frames per second of audio.
        mel_bins: of the front-end.
        most_frames: that the model has positions for; infinite where there is no end. Frames are rounded up for
            front-ends that pad, which may be more: Whisper's 3000 frames of 30 s would become 3008.
    """

    batches: tuple[int, int, int]
    seconds: tuple[float, float, float]
    frames_per_second: float
    mel_bins: int
    most_frames: float = math.inf

    def __post_init__(self) -> None:
        check_order(batches=self.batches, seconds=self.seconds)

    def shapes(self) -> dict[str, list[list[int]]]:
        """Input name -> [min, opt, max] shape, for ``features`` [B, mel, T] and ``lengths`` [B].

        Frames are rounded down for the shortest utterance and up to a multiple of 16 for the others.
        """
        shortest = max(1, math.floor(self.seconds[0] * self.frames_per_second + ROUNDING))
        frames = [shortest, *(padded_frames(seconds * self.frames_per_second) for seconds in self.seconds[1:])]
        heard = [int(min(count, self.most_frames)) for count in frames]
        features = [[batch, self.mel_bins, count] for batch, count in zip(self.batches, heard, strict=True)]
        return {"features": features, "lengths": [[batch] for batch in self.batches]}

    def busy_shapes(self) -> dict[str, list[list[int]]]:
        """The same range, with the largest batch of the longest utterances as the usual shape.

        A kernel that wins at one utterance of five seconds need not win at eight of twenty. Both ranges are whole, so
        that whoever knows of one profile only (Triton takes the first) can run every shape.
        """
        shapes = self.shapes()
        busy = {name: [least, most, most] for name, (least, _, most) in shapes.items()}
        return {} if busy == shapes else busy


def padded_frames(frames: float) -> int:
    """Frames of so much audio, rounded up to the plan's granularity."""
    # A centred transform of S seconds has one frame more than S * frames_per_second.
    return math.ceil((math.ceil(frames - ROUNDING) + 1) / FRAME_MULTIPLE) * FRAME_MULTIPLE


def bucketed(frames: int, most: int) -> int:
    """Frames of a batch as it is run: whole buckets, so that a service meets few shapes; never more than a plan takes.

    Args:
        frames: of the batch.
        most: that the plan takes; a batch of more stays as it is.
    """
    return max(frames, min(math.ceil(frames / BUCKET) * BUCKET, most))


def nearest(tuned: Sequence[tuple[int, ...]], shape: tuple[int, ...]) -> int:
    """Index of the tuned shape with the nearest number of elements, by their ratio; the first of several."""
    size = math.log(max(math.prod(shape), 1))
    return min(range(len(tuned)), key=lambda index: abs(size - math.log(max(math.prod(tuned[index]), 1))))


USUAL_PAST = 32  # tokens, on average over the steps of fifteen seconds of speech, at four tokens per second


@dataclass(frozen=True)
class DecoderProfile:
    """The range of input shapes one step of a decoder accepts.

    The first step has the whole prompt and an empty past (P = 0), the others one token each: kernels are tuned for
    those. Empty tensors are tensors to TensorRT (developer guide, "Empty Tensors").

    Attributes:
        batches: utterances per batch: smallest, usual, largest.
        positions: encoder positions per utterance, padding included: likewise.
        layers: of the decoder.
        heads: of keys and values; head_width: of each.
        vocabulary: tokens.
        max_length: tokens of a transcript at most, the prompt included.
        prompt: tokens of the longest prompt.
    """

    batches: tuple[int, int, int]
    positions: tuple[int, int, int]
    layers: int
    heads: int
    head_width: int
    vocabulary: int
    max_length: int
    prompt: int

    def __post_init__(self) -> None:
        check_order(batches=self.batches, positions=self.positions)
        if not 0 < self.prompt <= self.max_length:
            raise UsageError(
                f"a prompt of {self.prompt} tokens in a transcript of at most {self.max_length}",
                "raise max_length in the checkpoint's generation_config.json",
            )

    def shapes(self) -> dict[str, list[list[int]]]:
        """Input name -> [min, opt, max] shape.

        ``tokens`` [B, L], ``positions`` [B], ``token_bias`` [V]; of layer i ``cross_key.i`` and ``cross_value.i``
        [B, heads, T', d_k], ``past_key.i`` and ``past_value.i`` [B, heads, P, d_k].
        """
        new, before = (1, 1, self.prompt), (0, min(USUAL_PAST, self.max_length), self.max_length)
        found = {
            "tokens": [[batch, length] for batch, length in zip(self.batches, new, strict=True)],
            "positions": [[batch] for batch in self.batches],
            "token_bias": [[self.vocabulary]] * 3,
        }
        for layer in range(self.layers):
            for part in ("key", "value"):
                found[f"cross_{part}.{layer}"] = self._cache(self.positions)
                found[f"past_{part}.{layer}"] = self._cache(before)
        return found

    def busy_shapes(self) -> dict[str, list[list[int]]]:
        """None: every step of a decoder reads all its weights, whatever the batch, which decides its kernels."""
        return {}

    def _cache(self, lengths: tuple[int, int, int]) -> list[list[int]]:
        pairs = zip(self.batches, lengths, strict=True)
        return [[batch, self.heads, length, self.head_width] for batch, length in pairs]
