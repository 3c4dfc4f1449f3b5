"""Clocks, power and temperature of the GPU while it is benchmarked."""

import functools
import logging
import math
import operator
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from trtasr.engine.device import gpu_state, pci_bus_id
from trtasr.errors import MissingError
from trtasr.results import GpuState

logger = logging.getLogger(__name__)

SAMPLE_SECONDS = 2.0  # between two looks at the clocks


@contextmanager
def watched() -> Iterator[list[GpuState]]:
    """Clocks, power and temperature of the card while the block runs.

    Afterwards the list holds the state before, the busiest one (lowest clock, all reasons for throttling seen) and the
    last. Where nvidia-smi is missing or fails the list stays empty and a warning says so: that loses no result.
    """
    states: list[GpuState] = []
    done = threading.Event()

    def sample() -> None:
        try:
            bus = pci_bus_id()
            while True:
                states.append(gpu_state(bus))
                if done.wait(SAMPLE_SECONDS):
                    break
            states.append(gpu_state(bus))
        except MissingError as error:
            logger.warning("clocks and power are unknown: %s", error.problem)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield states
    finally:
        done.set()
        thread.join()
        states[:] = summarized(states)


def summarized(states: Sequence[GpuState]) -> list[GpuState]:
    """First, busiest and last state; a throttled card is warned about."""
    if not states:
        return []
    between = states[1:-1] or states[-1:]
    slowest = min(between, key=lambda state: (math.isnan(state.sm_mhz), state.sm_mhz))
    reasons = functools.reduce(operator.or_, (state.throttle for state in between))
    busiest = replace(slowest, throttle=reasons)
    if busiest.throttled:
        logger.warning(
            "the GPU is throttled (reasons 0x%x, %g of %g MHz): its latencies are not the card's best",
            busiest.throttle,
            busiest.sm_mhz,
            busiest.max_sm_mhz,
        )
    return [states[0], busiest, states[-1]]
