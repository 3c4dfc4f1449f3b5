"""How fast engines are: graphs by ONNX Runtime, plans on the GPU that is here.

Engines take turns, so that noise and clocks hit all alike.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trtasr.audio.frontend import Frontend, frames_of
from trtasr.bench.latency import Plan, measure_latencies
from trtasr.engine.profile import Profile
from trtasr.engine.sessions import cpu_name
from trtasr.engine.trt_run import open_plan
from trtasr.files.cpus import threads as usual_threads
from trtasr.network.limits import benchmarked
from trtasr.network.network import Files, Network, Recognizer, WholeRun
from trtasr.recipe import Evaluation
from trtasr.results import Latency
from trtasr.values import FloatArray

logger = logging.getLogger(__name__)

PROFILED_RUNS = 20
WARM_SECONDS = 2.0  # before the first shape
GRAPHS, PLAIN = "CUDA graphs", "plain launches"


@dataclass(frozen=True)
class Timing:
    """What is timed, and on what.

    Attributes:
        shapes: utterances per run, and seconds of audio each.
        device: name of the processor or the card.
        threads: of the CPU; 0 on a GPU.
        warmup: untimed runs per engine.
    """

    shapes: Sequence[tuple[int, float]]
    device: str
    threads: int = 0
    warmup: int = 3


def cpu_timing(settings: Evaluation) -> Timing:
    """The recipe's benchmark on this machine's processor: utterances alone."""
    threads = settings.threads or usual_threads()
    return Timing([(1, seconds) for seconds in settings.bench_seconds], cpu_name(), threads)


def gpu_timing(settings: Evaluation, profile: Profile, config: Frontend, gpu: str) -> Timing:
    """The recipe's benchmark on this machine's GPU; a run's time is that of its copies and kernels where it tells."""
    return Timing(benchmarked(settings, profile, config), gpu, warmup=10)


def latencies(network: Network, engines: Mapping[str, Files], timing: Timing) -> dict[str, tuple[Latency, ...]]:
    """Latency of each engine at every benchmarked shape, whole utterances from features to the last token.

    On a GPU all plans are launched alike: as CUDA graphs, and beside that plainly at the same shapes; plainly alone
    where one of them cannot be captured. A front-end that pads gives every length the same features; where tokens are
    generated, only their number differs then.

    Args:
        network: of all engines.
        engines: label -> files.
        timing: shapes and device.
    """
    measured: dict[str, tuple[Latency, ...]] = dict.fromkeys(engines, ())
    with ExitStack() as stack:
        opened = {
            label: stack.enter_context(network.open(files, timing.threads, True)) for label, files in engines.items()
        }
        for batch, seconds in timing.shapes:
            features = noise(network.frontend, batch, seconds)
            runs = {label: found.whole_run(features, seconds) for label, found in opened.items()}
            plan = Plan(seconds * batch, batch, timing.threads, timing.device, warmup=timing.warmup)
            if timing.threads:
                found = whole_latencies(runs, plan)
            else:
                warm_up(runs.values(), 0 if any(measured.values()) else WARM_SECONDS)
                found = gpu_latencies(opened, runs, plan)
            for label, latency in found.items():
                measured[label] += (latency,)
    return measured


def whole_latencies(runs: Mapping[str, WholeRun], plan: Plan) -> dict[str, Latency]:
    """Latency of each engine at one shape, with the encoder's share and the number of tokens."""
    return {
        label: replace(latency, encoder_ms=runs[label].encoder_ms(latency.runs), tokens=runs[label].tokens)
        for label, latency in measure_latencies(runs, plan).items()
    }


def gpu_latencies(engines: Mapping[str, Recognizer], runs: Mapping[str, WholeRun], plan: Plan) -> dict[str, Latency]:
    """The same of plans that are warm: by CUDA graphs and beside them plainly, or plainly alone."""
    launched = launched_alike(engines.values())
    found = whole_latencies(runs, replace(plan, device=f"{plan.device}, {launched}"))
    if launched == PLAIN:
        return found
    for engine in engines.values():
        engine.use_graphs(False)
    plainly = whole_latencies(runs, replace(plan, device=f"{plan.device}, {PLAIN}"))
    for engine in engines.values():
        engine.use_graphs(True)
    return {label: replace(latency, plain_launches=plainly[label]) for label, latency in found.items()}


def noise(config: Frontend, batch: int, seconds: float) -> FloatArray:
    """Features of unit variance, as normalized ones have: [batch, rows, T]."""
    return np.random.default_rng(0).standard_normal((batch, config.rows, frames_of(seconds, config)), np.float32)


def warm_up(runs: Iterable[Callable[[], float | None]], seconds: float) -> None:
    """Run every plan a few times, and for some seconds: an idle card needs that long to raise its clocks."""
    chosen, deadline = list(runs), time.monotonic() + seconds
    for _ in range(3):
        for run in chosen:
            run()
    while time.monotonic() < deadline:
        for run in chosen:
            run()


def launched_alike(engines: Iterable[Recognizer]) -> str:
    """By `GRAPHS`, or by `PLAIN` launches for all engines where one of them could not be captured."""
    chosen = list(engines)
    if all(engine.captured for engine in chosen):
        return GRAPHS
    for engine in chosen:
        engine.use_graphs(False)
    return PLAIN


def layer_times(plan: Path, config: Frontend, profile: Profile) -> dict[str, list[float]]:
    """Milliseconds of each layer of a plan at the profile's usual shape, over `PROFILED_RUNS` runs."""
    features = noise(config, profile.batches[1], profile.seconds[1])
    with open_plan(plan, graphs=False) as runner:
        return runner.layer_times(features, np.full(len(features), features.shape[2], np.int64), PROFILED_RUNS)
