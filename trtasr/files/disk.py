"""A disk that takes no more: full, over its quota or a limit, read-only, failing. Told as the environment's fault."""

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trtasr.errors import DiskError, TrtasrError, UsageError
from trtasr.files.look import is_there

FULL = {errno.ENOSPC, errno.EDQUOT}
DISK = FULL | {errno.EFBIG, errno.EROFS, errno.EIO}
MB = 1e6
OTHER_PLACE = "choose a folder on another disk: -o for the bundle, TMPDIR for temporary files"

living: list[Path] = []  # folders in which this process is writing: its workspaces


@contextmanager
def disk_faults() -> Iterator[None]:
    """Turns the system's refusal to write, wherever it comes up, into a sentence that names the folder.

    Raises:
        DiskError: in place of an OSError that says that a disk is full, too small, read-only or broken.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise disk_error(error) from error


@contextmanager
def writing(path: Path, repair: str, need: int = 0) -> Iterator[None]:
    """Names the file or folder that cannot be written.

    Args:
        path: of it.
        repair: what the user can do when it is the wrong one.
        need: bytes that are written; 0: not known.

    Raises:
        DiskError: the disk takes no more. UsageError: any other reason of the system.
    """
    try:
        yield
    except OSError as error:
        raise write_error(path, error, repair, need) from error


@contextmanager
def needing(folder: Path, need: int) -> Iterator[None]:
    """For libraries that write, and say in words of their own that they could not.

    Args:
        folder: that is written to.
        need: bytes at least.

    Raises:
        DiskError: in place of any error, where the disk or the limit on file sizes has no room for that.
    """
    try:
        yield
    except Exception as error:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        number = errno.EFBIG if 0 <= limit < need else errno.ENOSPC if free_bytes(folder) < need else None
        if number is None or isinstance(error, DiskError):
            raise
        raise disk_error(OSError(number, os.strerror(number)), folder, need) from error


def write_error(path: Path, error: OSError, repair: str, need: int = 0) -> TrtasrError:
    """Why a path cannot be written, as the fault of the disk or of who chose the path."""
    if error.errno in DISK:
        return disk_error(error, path, need)
    return UsageError(f"{path}: cannot be written ({error.strerror or error})", repair)


def disk_error(error: OSError, path: Path | None = None, need: int = 0) -> DiskError:
    """The sentence: where, why, how much is free there and how much is needed; then what helps."""
    if error.errno == errno.EFBIG:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        place = path or named(error) or longest(limit) or Path.cwd()
        problem = f"{place}: {error.strerror}; files may have at most {limit} bytes here"
        return DiskError(problem, "raise that limit: ulimit -f unlimited")
    # A library that writes does not say where it failed: where least is free.
    place = path or named(error) or min([*living, Path.cwd()], key=free_bytes)
    if error.errno in FULL:
        return DiskError(f"{place}: {error.strerror}: {room(place, need)}", f"free space, or {OTHER_PLACE}")
    return DiskError(f"{place}: {error.strerror}", OTHER_PLACE)


def named(error: OSError) -> Path | None:
    """The file that the system named, if it named one."""
    return Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None


def longest(limit: int) -> Path | None:
    """A file of this run that has reached the limit."""
    files = (path for folder in living for path in folder.rglob("*") if path.is_file())
    return next((path for path in files if path.stat().st_size >= limit), None)


def existing(place: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    while not is_there(place) and place != place.parent:
        place = place.parent
    return place


def free_bytes(place: Path) -> int:
    """Free bytes of the file system below a path that may not exist."""
    return shutil.disk_usage(existing(place)).free


def room(place: Path, need: int) -> str:
    """Bytes that are free at a place, and those that a file needs, or that this run has written there until now."""
    free = f"{free_bytes(place) / MB:.3g} MB are free"
    if need:
        return f"a file needs {need / MB:.3g} MB, {free}"
    disk = existing(place).stat().st_dev
    held = sum(size(folder) for folder in living if folder.exists() and folder.stat().st_dev == disk)
    return f"this run needs more than the {held / MB:.3g} MB it has written, {free}"


def size(folder: Path) -> int:
    """Bytes of the files below a folder."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # removed while we look
            total += path.lstat().st_size
    return total
