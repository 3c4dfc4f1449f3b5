"""A whole folder takes the place of another in one step, and what a user put into the old one moves on.

``renameat2(RENAME_EXCHANGE)`` where the system and the file system have it: there is no moment without a folder. Else
two renames; what a stop between them leaves is brought back by the next run (`trtasr.files.workspace.settle`).
"""

import ctypes
import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from trtasr.errors import UsageError
from trtasr.files.disk import writing
from trtasr.files.keep import keep
from trtasr.files.look import is_there
from trtasr.files.signals import uninterrupted
from trtasr.files.workspace import NEW, OLD, locked, workspace
from trtasr.files.write import flush, flush_tree, note

logger = logging.getLogger(__name__)

OTHER_FOLDER = "choose another folder with -o"
LONGEST_TURN = 20.0  # seconds
HERE, EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)
NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}

Written = Callable[[Path], Mapping[str, str | None] | None]  # folder -> what we wrote there (`keep.foreign`), if we did


@contextmanager
def replaced(path: Path, written: Written) -> Iterator[Path]:
    """A new folder that takes the place of ``path`` when the block ends well, and vanishes otherwise.

    Of two processes at one path the last one wins; both leave a whole folder.

    Args:
        path: of the folder; a link to one is followed.
        written: tells what in a folder is of our making: that is replaced, all else is kept.

    Raises:
        UsageError: ``path`` is no folder, or not one of ours, or cannot be written. DiskError: the disk takes no more.
    """
    check_replaceable(path, written)
    out = path.resolve()
    with folders_above(out), workspace(out.parent, OTHER_FOLDER) as work:
        check_replaceable(path, written)  # what a killed process had set aside may be back
        seen, folder = inode(out), work / NEW
        folder.mkdir()
        yield folder
        if inode(out) != seen:
            logger.warning("%s: another run wrote it while this one was at work; this one takes its place", path)
        with writing(path, OTHER_FOLDER):
            flush_tree(folder)
            with uninterrupted():
                kept = put(folder, out, work, written)
                note(path)
            flush(out.parent)
        if kept:
            logger.warning("%s: kept what was not of the old bundle, or changed: %s", path, ", ".join(sorted(kept)))


@contextmanager
def folders_above(out: Path) -> Iterator[None]:
    """The folders that lead to ``out``; those that are made for it and stay empty are removed again.

    Raises:
        UsageError: they cannot be made. DiskError: the disk takes no more.
    """
    missing = [folder for folder in out.parents if not is_there(folder)]
    try:
        with writing(out, OTHER_FOLDER):
            out.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for folder in missing:
            with suppress(OSError):  # holds something by now
                folder.rmdir()


def check_replaceable(path: Path, written: Written) -> None:
    """Refuse to replace anything but a folder of ours; see `examine`."""
    with turn(Path(os.path.realpath(path)).parent):
        examine(path, written)


def examine(path: Path, written: Written) -> None:
    """The check of `check_replaceable`, for those whose turn it is.

    Raises:
        UsageError: ``path`` is a file, a device or a link to nowhere, the current folder, a mount point, or holds
            something and is not of our making.
    """
    with writing(path, OTHER_FOLDER):
        if not os.path.lexists(path):
            return
        if path.is_symlink() and not path.exists():
            raise UsageError(f"{path}: is a link to nowhere", OTHER_FOLDER)
        if not stat.S_ISDIR(path.stat().st_mode):
            raise UsageError(f"{path}: is a file, or something else that is no folder", OTHER_FOLDER)
        if path.resolve() in (Path.cwd(), *Path.cwd().parents) or path.is_mount():
            raise UsageError(
                f"{path}: is the current folder, one around it, or a mount point, and cannot be replaced as a whole",
                f"choose a folder inside it: -o {path / 'bundle'}",
            )
        if any(path.iterdir()) and written(path) is None:
            raise UsageError(f"{path}: holds files that are not a bundle", "choose an empty folder with -o")


def inode(path: Path) -> int | None:
    """What tells a folder from one that was put into its place; None where there is none."""
    with suppress(OSError):
        return path.lstat().st_ino
    return None


@contextmanager
def turn(parent: Path) -> Iterator[None]:
    """Lets one process at a time replace what lies in a folder, where its file system has locks.

    One that was stopped in that step is waited for, but not for ever.
    """
    try:
        descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # not there yet, or no right to list it: as without locks
        yield
        return
    until = time.monotonic() + LONGEST_TURN
    try:
        while locked(descriptor) is False and time.monotonic() < until:
            time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def put(folder: Path, out: Path, work: Path, written: Written) -> list[str]:
    """Move ``folder`` to ``out`` in place of what is there; returns what was kept of that.

    Raises:
        OSError: the system refuses; the old folder is whole, and where it was. UsageError: `examine`, `keep`.
    """
    with turn(out.parent):
        if not os.path.lexists(out):
            folder.rename(out)
            return []
        examine(out, written)
        ours = written(out) or {}
        kept = keep(out, folder, ours)
        try:
            exchange(folder, out, work)
        except OSError:
            aside = work / OLD / out.name
            if aside.exists() and out.exists():  # without locks another process was faster with its own folder
                keep(aside, out, ours)
            raise
        return kept + keep(folder, out, ours)  # what came in between


def exchange(folder: Path, out: Path, work: Path) -> None:
    """Swap two folders in one step, or, where there is no such step, by renames with the old one set aside.

    Raises:
        OSError: the system refuses; everything is where it was.
    """
    try:
        renameat2(folder, out)
    except OSError as error:
        if error.errno not in NO_EXCHANGE:
            raise
        exchange_by_renames(folder, out, work / OLD)


def renameat2(first: Path, second: Path) -> None:
    """Swap two paths in one step.

    Raises:
        OSError: the system refuses; ENOSYS where it does not know how.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(HERE, os.fsencode(first), HERE, os.fsencode(second), EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(second))


def exchange_by_renames(folder: Path, out: Path, aside: Path) -> None:
    """Swap two folders by three renames; a stop between the first two is repaired by `trtasr.files.workspace.settle`.

    Raises:
        OSError: the system refuses; everything is where it was.
    """
    aside.mkdir(exist_ok=True)
    out.rename(aside / out.name)
    try:
        folder.rename(out)
    except OSError:
        if not os.path.lexists(out):
            (aside / out.name).rename(out)
        raise
    (aside / out.name).rename(folder)
