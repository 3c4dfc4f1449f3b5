"""Lists of utterances: NeMo manifests (JSON lines) and LibriSpeech-style folders."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtasr.audio.read import audio_seconds
from trtasr.errors import AudioError


@dataclass(frozen=True)
class ManifestEntry:
    """One utterance of a manifest.

    Attributes:
        audio_filepath: absolute path.
        duration: seconds.
        text: reference transcript; empty where none is needed.
        offset: start of the segment in the file, seconds; None: the utterance is the whole file.
    """

    audio_filepath: Path
    duration: float
    text: str
    offset: float | None = None

    @property
    def segment(self) -> tuple[float, float | None]:
        """(offset, duration) for `read_audio`: the named segment, or the whole file when there is no offset."""
        return (0.0, None) if self.offset is None else (self.offset, self.duration)


def read_manifest(path: Path, require_text: bool = True) -> tuple[ManifestEntry, ...]:
    """Read a NeMo manifest, or a folder with LibriSpeech's ``*.trans.txt`` files.

    Args:
        path: JSON-lines file (``audio_filepath``, ``text``, optional ``duration`` and ``offset``; relative paths count
            from the manifest), or a folder that is searched recursively.
        require_text: refuse utterances without a transcript.

    Raises:
        AudioError: naming the file and the line.
    """
    if path.is_dir():
        entries = read_librispeech(path, require_text)
    elif path.is_file():
        entries = [json_entry(path, number, line, require_text) for number, line in numbered_lines(path)]
    else:
        raise AudioError(f"{path}: no such manifest", "give a NeMo manifest or a LibriSpeech folder")
    if not entries:
        raise AudioError(f"{path}: no utterances", "give a manifest with at least one utterance")
    return tuple(entries)


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Non-empty lines with their numbers from 1.

    Raises:
        AudioError: not a UTF-8 text file.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise AudioError(f"{path}: not UTF-8 text", "save the manifest as UTF-8") from error
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def json_entry(path: Path, number: int, line: str, require_text: bool) -> ManifestEntry:
    """One line of a NeMo manifest.

    Raises:
        AudioError: naming the line.
    """
    where = f"{path}, line {number}"
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise AudioError(f"{where}: not JSON ({error})", "write one JSON object per line") from error
    if not isinstance(row, dict) or not isinstance(row.get("audio_filepath"), str) or not row["audio_filepath"]:
        raise AudioError(f"{where}: no audio_filepath", 'write {"audio_filepath": ..., "duration": ..., "text": ...}')
    text = checked_text(where, row.get("text"), require_text)
    audio = existing(where, path.parent / row["audio_filepath"])
    offset, duration = seconds(where, row, "offset"), seconds(where, row, "duration")
    if duration is None:
        duration = max(audio_seconds(audio) - (offset or 0.0), 0.0)
    return ManifestEntry(audio, duration, text, offset)


def read_librispeech(folder: Path, require_text: bool) -> list[ManifestEntry]:
    """Utterances of every ``*.trans.txt`` below a folder: ``<id> <TEXT>``, audio in ``<id>.flac`` beside it.

    Raises:
        AudioError: naming the line.
    """
    entries = []
    for transcript in sorted(folder.rglob("*.trans.txt")):
        for number, line in numbered_lines(transcript):
            where = f"{transcript}, line {number}"
            name, _, text = line.partition(" ")
            text = checked_text(where, text, require_text)
            audio = existing(where, transcript.parent / f"{name}.flac")
            entries.append(ManifestEntry(audio, audio_seconds(audio), text))
    return entries


def checked_text(where: str, text: Any, required: bool) -> str:
    """The transcript, stripped; empty where there is none.

    Raises:
        AudioError: it is required and missing, or not a string.
    """
    if text is not None and not isinstance(text, str):
        raise AudioError(f"{where}: text is no string", "write the transcript as a string")
    if required and not (text or "").strip():
        raise AudioError(f"{where}: no text", "add the transcript, or leave out this utterance")
    return (text or "").strip()


def seconds(where: str, row: dict[str, Any], key: str) -> float | None:
    """A non-negative number of seconds, or None.

    Raises:
        AudioError: anything else.
    """
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise AudioError(f"{where}: {key} is {value!r}", "write seconds as a number >= 0, or leave it out")
    return float(value)


def existing(where: str, audio: Path) -> Path:
    """Absolute path of an audio file.

    Raises:
        AudioError: it is not there.
    """
    if not audio.is_file():
        raise AudioError(f"{where}: no such audio file {audio}", "correct the path (relative to the manifest)")
    return audio.resolve()
