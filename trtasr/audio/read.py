"""Audio files -> mono float32 samples at the model's rate."""

from pathlib import Path
from typing import cast

import numpy as np
import soundfile
import soxr

from trtasr.errors import AudioError
from trtasr.values import FloatArray

LOWEST_RATE, HIGHEST_RATE = 4_000, 384_000


def read_audio(path: Path, sample_rate: int, offset: float = 0.0, duration: float | None = None) -> FloatArray:
    """Read WAV, FLAC or Ogg: channels averaged, then resampled (soxr, high quality) as NeMo does.

    Args:
        path: audio file.
        sample_rate: of the result, Hz.
        offset: seconds to skip at the start.
        duration: seconds to read; None: to the end.

    Returns:
        float32 [samples], -1..1.

    Raises:
        AudioError: missing, unreadable, empty, a sample rate outside 4..384 kHz, or samples that are not finite.
    """
    if not path.is_file():
        raise AudioError(f"{path}: no such file", "give the path of a WAV, FLAC or Ogg file")
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            check_rate(path, rate)
            file.seek(min(round(offset * rate), file.frames))
            samples = file.read(-1 if duration is None else round(duration * rate), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{path}: not readable audio ({error})", "convert it to WAV or FLAC") from error
    mono = samples.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise AudioError(f"{path}: has samples that are not finite", "repair or leave out this file")
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate, quality="HQ")
    if mono.size == 0:
        raise AudioError(f"{path}: empty audio (0 samples)", "leave out this file")
    return cast(FloatArray, mono)


def audio_seconds(path: Path) -> float:
    """Duration from the file's header, in seconds.

    Raises:
        AudioError: the header cannot be read, or its sample rate is absurd.
    """
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{path}: not readable audio ({error})", "convert it to WAV or FLAC") from error
    check_rate(path, info.samplerate)
    return float(info.frames / info.samplerate)


def check_rate(path: Path, rate: int) -> None:
    """Refuse a sample rate that no speech recording has.

    Raises:
        AudioError: outside 4..384 kHz.
    """
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(f"{path}: wrong sample rate, {rate} Hz", f"use audio of {LOWEST_RATE} to {HIGHEST_RATE} Hz")
