"""The gates: what INT8 must hold against FP32 and FP16, in words where it does not."""

import math
from collections.abc import Sequence

from trtasr.recipe import Evaluation
from trtasr.results import BenchResult, Latency, speedup


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
    timed = next((result.engine for result in results if gpu_latencies(result)), "")
    if allowed or not timed:
        return []
    ratios = speedups(results, "fp16")
    if not ratios:
        return [f"{timed} was not compared with FP16: there is no FP16 plan; --allow-slower accepts it"]
    mean = mean_ratio(ratios)
    slow = "; ".join(f"{latency.shape}: {ratio:.2f} x" for latency, ratio in ratios if ratio <= 1)
    if mean > 1:
        return []
    return [f"{timed} is {mean:.2f} times as fast as FP16, so no faster ({slow}); --allow-slower accepts it"]


def gpu_latencies(result: BenchResult) -> list[Latency]:
    """Latencies of an INT8 engine on a GPU."""
    return [latency for latency in result.latencies if result.precision == "int8" and not latency.threads]


def speedups(results: Sequence[BenchResult], over: str) -> list[tuple[Latency, float]]:
    """INT8 latency of each shape benchmarked on a GPU, and how many times faster it is than that precision there."""
    found = [(latency, speedup(results, latency, over)) for result in results for latency in gpu_latencies(result)]
    return [(latency, ratio) for latency, ratio in found if ratio is not None]


def mean_ratio(ratios: Sequence[tuple[Latency, float]]) -> float:
    """Geometric mean over the shapes."""
    return math.exp(sum(math.log(ratio) for _, ratio in ratios) / len(ratios))
