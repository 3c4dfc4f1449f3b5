"""Temporary files of a run, all in one place that a later run clears should this one be killed."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trtasr.errors import DiskError
from trtasr.files.workspace import workspace

TORCH_CACHES = "TORCHINDUCTOR_CACHE_DIR"  # torch._dynamo, which any optimizer imports, makes this folder
REPAIR = "set TMPDIR to a folder that can be written"


@contextmanager
def scratch() -> Iterator[Path]:
    """A new folder among the system's temporary files (TMPDIR) that vanishes at the end; torch's own lies in it.

    Raises:
        DiskError: there is no such folder, or the disk takes no more. UsageError: it cannot be written.
    """
    with workspace(temporary_folder(), REPAIR) as folder, torch_caches(folder):
        yield folder


def temporary_folder() -> Path:
    """The system's folder for temporary files (TMPDIR).

    Raises:
        DiskError: there is none that can be written.
    """
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise DiskError(f"no folder for temporary files ({error.strerror})", REPAIR) from error


@contextmanager
def torch_caches(folder: Path) -> Iterator[None]:
    """Keeps torch from making ``torchinductor_<user>`` among the temporary files; a value that the user set wins."""
    if TORCH_CACHES in os.environ:
        yield
        return
    os.environ[TORCH_CACHES] = str(folder / "torch")
    try:
        yield
    finally:
        os.environ.pop(TORCH_CACHES, None)
