"""User errors: each says what is wrong, names the file or key, and ends with the repair.

Exit codes: 0 ok, 1 unexpected (a bug, with traceback), 2 wrong usage, recipe or input, 3 quality gate missed,
4 environment (missing library, GPU, driver or room on a disk), 5 engine build failed.
"""

import os
from collections.abc import Sequence
from pathlib import Path

SHOWN = 160  # characters of a library's message


class TrtasrError(Exception):
    """Base of all errors that are the user's to repair.

    Args:
        problem: what is wrong, naming the file, key or tensor.
        repair: what the user can do about it; printed as the last line of the message.
    """

    exit_code = 1

    def __init__(self, problem: str, repair: str) -> None:
        super().__init__(f"{problem}\n  repair: {repair}")
        self.problem = problem
        self.repair = repair


class UsageError(TrtasrError, ValueError):
    """The command line, an output folder or another argument cannot be used."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe (TOML or ``--set``) has an unknown key or a value of the wrong kind."""


class CheckpointError(UsageError):
    """A checkpoint is missing, broken, untrustworthy or of an unsupported class."""


class AudioError(UsageError):
    """An audio file or a manifest line cannot be used."""


class BundleError(UsageError):
    """A bundle does not match its sidecar (hash, version or device)."""


class QualityError(TrtasrError):
    """The engine was built, but a quality gate is missed: WER, parity, empty transcripts, NaN."""

    exit_code = 3


class MissingError(TrtasrError):
    """This machine lacks something the command needs: a library, a GPU, a driver."""

    exit_code = 4


class DiskError(MissingError):
    """A disk takes no more: full, over a quota or a limit on file sizes, read-only, or broken."""


class BuildError(TrtasrError):
    """The engine builder refused the graph."""

    exit_code = 5


class NoKernelError(BuildError):
    """The engine builder has no kernel for some nodes; without INT8 it may have one.

    Args:
        problem: the builder's words.
        repair: what the user can do.
        nodes: engine names of what failed: a node, several joined by `` + ``, or ``{ForeignNode[first...last]}``.
        behind: nodes of the graph that was built behind these names.
    """

    def __init__(self, problem: str, repair: str, nodes: tuple[str, ...] = (), behind: tuple[str, ...] = ()) -> None:
        super().__init__(problem, repair)
        self.nodes, self.behind = nodes, behind


def said(error: BaseException) -> str:
    """A library's message on one short line."""
    return " ".join(str(error).split())[:SHOWN]


def path_text(path: Path) -> str:
    r"""A file's name in a message; bytes that are not UTF-8 as ``\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def first_few(names: Sequence[str], most: int) -> str:
    """The first names, and how many there are besides."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f", and {rest} more" if rest > 0 else "")
