"""Plans on the GPU that is here: latency by CUDA events, layer times, clocks."""

import functools
import logging
import math
import operator
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from trtasr.bench.latency import Plan, interleave
from trtasr.engine.device import gpu_state, pci_bus_id
from trtasr.engine.profile import Profile
from trtasr.engine.trt_run import TrtRunner, open_plan
from trtasr.errors import MissingError, RecipeError
from trtasr.recipe import Evaluation
from trtasr.results import GpuState, Latency
from trtasr.values import FloatArray, IntArray

logger = logging.getLogger(__name__)

INT8, FP16, FP32 = "t4", "t4-fp16", "t4-fp32"
LABELS = {INT8: "int8 t4", FP16: "fp16 t4", FP32: "fp32 t4"}
PROFILED_RUNS = 20
WARM_SECONDS = 2.0  # before the first shape
SAMPLE_SECONDS = 2.0  # between two looks at the clocks


def gpu_latencies(
    plans: Mapping[str, Path], profile: Profile, settings: Evaluation, gpu: str
) -> dict[str, tuple[Latency, ...]]:
    """Latency of each plan at every benchmarked batch and length; plans take turns, so that clocks hit all alike.

    A run's time is that of its copies and kernels on the GPU, by CUDA events. Shapes outside the profile are left out.
    All plans are launched alike: as CUDA graphs, or none of them where one cannot be captured.

    Args:
        plans: label -> plan file.
        profile: accepted shapes.
        settings: lengths and batches.
        gpu: name of the card.
    """
    measured: dict[str, tuple[Latency, ...]] = dict.fromkeys(plans, ())
    with ExitStack() as stack:
        runners = {label: stack.enter_context(open_plan(path)) for label, path in plans.items()}
        for batch, seconds in benchmarked(settings, profile):
            features, lengths = noise_input(profile, batch, seconds)
            runs = {label: timed_run(runner, features, lengths) for label, runner in runners.items()}
            warm_up(runs.values(), 0 if any(measured.values()) else WARM_SECONDS)
            launches = launched_alike(runners.values())
            plan = Plan(seconds * batch, batch, 0, f"{gpu}, {launches}", warmup=10)
            for label, latency in interleave(runs, plan).items():
                measured[label] += (latency,)
    return measured


def warm_up(runs: Iterable[Callable[[], float]], seconds: float) -> None:
    """Run every plan a few times, and for some seconds: an idle card needs that long to raise its clocks."""
    chosen, deadline = list(runs), time.monotonic() + seconds
    for _ in range(3):
        for run in chosen:
            run()
    while time.monotonic() < deadline:
        for run in chosen:
            run()


def launched_alike(runners: Iterable[TrtRunner]) -> str:
    """``CUDA graphs``, or ``plain launches`` for all runners where one of them could not be captured."""
    chosen = list(runners)
    if all(runner.captured for runner in chosen):
        return "CUDA graphs"
    for runner in chosen:
        runner.forgo_graphs()
    return "plain launches"


def benchmarked(settings: Evaluation, profile: Profile) -> list[tuple[int, float]]:
    """(batch, seconds) pairs of the recipe that the profile accepts.

    Raises:
        RecipeError: it accepts none, so that nothing could be said about speed.
    """
    (short, _, long) = profile.seconds
    return shapes_within(settings, profile, (short, long))


def benchmarked_pair(settings: Evaluation, profile: Profile, padded: float) -> list[tuple[int, float]]:
    """The same for an encoder-decoder.

    Args:
        settings: the recipe's section.
        profile: of the encoder.
        padded: seconds that the front-end pads to, all of which may be speech; 0: it does not pad.

    Raises:
        RecipeError: as `benchmarked`.
    """
    return shapes_within(settings, profile, (0.0, padded)) if padded else benchmarked(settings, profile)


def shapes_within(settings: Evaluation, profile: Profile, seconds: tuple[float, float]) -> list[tuple[int, float]]:
    """(batch, seconds) pairs of the recipe that lie within a profile's batches and within `seconds`.

    Raises:
        RecipeError: there is none.
    """
    pairs = [(batch, length) for batch in settings.gpu_batches for length in settings.gpu_seconds]
    (low, _, high), (short, long) = profile.batches, seconds
    fitting = [(batch, length) for batch, length in pairs if low <= batch <= high and short <= length <= long]
    if not fitting:
        raise RecipeError(
            f"evaluation.gpu_seconds = {list(settings.gpu_seconds)}, gpu_batches = "
            f"{list(settings.gpu_batches)}: no such shape fits the engine ({short:g} to {long:g} s, "
            f"{low} to {high} utterances)",
            "benchmark shorter or fewer utterances, or widen the engine",
        )
    if len(fitting) < len(pairs):
        logger.info(
            "%d of %d benchmarked shapes are outside the profile and left out", len(pairs) - len(fitting), len(pairs)
        )
    return fitting


def noise_input(profile: Profile, batch: int, seconds: float) -> tuple[FloatArray, IntArray]:
    """Features of unit variance, as normalized ones have: [batch, mel, T], and full lengths."""
    frames = max(1, round(seconds * profile.frames_per_second))
    features = np.random.default_rng(0).standard_normal((batch, profile.mel_bins, frames), np.float32)
    return features, np.full(batch, frames, np.int64)


def timed_run(runner: TrtRunner, features: FloatArray, lengths: IntArray) -> Callable[[], float]:
    """A run that returns its milliseconds on the device."""

    def run() -> float:
        runner(features, lengths)
        return runner.device_ms

    return run


def layer_times(plan: Path, profile: Profile) -> dict[str, list[float]]:
    """Milliseconds of each layer of a plan at the profile's usual shape, over `PROFILED_RUNS` runs."""
    features, lengths = noise_input(profile, profile.batches[1], profile.seconds[1])
    with open_plan(plan, graphs=False) as runner:
        return runner.layer_times(features, lengths, PROFILED_RUNS)


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
