"""The gates: what INT8 must hold against FP32 and FP16, in words where it does not."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from trtasr.recipe import Evaluation
from trtasr.results import BenchResult, Comparison, Judged, Latency, PairedDifference, speedup

LEAST_SQNR, LEAST_AGREEMENT = 10.0, 0.9  # of the comparison: dB of each judged output, share of positions


class Speedup(NamedTuple):
    """INT8 against a baseline at one shape: label and latency of the engine, and how many times faster it is."""

    engine: str
    latency: Latency
    ratio: float


def missed_gates(results: Sequence[BenchResult], settings: Evaluation) -> tuple[str, ...]:
    """Missed gates on speech and speed in words; empty when all hold.

    Args:
        results: FP32 first.
        settings: the recipe's section, with the limits.
    """
    return (*worse_than_fp32(results, settings), *slower_than_fp16(results, settings.allow_slower))


def missed_fidelity(fidelity: Sequence[Judged], comparison: Comparison) -> tuple[str, ...]:
    """Missed gates on outputs in words, with or without speech; empty when all hold.

    Args:
        fidelity: of every target.
        comparison: of FP32 with the first target.
    """
    return (*unfaithful(fidelity), *disagreements(comparison))


def unfaithful(fidelity: Sequence[Judged]) -> list[str]:
    """Targets whose quantized graphs are too far from FP32 on probe signals."""
    return [
        f"{found.target}: on probe signals its outputs are {found.loss:.4f} nats from FP32's (mean KL divergence); the "
        f"gate of fidelity {found.level} is {found.limit:g}"
        for found in fidelity
        if not found.held
    ]


def disagreements(comparison: Comparison) -> list[str]:
    """Outputs of the comparison that are further from FP32 than those of any engine that is any good."""
    name = f"{comparison.candidate} against {comparison.reference} on {comparison.features}"
    found = [
        f"{name}: {item.tensor} has an SQNR of {item.sqnr_db:.1f} dB; the gate is {LEAST_SQNR:g} dB"
        for item in comparison.tensors
        if item.sqnr_db < LEAST_SQNR
    ]
    if comparison.token_agreement < LEAST_AGREEMENT:
        agreed = f"{100 * comparison.token_agreement:.2f} % of {comparison.frames} {comparison.unit}"
        found.append(f"{name}: {agreed} have the same token; the gate is {100 * LEAST_AGREEMENT:g} %")
    return found


def worse_than_fp32(results: Sequence[BenchResult], settings: Evaluation) -> list[str]:
    """INT8 engines whose WER (or CER, where that is judged) is too far above that of FP32.

    Args:
        results: FP32 first.
        settings: `Evaluation` says what the gates and their limits are.
    """
    judged = [result for result in results if result.precision == "int8" and result.wer and result.differences]
    missed = []
    for result in judged:
        together, *parts = result.differences
        if exceeds(together, settings):
            missed.append(f"{lost(result, together)}; the gate is {asked(settings)}")
        for part in parts:
            if part.interval[0] > 0 and above(part.delta, settings.max_wer_increase):
                limit = f"{settings.max_wer_increase:+.2f} where a single set shows a loss"
                missed.append(f"{lost(result, part)}; the gate is {limit}")
    return missed


def exceeds(found: PairedDifference, settings: Evaluation) -> bool:
    """Whether the difference over all sets misses the gate."""
    if settings.gate == "interval":
        return above(found.interval[1], settings.max_wer_upper)
    return above(found.delta, settings.max_wer_increase)


def above(points: float, limit: float) -> bool:
    """More than the limit, by more than rounding."""
    return points > limit + 1e-9


def asked(settings: Evaluation) -> str:
    """The gate over all sets in words."""
    if settings.gate == "interval":
        return f"{settings.max_wer_upper:+.2f} for the interval's upper end"
    return f"{settings.max_wer_increase:+.2f}"


def lost(result: BenchResult, found: PairedDifference) -> str:
    """What an engine loses, in words."""
    measure = result.wer.measure if result.wer else ""
    where = f", {found.dataset}" if found.dataset else ""
    low, high = found.interval
    return (
        f"{result.engine}{where}: {measure} {found.rate:.2f} % is {found.delta:+.2f} points over FP32, 95 % interval "
        f"[{low:+.2f}, {high:+.2f}]"
    )


def slower_than_fp16(results: Sequence[BenchResult], allowed: bool = False) -> list[str]:
    """Why INT8 is not worth it on the GPU; nothing where it beats FP16 over all shapes, and where it need not.

    Over all shapes means the geometric mean of the median latencies' ratios; shapes where INT8 loses are named.
    """
    timed = next((result.engine for result in results if latencies_of(result, on_gpu=True)), "")
    if allowed or not timed:
        return []
    found = speedups(results, "fp16")
    if not found:
        return [f"{timed} was not compared with FP16: there is no FP16 plan; --allow-slower accepts it"]
    mean = mean_ratio(found)
    slow = "; ".join(f"{item.latency.shape}: {item.ratio:.2f} x" for item in found if item.ratio <= 1)
    if mean > 1:
        return []
    return [f"{timed} is {mean:.2f} times as fast as FP16, so no faster ({slow}); --allow-slower accepts it"]


def latencies_of(result: BenchResult, on_gpu: bool) -> list[Latency]:
    """Latencies of an INT8 engine on a GPU, or on a CPU; none of a baseline."""
    return [item for item in result.latencies if result.precision == "int8" and on_gpu == (not item.threads)]


def speedups(results: Sequence[BenchResult], over: str, on_gpu: bool = True) -> list[Speedup]:
    """How many times faster INT8 is than ``fp32`` or ``fp16`` on the same device, at each benchmarked shape."""
    return [
        Speedup(result.engine, latency, ratio)
        for result in results
        for latency in latencies_of(result, on_gpu)
        if (ratio := speedup(results, latency, over)) is not None
    ]


def mean_ratio(found: Sequence[Speedup]) -> float:
    """Geometric mean over the shapes."""
    return math.exp(sum(math.log(item.ratio) for item in found) / len(found))
