"""What a path leads to: a name that no file can have, or a folder closed to us, leads nowhere and raises nothing."""

import stat
from pathlib import Path

SIDECAR = "bundle.json"  # a folder that has it may be a finished bundle


def kind(path: Path) -> int:
    """Kind of a file as `stat.S_IFMT` has it, links followed; 0: there is none that we can see."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError):
        return 0


def is_file(path: Path) -> bool:
    """True for a regular file; `pathlib` raises on names that are too long and in closed folders."""
    return kind(path) == stat.S_IFREG


def is_folder(path: Path) -> bool:
    """True for a folder."""
    return kind(path) == stat.S_IFDIR


def is_there(path: Path) -> bool:
    """True for anything that is there."""
    return kind(path) != 0
