"""A signal that asks the process to end waits for the end of a step, and then ends it as Ctrl-C does."""

import signal
import threading

import pytest

from trtasr.files.signals import ENDING, interrupt_on_signals, uninterrupted


@pytest.fixture(autouse=True)
def handlers():
    """Those of the test run come back afterwards."""
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_comes_after_the_block(number) -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            signal.raise_signal(number)
            done.append("step")

    interrupt_on_signals()
    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["step"]
    assert signal.getsignal(number) is signal.default_int_handler


def test_several_signals_end_the_process_once() -> None:
    def work() -> None:
        with uninterrupted():
            for number in (*ENDING, *ENDING):
                signal.raise_signal(number)

    interrupt_on_signals()
    with pytest.raises(KeyboardInterrupt):
        work()


def test_an_ignored_signal_stays_ignored() -> None:
    """As below ``nohup``."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupt_on_signals()
    with uninterrupted():
        signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_other_threads_leave_the_handlers_alone() -> None:
    """Only the main thread may set them."""
    failures = []

    def work() -> None:
        try:
            with uninterrupted():
                pass
        except ValueError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failures
