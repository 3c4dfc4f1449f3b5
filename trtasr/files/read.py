"""Files that may come from anywhere: regular, bounded in size, valid text, checked against the types we expect."""

import errno
import hashlib
import os
import stat
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from trtasr.errors import TrtasrError, said

T = TypeVar("T")
MIB = 2**20
SETTLED = 2_000_000_000  # nanoseconds after which a file that changes gets another time stamp for sure


@dataclass(frozen=True)
class Source:
    """A file to be read, and how its faults are told.

    Attributes:
        path: of the file.
        error: class of every fault that is raised.
        repair: what the user can do when the content is wrong.
        limit: bytes at most.
    """

    path: Path
    error: type[TrtasrError]
    repair: str
    limit: int = 32 * MIB

    def content(self) -> bytes:
        """The whole file; a FIFO or a device is refused instead of waited for.

        Raises:
            TrtasrError: of class `error`: missing, unreadable, no regular file, or larger than `limit`.
        """
        found = self.attempt(lambda: regular_content(self.path, self.limit + 1))
        if len(found) > self.limit:
            raise self.error(f"{self.path}: larger than {self.limit / MIB:g} MiB", self.repair)
        return found

    def sha256(self) -> str:
        """Hexadecimal sha256 of the file, of any size up to `limit`; an unchanged file is read once in a process.

        Raises:
            TrtasrError: of class `error`: as `content`.
        """
        return self.attempt(lambda: regular_sha256(self.path, self.limit))

    def attempt(self, read: Callable[[], T | None]) -> T:
        """What ``read`` makes of the file.

        Raises:
            TrtasrError: of class `error`: it gave None, for no regular file, or could not be read.
        """
        try:
            found = read()
        except OSError as error:
            absent = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
            repair = self.repair if absent else "check its name and its permissions"
            raise self.error(f"{self.path}: cannot be read ({error.strerror})", repair) from error
        except ValueError as error:  # NUL in the name
            raise self.error(f"{str(self.path)!r:.80}: no file name", "name a file") from error
        if found is None:
            raise self.error(f"{self.path}: is no regular file", "name a file")
        return found

    def text(self) -> str:
        """The file as UTF-8, without a byte-order mark.

        Raises:
            TrtasrError: of class `error`: as `content`, or other bytes.
        """
        try:
            return self.content().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self.error(f"{self.path}: not UTF-8 at byte {error.start}", self.repair) from error

    def lines(self, longest: int) -> Iterator[bytes]:
        """The lines of a file of any size, one by one, with their ends.

        Args:
            longest: bytes of a line.

        Raises:
            TrtasrError: of class `error`: as `content`, or a longer line, whose number is named.
        """
        with self.attempt(lambda: regular_stream(self.path)) as stream:
            number = 1
            while line := self.attempt(lambda: stream.readline(longest + 1)):
                if len(line) > longest:
                    raise self.error(f"{self.path}, line {number}: longer than {longest / MIB:g} MiB", self.repair)
                yield line
                number += 1

    def json(self, kind: type[T]) -> T:
        """The file as JSON of one type.

        Args:
            kind: what it must hold: a dataclass, ``dict[str, float]``, ``list[...]``, ``Any``; keys that a dataclass
                does not have are ignored.

        Raises:
            TrtasrError: of class `error`: as `content`, no JSON, nested too deeply, or a value of another type, whose
                place is named.
        """
        return decoded(self.content(), kind, self)

    def toml(self) -> dict[str, Any]:
        """The file as TOML.

        Raises:
            TrtasrError: of class `error`: as `text`, no TOML, numbers without end, or nested too deeply.
        """
        try:
            return tomllib.loads(self.text())
        except (ValueError, RecursionError) as error:  # TOMLDecodeError is one; so is a number of 5,000 digits
            raise self.error(f"{self.path}: not valid TOML ({said(error)})", self.repair) from error


def regular_content(path: Path, limit: int) -> bytes | None:
    """The first ``limit`` bytes of a file; None for a folder, a device or a FIFO, which is not waited for.

    Raises:
        OSError: it cannot be read. ValueError: no file name.
    """
    with open(path, "rb", opener=unwaiting) as stream:
        return stream.read(limit) if stat.S_ISREG(os.fstat(stream.fileno()).st_mode) else None


def regular_stream(path: Path) -> IO[bytes] | None:
    """A file, open for reading; None for a folder, a device or a FIFO.

    Raises:
        OSError: it cannot be read. ValueError: no file name.
    """
    stream = open(path, "rb", opener=unwaiting)  # noqa: SIM115 - the caller's
    if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        return stream
    stream.close()
    return None


def regular_sha256(path: Path, limit: int) -> str | None:
    """Hexadecimal sha256 of a file; None for a folder, a device or a FIFO.

    Raises:
        OSError: it cannot be read, or has more than ``limit`` bytes. ValueError: no file name.
    """
    with open(path, "rb", opener=unwaiting) as stream:
        found = os.fstat(stream.fileno())
        if not stat.S_ISREG(found.st_mode):
            return None
        if found.st_size > limit:
            raise OSError(errno.EFBIG, f"larger than {limit / MIB:g} MiB")
        identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if time.time_ns() - found.st_ctime_ns < SETTLED:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        return known_sha256(path.absolute(), identity)


@lru_cache(maxsize=1024)
def known_sha256(path: Path, identity: tuple[int, ...]) -> str:
    """Hexadecimal sha256 of a file while its place, size and times on disk (``identity``) stay the same."""
    del identity
    with open(path, "rb", opener=unwaiting) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def unwaiting(name: str, flags: int) -> int:
    """An opener that returns at once where nobody writes into a FIFO."""
    return os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def decoded(content: bytes, kind: type[T], source: Source) -> T:
    """JSON of one type from bytes that ``source`` gave: one line of a manifest, for instance.

    Raises:
        TrtasrError: of the source's class, as `Source.json`.
    """
    try:
        return msgspec.json.decode(content.removeprefix(b"\xef\xbb\xbf"), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise source.error(f"{source.path}: not as expected ({said(error)})", source.repair) from error
