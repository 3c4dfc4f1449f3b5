"""Standard streams that may be closed, full, of another encoding, or read by nobody any more."""

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from trtasr.errors import DiskError
from trtasr.text.printable import message

DESCRIPTORS = (0, 1, 2)


class Log(logging.StreamHandler[TextIO]):
    """Log lines on stderr, safe for a terminal; when nobody can read them any more, the work goes on without."""

    def __init__(self, level: int) -> None:
        super().__init__(sys.stderr)
        self.setLevel(level)
        self.setFormatter(Lines("[%(levelname).1s] %(message)s"))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Log no longer where the stream is broken; any other error is a bug and is shown."""
        if isinstance(sys.exc_info()[1], OSError):
            silence(self.stream)
        else:
            super().handleError(record)


class Lines(logging.Formatter):
    """Log messages made printable, and short; a traceback behind one stays whole."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line of a record."""
        return message(super().formatMessage(record))


@contextmanager
def standard_streams() -> Iterator[None]:
    """Streams that can be written to whatever the caller did to them, settled at the end.

    A descriptor that the caller closed (``>&-``) becomes the null device: a file that is opened later would take its
    number and receive what libraries print. Characters that a stream cannot encode are spelled out.
    """
    for descriptor in DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - a descriptor
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            settle(stream)


def put(text: str) -> bool:
    """Print a result on stdout; a reader that has gone away (``| head``) ends it in silence.

    Returns:
        whether it could be written; if not, nobody reads on.

    Raises:
        DiskError: it cannot be written, as on a full disk.
    """
    try:
        print(text, flush=True)
        return True
    except BrokenPipeError:
        silence(sys.stdout)
        return False
    except OSError as error:
        silence(sys.stdout)
        raise DiskError(
            f"the result cannot be written to standard output ({error.strerror})", "send it where there is space"
        ) from error


def tell(text: str) -> None:
    """Print a message on stderr, if anybody can read it."""
    try:
        print(message(text), file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def settle(stream: TextIO) -> None:
    """Write what is left; where that fails, Python would fail again at exit, with a code of its own (120)."""
    try:
        stream.flush()
    except OSError:
        silence(stream)


def silence(stream: Any) -> None:
    """Let the null device take what a broken stream still holds and all that follows."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
