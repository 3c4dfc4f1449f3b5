"""Audio files -> mono float32 samples at the model's rate, block by block."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import soundfile
import soxr

from trtasr.audio.doubts import Level, length_doubts
from trtasr.audio.source import Stream, opened, reason
from trtasr.errors import AudioError, path_text
from trtasr.values import FloatArray

logger = logging.getLogger(__name__)
BLOCK = 2**18  # samples of all channels that are read at once


Refuse = Callable[[Path, float], None]  # raises AudioError where so many seconds of a file are too long


@dataclass(frozen=True)
class Reading:
    """How audio is read.

    Attributes:
        channel: the one that is used, from 0; None: the mean of all.
        refuse: called with the length in the header, then with what has been read; None: any length is read.
        warn: of files that can be read but look broken.
    """

    channel: int | None = None
    refuse: Refuse | None = None
    warn: bool = True


MIXED = Reading()


def read_audio(
    path: Path, sample_rate: int, offset: float = 0.0, duration: float | None = None, reading: Reading = MIXED
) -> FloatArray:
    """Read what libsndfile knows (WAV, FLAC, Ogg, MP3, AIFF, AU, CAF and more), resampled as NeMo does (soxr, HQ).

    The file is read in blocks, whatever its header claims; files that look broken are named in a warning.

    Args:
        path: audio file; ``-``: standard input.
        sample_rate: of the result, Hz.
        offset: seconds to skip at the start.
        duration: seconds to read; None: to the end.
        reading: channel (default: the mean of all) and limit.

    Returns:
        float32 [samples], -1..1.

    Raises:
        AudioError: missing, unreadable, empty, too long, no such channel, a sample rate outside 4..384 kHz, or samples
            that are not finite.
    """
    level = Level()
    with opened(path) as stream:
        rate = stream.samplerate
        check_channel(path, stream, reading.channel)
        check_header(path, stream, (offset, duration), reading.refuse)
        stream.skip(round(offset * rate))
        wanted = None if duration is None else round(duration * rate)
        mono = Mono(path, reading, level)
        samples = resampled(mono.read(stream, wanted), rate, sample_rate)
        whole = offset == 0 and duration is None
        doubts = [*length_doubts(stream, mono.frames)] if whole else []
    if samples.size == 0:
        raise AudioError(f"{path_text(path)}: empty audio (0 samples)", "leave out this file, or repair its header")
    for doubt in [*doubts, *level.doubts(mixes=reading.channel is None)] if reading.warn else []:
        logger.warning("%s: %s", path_text(path), doubt)
    return samples


class Mono:
    """The blocks of one channel, or of the mean of all, and how many frames they had.

    Args:
        path: for errors.
        reading: channel and limit.
        level: counts how loud they are.
    """

    def __init__(self, path: Path, reading: Reading, level: Level) -> None:
        self.frames = 0
        self._path, self._reading, self._level = path, reading, level

    def read(self, stream: Stream, wanted: int | None) -> Iterator[FloatArray]:
        """Blocks [frames], at most ``wanted`` frames in all.

        Raises:
            AudioError: damaged, not finite, or longer than the limit.
        """
        while (block := self._block(stream, wanted)).size:
            self.frames += len(block)
            if self._reading.refuse:
                self._reading.refuse(self._path, self.frames / stream.samplerate)
            channel = self._reading.channel
            mono = block.mean(axis=1, dtype=np.float32) if channel is None else np.ascontiguousarray(block[:, channel])
            if not np.isfinite(mono).all():
                raise AudioError(
                    f"{path_text(self._path)}: has samples that are not finite", "repair or leave out this file"
                )
            self._level.add(block, mono)
            yield mono

    def _block(self, stream: Stream, wanted: int | None) -> FloatArray:
        size = max(1, BLOCK // stream.channels)
        size = size if wanted is None else min(size, wanted - self.frames)
        try:
            return cast(FloatArray, stream.read(size, dtype="float32", always_2d=True))
        except soundfile.SoundFileError as error:
            known = stream.known_seconds
            promised = "" if known is None else f"; its header promises {known:.2f} s"
            raise AudioError(
                f"{path_text(self._path)}: not readable audio ({reason(error)}): damaged or cut off{promised}",
                "get it whole, or leave out this file",
            ) from error


def resampled(blocks: Iterable[FloatArray], rate: int, sample_rate: int) -> FloatArray:
    """Blocks of samples at one rate -> all samples at another, float32; the same as if they came at once."""
    if rate == sample_rate:
        return joined(list(blocks))
    stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
    parts = [stream.resample_chunk(block) for block in blocks]
    return joined([*parts, stream.resample_chunk(np.zeros(0, np.float32), last=True)])


def joined(parts: list[FloatArray]) -> FloatArray:
    """One array of all parts; of a single one without a copy."""
    return parts[0] if len(parts) == 1 else np.concatenate([*parts, np.zeros(0, np.float32)])


def check_channel(path: Path, stream: Stream, channel: int | None) -> None:
    """Refuse a channel that is not there.

    Raises:
        AudioError: naming those that are.
    """
    if channel is not None and not 0 <= channel < stream.channels:
        there = "only channel 0" if stream.channels == 1 else f"channels 0 to {stream.channels - 1}"
        raise AudioError(f"{path_text(path)}: no channel {channel}", f"it has {there}")


def check_header(path: Path, stream: Stream, segment: tuple[float, float | None], refuse: Refuse | None) -> None:
    """Refuse what its header already says is too long.

    Raises:
        AudioError: naming its length.
    """
    offset, duration = segment
    known = stream.known_seconds
    seconds = None if known is None else max(0.0, known - offset)
    spans = [span for span in (seconds, duration) if span is not None]
    if refuse and spans:
        refuse(path, min(spans))


def audio_seconds(path: Path) -> float:
    """Duration from the file's header, in seconds; of a stream whose header does not know it, by reading.

    Raises:
        AudioError: the header cannot be read, or its sample rate is absurd.
    """
    with opened(path) as stream:
        frames = stream.known_frames
        if frames is None:
            mono = Mono(path, MIXED, Level())
            frames = sum(map(len, mono.read(stream, None)))
        return float(frames / stream.samplerate)
