"""Lists of utterances: NeMo manifests (JSON lines) and LibriSpeech-style folders."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from trtasr.audio.read import audio_seconds
from trtasr.errors import AudioError, path_text
from trtasr.files.look import is_file, is_folder
from trtasr.files.read import Source, decoded

LONGEST_LINE = 2**20  # bytes: an hour of speech has 60,000 characters
MOST_LINES = 2_000_000
MOST_SECONDS = 10**7
SAYS_NOTHING = ("manifest", "test_manifest", "dev_manifest", "metadata", "data")  # as names of manifests
LINE = 'write {"audio_filepath": ..., "duration": ..., "text": ...}, one JSON object per line'


@dataclass(frozen=True)
class ManifestEntry:
    """One utterance of a manifest.

    Attributes:
        audio_filepath: absolute path.
        duration: seconds.
        text: reference transcript; empty where none is needed.
        offset: start of the segment in the file, seconds; None: the utterance is the whole file.
        dataset: name of the evaluation set, which is that of the manifest.
    """

    audio_filepath: Path
    duration: float
    text: str
    offset: float | None = None
    dataset: str = ""

    @property
    def segment(self) -> tuple[float, float | None]:
        """(offset, duration) for `read_audio`: the named segment, or the whole file when there is no offset."""
        return (0.0, None) if self.offset is None else (self.offset, self.duration)


class Row(msgspec.Struct):
    """One line of a NeMo manifest; other keys are ignored.

    Attributes:
        audio_filepath: absolute, or relative to the manifest.
        text: reference transcript.
        duration: seconds; offset: of the start, in seconds.
    """

    audio_filepath: str
    text: str | None = None
    duration: float | None = None
    offset: float | None = None


def read_manifests(paths: Sequence[Path], require_text: bool = True) -> tuple[ManifestEntry, ...]:
    """The utterances of several evaluation sets, one set after another, each with the name of its set.

    Args:
        paths: as `read_manifest` takes them.
        require_text: refuse utterances without a transcript.

    Raises:
        AudioError: one that cannot be read, naming the file and the line, or that is given twice.
    """
    real = [os.path.realpath(path) for path in paths]
    for path, place in zip(paths, real, strict=True):
        if real.count(place) > 1:
            raise AudioError(f"{path_text(path):.300}: given twice", "name every manifest once: its words count once")
    named = zip(paths, dataset_names(paths), strict=True)
    return tuple(replace(entry, dataset=name) for path, name in named for entry in read_manifest(path, require_text))


def dataset_names(paths: Sequence[Path]) -> list[str]:
    """Names of evaluation sets: what their manifests are called, or the folders that these are in.

    The first of the following that no other set has: the manifest's name without its suffix, unless that says nothing
    (``manifest``); its folder's; both; the whole path.
    """
    choices = [spellings(path.absolute()) for path in paths]
    names = [first for first, *_ in choices]
    for place in range(1, max(map(len, choices), default=0)):
        taken = Counter(names)
        pairs = zip(names, choices, strict=True)
        names = [name if taken[name] == 1 else known[min(place, len(known) - 1)] for name, known in pairs]
    return [path_text(Path(name)) for name in names]


def spellings(path: Path) -> list[str]:
    """What an evaluation set could be called, the shortest first."""
    stem, folder = path.name if is_folder(path) else path.stem, path.parent.name
    both, whole = f"{folder}/{stem}", str(path)
    return [folder, both, whole] if folder and stem.lower() in SAYS_NOTHING else [stem, folder or whole, both, whole]


def read_manifest(path: Path, require_text: bool = True) -> tuple[ManifestEntry, ...]:
    """Read a NeMo manifest, or a folder with LibriSpeech's ``*.trans.txt`` files.

    Args:
        path: JSON-lines file (``audio_filepath``, ``text``, optional ``duration`` and ``offset``; relative paths count
            from the manifest), or a folder that is searched recursively.
        require_text: refuse utterances without a transcript.

    Raises:
        AudioError: naming the file and the line.
    """
    if is_folder(path):
        entries = read_librispeech(path, require_text)
    elif not os.path.lexists(path):
        raise AudioError(f"{path_text(path):.300}: no such manifest", "give a NeMo manifest or a LibriSpeech folder")
    else:
        entries = [json_entry(path, number, line, require_text) for number, line in numbered_lines(path)]
    if not entries:
        raise AudioError(f"{path_text(path)}: no utterances", "give a manifest with at least one utterance")
    return tuple(entries)


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Non-empty lines of a text file with their numbers from 1.

    Raises:
        AudioError: missing, no regular file, too many lines or too long ones, or not UTF-8; names file and line.
    """
    source = Source(path, AudioError, "give a NeMo manifest or a LibriSpeech folder")
    for number, line in enumerate(source.lines(LONGEST_LINE), start=1):
        if number > MOST_LINES:
            raise AudioError(f"{path_text(path)}: more than {MOST_LINES} lines", "split the manifest")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise AudioError(
                f"{path_text(path)}, line {number}: not UTF-8 text", "save the manifest as UTF-8"
            ) from error
        if text:
            yield number, text


