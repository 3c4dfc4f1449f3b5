"""Folders that live while a process works in them: held by a lock, cleared by a later run when their holder was killed.

A workspace is ``.trtasr-XXXXXXXX``, private, with a mark inside. Its holder keeps a lock (flock) on the folder itself,
which the system drops with the process, however that ends: a workspace that can be locked belongs to nobody any more.
What a killed process had begun to put into place is finished first, or taken back (`settle`).
"""

import fcntl
import logging
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trtasr.files.disk import disk_faults, living, writing
from trtasr.files.signals import uninterrupted

logger = logging.getLogger(__name__)

PREFIX = ".trtasr-"
NAME = re.compile(re.escape(PREFIX) + r"[a-z0-9_]{8}")  # as tempfile.mkdtemp completes it
MARK = ".workspace"  # holds the number of the boot; removed last
NEW, OLD, READY = "new", "old", "ready"  # a folder in the making, one that stepped aside, files to be put into place
BOOT = Path("/proc/sys/kernel/random/boot_id")  # the same in every container of a machine
UNKNOWN = "unknown"
STALE = 24 * 3600.0  # seconds after which another boot, or another machine on a shared disk, has surely ended


@contextmanager
def workspace(parent: Path, repair: str) -> Iterator[Path]:
    """A new empty folder in ``parent``, which vanishes at the end; workspaces of dead processes vanish with it.

    Args:
        parent: an existing folder.
        repair: what the user can do when it cannot be written.

    Raises:
        UsageError: ``parent`` cannot be written. DiskError: it, or any other disk, takes no more.
    """
    sweep(parent)
    held: list[int] = []
    try:
        with uninterrupted(), writing(parent, repair):
            folder, lock = claimed(parent)
            living.append(folder)
            held.append(lock)
        with disk_faults():
            yield folder
    finally:
        if held:
            with uninterrupted():
                release(folder, lock)


def release(folder: Path, lock: int) -> None:
    """Settle and remove a workspace of this process."""
    try:
        settle(folder)
        clear(folder)
    finally:
        living.remove(folder)
        os.close(lock)


def claimed(parent: Path) -> tuple[Path, int]:
    """A new workspace and the descriptor that holds it; again from the start where a sweep was faster."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if locked(lock) is not False:
                    mark(folder)
                    return folder, lock
            except OSError:
                os.close(lock)
                raise
            os.close(lock)


def mark(folder: Path) -> None:
    """Make a new folder a workspace, or remove it.

    Raises:
        OSError: there is no room for the mark; FileNotFoundError: a sweep was faster.
    """
    try:
        (folder / MARK).write_text(boot(), encoding="ascii")
    except OSError:
        unmade(folder)
        raise


def unmade(folder: Path) -> None:
    """Remove a folder that was made, but not yet marked to the end; one that holds anything else stays."""
    with suppress(OSError):
        if (folder / MARK).lstat().st_size == 0:
            (folder / MARK).unlink()
    with suppress(OSError):
        folder.rmdir()


def locked(descriptor: int) -> bool | None:
    """True when the lock is ours now, False when a living process holds it, None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def boot() -> str:
    """What tells this run of this machine from others, where the system says so."""
    try:
        return BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return UNKNOWN


def sweep(parent: Path) -> None:
    """Settle and remove what dead processes of this user left in a folder."""
    for folder in candidates(parent):
        try:
            sweep_one(folder)
        except OSError as error:  # gone meanwhile, or on a disk that fails: a later run may succeed
            logger.debug("%s: left where it is (%s)", folder, error.strerror)


def candidates(parent: Path) -> list[Path]:
    """Folders in ``parent`` that look like workspaces of this user."""
    try:
        with os.scandir(parent) as entries:
            return [Path(entry.path) for entry in entries if NAME.fullmatch(entry.name) and private(entry)]
    except OSError:
        return []


def private(entry: "os.DirEntry[str]") -> bool:
    """True for a real folder of this user that is closed to others, as every workspace is."""
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_mode & 0o777 == 0o700 and found.st_uid == os.geteuid()


def sweep_one(folder: Path) -> None:
    """Settle and remove one workspace, unless a living process holds it."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if not locked(lock):
            return
        if not is_marked(folder):
            unmade(folder)
        elif abandoned(folder / MARK):
            settle(folder)
            clear(folder)
            logger.info("%s: removed, its process had been killed", folder)
    finally:
        os.close(lock)


def is_marked(folder: Path) -> bool:
    """True for a folder whose mark was written to the end."""
    return (folder / MARK).is_file() and (folder / MARK).stat().st_size > 0


def abandoned(mark: Path) -> bool:
    """True when the holder cannot live: of this boot, whose locks we see, or of another that is long past."""
    return mark.read_text(encoding="ascii") == boot() or time.time() - mark.stat().st_mtime > STALE


def settle(folder: Path) -> None:
    """Finish what was begun: files that were ready go on, a folder that stepped aside comes back."""
    for file in listed(folder / READY):
        if file.is_file() and not file.is_symlink():
            file.replace(folder.parent / file.name)
    for old in listed(folder / OLD):
        if not os.path.lexists(folder.parent / old.name):
            old.rename(folder.parent / old.name)
            logger.warning("%s: brought back, as it could not be replaced to the end", folder.parent / old.name)


def listed(folder: Path) -> list[Path]:
    """What a folder holds; nothing where there is none."""
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def clear(folder: Path) -> None:
    """Remove a workspace, the mark last, so that a stop in between leaves one that a later run knows."""
    for path in listed(folder):
        if path.name == MARK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    (folder / MARK).unlink(missing_ok=True)
    with suppress(OSError):  # something in it could not be removed: nothing is lost by leaving it
        folder.rmdir()


def writable(folder: Path) -> Path:
    """The folder, created if need be, and cleared of what a killed run left.

    Raises:
        UsageError: it cannot be written. DiskError: the disk takes no more.
    """
    with writing(folder, "choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
    with workspace(folder, "choose another folder"):
        return folder
