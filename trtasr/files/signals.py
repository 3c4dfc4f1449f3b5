"""Signals that ask a process to end: it cleans up first, and never in the middle of a step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


def interrupt_on_signals() -> None:
    """SIGTERM and SIGHUP clean up like Ctrl-C; one that is ignored (``nohup``) stays ignored."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Puts such a signal off until the end of the block; in the main thread, which alone handles them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    late: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        late.append(number)

    before = {number: signal.signal(number, remember) for number in ENDING if callable(signal.getsignal(number))}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if late:
        signal.raise_signal(late[0])