def json_entry(path: Path, number: int, line: str, require_text: bool) -> ManifestEntry:
    """One line of a NeMo manifest.

    Raises:
        AudioError: naming the line.
    """
    where = f"{path_text(path)}, line {number}"
    row = decoded(line.encode(), Row, Source(Path(where), AudioError, LINE))
    if not row.audio_filepath:
        raise AudioError(f"{where}: no audio_filepath", LINE)
    text = checked_text(where, row.text, require_text)
    offset, duration = (checked_seconds(where, row, key) for key in ("offset", "duration"))
    audio = existing(where, path.parent, row.audio_filepath)
    if duration is None:
        duration = max(seconds_of(where, audio) - (offset or 0.0), 0.0)
    return ManifestEntry(audio, duration, text, offset)


def read_librispeech(folder: Path, require_text: bool) -> list[ManifestEntry]:
    """Utterances of every ``*.trans.txt`` below a folder: ``<id> <TEXT>``, audio in ``<id>.flac`` beside it.

    Raises:
        AudioError: naming the line.
    """
    entries = []
    for transcript in sorted(folder.rglob("*.trans.txt")):
        for number, line in numbered_lines(transcript):
            where = f"{path_text(transcript)}, line {number}"
            name, _, text = line.partition(" ")
            text = checked_text(where, text, require_text)
            audio = existing(where, transcript.parent, f"{name}.flac")
            entries.append(ManifestEntry(audio, seconds_of(where, audio), text))
    return entries


def checked_text(where: str, text: str | None, required: bool) -> str:
    """The transcript, stripped; empty where there is none.

    Raises:
        AudioError: it is required and missing.
    """
    found = (text or "").strip()
    if required and not found:
        raise AudioError(f"{where}: no text", "add the transcript, or leave out this utterance")
    return found


def checked_seconds(where: str, row: Row, key: str) -> float | None:
    """A non-negative number of seconds, or None.

    Raises:
        AudioError: anything else.
    """
    value: float | None = getattr(row, key)
    if value is not None and not 0 <= value <= MOST_SECONDS:
        raise AudioError(f"{where}: {key} is {value!r}", "write seconds as a number >= 0, or leave it out")
    return value


def existing(where: str, folder: Path, name: str) -> Path:
    """Absolute path of an audio file.

    Raises:
        AudioError: it is not there, or no regular file.
    """
    audio = folder / name
    if not is_file(audio):
        raise AudioError(f"{where}: no such audio file {name!r:.200}", "correct the path (relative to the manifest)")
    return audio.resolve()


def seconds_of(where: str, audio: Path) -> float:
    """Duration from the file's header.

    Raises:
        AudioError: it is no audio; names the line.
    """
    try:
        return audio_seconds(audio)
    except AudioError as error:
        raise AudioError(f"{where}: {error.problem}", error.repair) from error
