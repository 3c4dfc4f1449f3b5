"""The gates: what INT8 must hold against FP32 and FP16, in words where it does not."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from trtasr.recipe import Evaluation
from trtasr.results import BenchResult, Latency, speedup


class Speedup(NamedTuple):
    """INT8 against a baseline at one shape: label and latency of the engine, and how many times faster it is."""

    engine: str
    latency: Latency
    ratio: float


def missed_gates(results: Sequence[BenchResult], settings: Evaluation) -> tuple[str, ...]:
    """Missed gates in words; empty when all hold.

    Args:
        results: FP32 first.
        settings: the recipe's section, with the limits.
    """
    return (*worse_than_fp32(results, settings.max_wer_increase), *slower_than_fp16(results, settings.allow_slower))


def worse_than_fp32(results: Sequence[BenchResult], limit: float) -> list[str]:
    """INT8 engines whose WER (or CER, where that is judged) is too far above that of FP32.

    Args:
        results: FP32 first.
        limit: largest increase in points.
    """
    reference, missed = results[0].wer, []
    for result in results[1:]:
        if result.precision == "int8" and reference and result.wer:
            rate, measure = result.wer.rate, result.wer.measure
            if rate - reference.rate > limit + 1e-9:
                missed.append(
                    f"{result.engine}: {measure} {rate:.2f} % is {rate - reference.rate:+.2f} "
                    f"points over FP32; the gate is +{limit:.2f}"
                )
    return missed


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
