"""What in a folder is not of our making is kept: it moves on into the folder that takes its place."""

import filecmp
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from trtasr.errors import UsageError

MOVE_AWAY = "move away what is yours, or choose another folder with -o"


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def unchanged(path: Path, sha256: str) -> bool:
    """True for a regular file, no link, of that content."""
    return stat.S_ISREG(path.lstat().st_mode) and sha256_file(path) == sha256


def entries(folder: Path) -> Iterator[Path]:
    """Everything below a folder but folders that hold something; links are not followed.

    Raises:
        OSError: a folder cannot be read. UsageError: another disk is mounted there, which no rename would move.
    """
    device = folder.lstat().st_dev
    for path in sorted(folder.iterdir()):
        found = path.lstat()
        if found.st_dev != device:
            raise UsageError(f"{path}: is a mount point, and its folder cannot be replaced as a whole", MOVE_AWAY)
        inside = list(entries(path)) if stat.S_ISDIR(found.st_mode) else []
        yield from inside or [path]


def foreign(folder: Path, ours: Mapping[str, str | None]) -> list[Path]:
    """What below a folder we did not write, or somebody changed.

    Args:
        folder: to look through.
        ours: name -> sha256 of what we wrote; None: whatever it holds.

    Raises:
        OSError: it cannot be read. UsageError: a mount point inside.
    """
    return [path for path in entries(folder) if not is_ours(path, path.relative_to(folder).as_posix(), ours)]


def is_ours(path: Path, name: str, ours: Mapping[str, str | None]) -> bool:
    """True for a file that we wrote and that is as we wrote it."""
    if name not in ours:
        return False
    sha256 = ours[name]
    return sha256 is None or unchanged(path, sha256)


def keep(old: Path, new: Path, ours: Mapping[str, str | None]) -> list[str]:
    """Put into ``new`` what is in ``old`` and not of our making; where a file of that name is new, under another name.

    Returns:
        names in ``new`` of what was added; what is there already is left out.

    Raises:
        OSError: it cannot be read or written. UsageError: it is of a kind that cannot be carried over.
    """
    kept = []
    for path in foreign(old, ours):
        target = new / path.relative_to(old)
        while os.path.lexists(target) and not same(path, target):
            target = target.with_name(f"{target.name}.kept")
        if not os.path.lexists(target):
            bring(path, target)
            kept.append(target.relative_to(new).as_posix())
    return kept


def same(first: Path, second: Path) -> bool:
    """True for two names of one file, equal links, equal files, or two folders."""
    one, other = first.lstat(), second.lstat()
    if stat.S_IFMT(one.st_mode) != stat.S_IFMT(other.st_mode):
        return False
    if stat.S_ISLNK(one.st_mode):
        return first.readlink() == second.readlink()
    regular = stat.S_ISREG(one.st_mode)
    return stat.S_ISDIR(one.st_mode) or os.path.samestat(one, other) or (regular and filecmp.cmp(first, second, False))


def bring(path: Path, target: Path) -> None:
    """One more name for a file; a copy where the file system has no such thing. An empty folder is made.

    Raises:
        OSError: it cannot be written. UsageError: neither can be done.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = path.lstat().st_mode
    if stat.S_ISDIR(mode):
        target.mkdir()
        return
    try:
        os.link(path, target, follow_symlinks=False)
    except OSError as error:
        if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            shutil.copy2(path, target, follow_symlinks=False)
        else:
            raise UsageError(
                f"{path}: is neither file nor folder, and cannot be kept ({error.strerror})", MOVE_AWAY
            ) from error
