"""Where audio comes from: files, folders of files, standard input; opened without trust in what they claim."""

import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import soundfile

from trtasr.errors import AudioError, path_text
from trtasr.files.disk import writing
from trtasr.files.look import is_folder
from trtasr.files.read import unwaiting
from trtasr.files.scratch import temporary_folder

STANDARD_INPUT = ("-", "/dev/stdin", "/dev/fd/0")
MOST_INPUT = 2**30  # bytes of standard input
PIECE = 2**20
READ = ("aif", "aifc", "aiff", "au", "caf", "flac", "mp3", "oga", "ogg", "opus", "rf64", "snd", "w64", "wav", "wave")
REFUSED = ("3gp", "aac", "amr", "m4a", "mka", "mp4", "webm", "wma")  # audio too: refused by name, not passed over
SUFFIXES = tuple(f".{suffix}" for suffix in (*READ, *REFUSED))
LOWEST_RATE, HIGHEST_RATE = 4_000, 384_000
MOST_TAGS = 8  # ID3 tags at the start of an MP3 file
FIRST_FRAME = 64  # bytes of an MP3 file's first frame that hold the mark of its count
ENDLESS = 2**40  # frames: what libsndfile says of a stream whose length its header does not know


class Stream(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """A sound file that is read from one end to the other.

    `soundfile.SoundFile` seeks to where it is after every block, which fails in GSM 6.10, at the end of a FLAC stream
    of unknown length, and rounds in MP3.
    """

    def seekable(self) -> bool:
        """Never, as far as `read` is concerned."""
        return False

    def skip(self, frames: int) -> None:
        """Leave out the next frames: by seeking where the format can, else by reading."""
        if frames and super().seekable():
            self.seek(min(frames, self.frames))
            return
        while frames > 0 and (passed := len(self.read(min(frames, PIECE // self.channels), always_2d=True))):
            frames -= passed

    @property
    def known_frames(self) -> int | None:
        """Frames that the header promises; None where it does not know: of MP3 without a count libsndfile guesses."""
        guessed = self.format == "MP3" and not counted(self.name)
        return None if guessed or self.frames >= ENDLESS else int(self.frames)

    @property
    def known_seconds(self) -> float | None:
        """Seconds that the header promises; None where it does not know."""
        return None if self.known_frames is None else self.known_frames / float(self.samplerate)


def counted(mp3: int) -> bool:
    """Whether an open MP3 file begins with a count of its frames (Xing, Info or VBRI), behind ID3 tags."""
    start = 0
    for _ in range(MOST_TAGS):
        tag = os.pread(mp3, 10, start)
        if tag[:3] != b"ID3" or len(tag) < 10:
            break
        start += 10 + sum((byte & 127) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
    first = os.pread(mp3, FIRST_FRAME, start)
    return any(mark in first for mark in (b"Xing", b"Info", b"VBRI"))


def audio_files(given: Iterable[Path]) -> list[Path]:
    """The files to be read: those named, and all audio files below the folders named, sorted; hidden ones not.

    Raises:
        AudioError: a folder without an audio file.
    """
    return [file for path in given for file in (files_below(path) if is_folder(path) else [path])]


def files_below(folder: Path) -> list[Path]:
    """Audio files in a folder and in the folders in it, by their suffix, sorted; links to folders are not followed.

    Raises:
        AudioError: there is none.
    """
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(where, name) for name in names if not name.startswith(".") and name.lower().endswith(SUFFIXES)]
    if not found:
        raise AudioError(
            f"{path_text(folder)}: no audio file in this folder", f"audio is what ends in {', '.join(READ)}"
        )
    return sorted(found)


@contextmanager
def opened(path: Path) -> Iterator[Stream]:
    """An audio file, open for reading from its start.

    Raises:
        AudioError: missing, no regular file, no audio that libsndfile reads, or a sample rate that no speech has; also
            for what libsndfile meets while the block reads.
    """
    with content(path) as file:
        try:
            with Stream(file.fileno(), closefd=False) as stream:
                check_rate(path, stream.samplerate)
                yield stream
        except (soundfile.SoundFileError, OSError) as error:
            raise AudioError(
                f"{path_text(path)}: not readable audio ({reason(error)})", "convert it to WAV or FLAC"
            ) from error


def reason(error: Exception) -> str:
    """What libsndfile says, without the number that it knows a file by."""
    return str(getattr(error, "error_string", error)).removeprefix("Error : ").rstrip(".")


@contextmanager
def content(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of an audio file.

    Raises:
        AudioError: missing, unreadable, a folder, a device or a FIFO.
    """
    if str(path) in STANDARD_INPUT:
        with spooled_input() as file:
            yield file
        return
    try:
        file = open(path, "rb", opener=unwaiting)  # noqa: SIM115 - closed below
    except FileNotFoundError as error:
        raise AudioError(f"{path_text(path)}: no such file", "give the path of a WAV, FLAC, Ogg or MP3 file") from error
    except IsADirectoryError as error:
        raise AudioError(f"{path_text(path)}: is a folder", "name a file") from error
    except OSError as error:
        raise AudioError(
            f"{path_text(path):.300}: cannot be read ({error.strerror})", "check its name and its permissions"
        ) from error
    except ValueError as error:  # NUL in the name
        raise AudioError(f"{str(path)!r:.80}: no file name", "name a file") from error
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise AudioError(f"{path_text(path)}: is no regular file", "name a file; `-` reads from standard input")
        yield file


@contextmanager
def spooled_input() -> Iterator[IO[bytes]]:
    """Standard input as a file, which libsndfile needs: it seeks.

    Raises:
        AudioError: a terminal, nothing, or more than `MOST_INPUT` bytes. DiskError: no place for it.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise AudioError("standard input: is a terminal", "pipe audio into it, or name a file")
    folder = temporary_folder()
    with tempfile.TemporaryFile(dir=folder) as file:
        while piece := sys.stdin.buffer.read(PIECE):
            if file.tell() + len(piece) > MOST_INPUT:
                raise AudioError(f"standard input: more than {MOST_INPUT // 2**20} MiB", "save it as a file")
            with writing(folder, "set TMPDIR to a folder with space"):
                file.write(piece)
                file.flush()
        if not file.tell():
            raise AudioError("standard input: empty", "pipe audio into it, once")
        file.seek(0)
        yield file


def check_rate(path: Path, rate: int) -> None:
    """Refuse a sample rate that no speech recording has.

    Raises:
        AudioError: outside 4..384 kHz.
    """
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(
            f"{path_text(path)}: wrong sample rate, {rate} Hz", f"use audio of {LOWEST_RATE} to {HIGHEST_RATE} Hz"
        )
