"""Latency of engines: warm-up, alternating runs, percentiles.

Engines that are compared are timed in alternation (A B A B ...), so that a busy or throttling machine slows both and
their ratio stays meaningful.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np
from tqdm import tqdm

from trtasr.results import Latency


@dataclass(frozen=True)
class Plan:
    """One benchmarked input shape and how long it is timed.

    Attributes:
        audio_seconds: seconds of audio in one run, over the whole batch.
        batch: utterances per run.
        threads: CPU threads the engines were given; 0 on a GPU.
        device: CPU or GPU name.
        runs: timed runs per engine; timing ends here or at `max_seconds`, whichever comes first.
        max_seconds: wall-clock budget per engine, warm-up not counted; one run per engine is always timed.
        warmup: untimed runs per engine.
    """

    audio_seconds: float
    batch: int
    threads: int
    device: str
    runs: int = 50
    max_seconds: float = 10.0
    warmup: int = 3


Run = Callable[[], float | None]


def measure_latencies(runs: Mapping[str, Run], plan: Plan) -> dict[str, Latency]:
    """Time several engines on the same input, one run of each per round.

    Args:
        runs: engine label -> a call that does one whole run and returns when the result is there: the milliseconds
            that the device itself measured, or None to be timed from outside.
        plan: the input shape and the budget; all engines get the same number of timed runs.

    Returns:
        Engine label -> latency, in the order of `runs`.
    """
    for run in runs.values():
        for _ in range(plan.warmup):
            run()
    durations: dict[str, list[int]] = {name: [] for name in runs}
    deadline = perf_counter_ns() + int(plan.max_seconds * len(runs) * 1e9)
    with tqdm(total=plan.runs, desc=f"latency {plan.audio_seconds:g} s", unit="run", leave=False, disable=None) as bar:
        for _ in range(plan.runs):
            for name, run in runs.items():
                durations[name].append(timed(run))
            bar.update()
            if perf_counter_ns() >= deadline:
                break
    return {name: summarize(values, plan) for name, values in durations.items()}


def summarize(nanoseconds: Sequence[int], plan: Plan) -> Latency:
    """Percentiles of single-run durations in nanoseconds (numpy's linear interpolation)."""
    p50, p95, p99 = np.percentile(np.asarray(nanoseconds, dtype=np.float64) / 1e6, [50, 95, 99])
    return Latency(
        p50_ms=float(p50),
        p95_ms=float(p95),
        p99_ms=float(p99),
        runs=len(nanoseconds),
        audio_seconds=plan.audio_seconds,
        batch=plan.batch,
        threads=plan.threads,
        device=plan.device,
    )


def timed(run: Run) -> int:
    """Nanoseconds of one run: by its own clock, which answers in milliseconds, or by this process's."""
    start = perf_counter_ns()
    milliseconds = run()
    return perf_counter_ns() - start if milliseconds is None else round(milliseconds * 1e6)
