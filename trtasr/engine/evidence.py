"""What a build leaves for a diagnosis from afar: all that the builder said, and the inspector's own words.

A build that keeps evidence has a folder for it, ``<folder>/<number>``: a graph may be built again without the layers
that have no INT8 kernel, and what the first build said is the reason.
"""

import gzip
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOG, INSPECTED = "verbose.log", "inspector.json"


@contextmanager
def kept(folder: Path | None) -> Iterator[dict[str, str]]:
    """What a builder's request says of evidence; afterwards the log that the child wrote is compressed.

    Args:
        folder: of the evidence; None: none is kept.
    """
    if folder is None:
        yield {}
        return
    count = len([path for path in folder.iterdir() if path.is_dir()]) if folder.is_dir() else 0
    place = folder / str(count + 1)
    place.mkdir(parents=True)
    try:
        yield {"evidence": str(place)}
    finally:
        compress(place / LOG)


def compress(file: Path) -> None:
    """Put ``file.gz`` in the place of a file; where there is none, or no room, all stays as it is."""
    packed = file.with_name(f"{file.name}.gz")
    try:
        with file.open("rb") as source, gzip.open(packed, "wb") as target:
            shutil.copyfileobj(source, target)
    except OSError:
        packed.unlink(missing_ok=True)
    else:
        file.unlink()


def log_writer(folder: str | None) -> Callable[[str, str], None]:
    """Takes the builder's messages, severity and text; each is in the file at once, so that a crash loses none.

    Where a message cannot be written, nothing further is: a build is worth more than its log.

    Args:
        folder: of the evidence; None: messages are dropped.
    """
    if folder is None:
        return lambda _severity, _message: None
    found = []
    with suppress(OSError):
        found.append((Path(folder) / LOG).open("w", encoding="utf-8", errors="replace", buffering=1))

    def write(severity: str, message: str) -> None:
        try:
            for stream in found:
                stream.write(f"[{severity}] {message}\n")
        except (OSError, ValueError):
            found.clear()

    return write


def keep_inspected(folder: str | None, text: str) -> None:
    """Keep the engine inspector's JSON as it is, if evidence is kept, there is room, and it said anything."""
    if folder is not None and text:
        with suppress(OSError):
            (Path(folder) / INSPECTED).write_text(text, encoding="utf-8")
