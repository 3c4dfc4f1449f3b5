"""Files appear whole or not at all: written aside, flushed to the disk, and renamed over what was there before."""

import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trtasr.errors import UsageError
from trtasr.files.disk import living, writing
from trtasr.files.signals import uninterrupted
from trtasr.files.workspace import NEW, READY, workspace

OTHER_FILE = "choose another file"

landed: list[Path] = []  # what this process has put into place, for whom it is interrupted


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to; when the block ends well, the file there takes the place of ``path`` in one step.

    A link is followed. The permissions of a file that was there are kept.

    Raises:
        UsageError: ``path`` is a folder, a device or a FIFO, or cannot be written. DiskError: the disk takes no more.
    """
    target = replaceable(path)
    with workspace(target.parent, OTHER_FILE) as work:
        partial = work / target.name
        yield partial
        with writing(path, OTHER_FILE):
            if target.exists():
                shutil.copymode(target, partial)
            flush(partial)
            with uninterrupted():
                partial.replace(target)
                note(path)
            flush(target.parent)


def replaceable(path: Path) -> Path:
    """The file that a path leads to: a regular one, or none yet.

    Raises:
        UsageError: something else is there, or its folder does not exist.
    """
    with writing(path, OTHER_FILE):
        try:
            target = path.resolve()
            mode = target.lstat().st_mode
        except FileNotFoundError:
            mode = stat.S_IFREG
        except RuntimeError as error:  # links in a circle
            raise UsageError(f"{path}: cannot be written ({error})", OTHER_FILE) from error
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path}: is no regular file, and is left alone", "name a file")
    return target


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        UsageError, DiskError: as `replacing`.
    """
    with replacing(path) as partial, writing(path, OTHER_FILE, len(content)):
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a file as UTF-8, whole or not at all.

    Raises:
        UsageError, DiskError: as `replacing`.
    """
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    """Write JSON for people: two spaces, UTF-8, a newline at the end; NaN is refused.

    Raises:
        UsageError, DiskError: as `replacing`.
    """
    write_bytes(path, json_bytes(data))


def json_bytes(data: Any) -> bytes:
    """JSON as `write_json` writes it."""
    return (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def copy_file(source: Path, target: Path) -> None:
    """Copy the content of a file, whole or not at all.

    Raises:
        UsageError, DiskError: as `replacing`.
    """
    with replacing(target) as partial, writing(target, OTHER_FILE, source.stat().st_size):
        shutil.copyfile(source, partial)


def write_together(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files that belong together: all or none, also when the process is killed, once a later one has looked.

    The files are complete before the first takes its place; from then on a later run finishes what a killed one began
    (`trtasr.files.workspace.settle`).

    Args:
        folder: where; exists.
        contents: name -> content, in the order in which they take their places.

    Raises:
        UsageError, DiskError: the folder cannot be written.
    """
    other, need = "choose another folder", sum(map(len, contents.values()))
    with workspace(folder, other) as work, writing(folder, other, need):
        (work / NEW).mkdir()
        for name, content in contents.items():
            (work / NEW / name).write_bytes(content)
        flush_tree(work / NEW)
        with uninterrupted():
            (work / NEW).rename(work / READY)
            flush(work)
            for name in contents:
                (work / READY / name).replace(folder / name)
                note(folder / name)
            flush(folder)


def flush(path: Path) -> None:
    """Wait until a file or a folder is on the disk, where its file system can tell."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Wait until a folder and all files below it are on the disk."""
    for place, _, names in os.walk(folder):
        for name in names:
            if stat.S_ISREG((Path(place) / name).lstat().st_mode):
                flush(Path(place) / name)
        flush(Path(place))


def note(path: Path) -> None:
    """Remember what is in place, once, unless it lies in a folder that vanishes."""
    if path not in landed and not any(path.resolve().is_relative_to(folder.resolve()) for folder in living):
        landed.append(path)
