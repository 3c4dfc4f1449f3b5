"""Figures that follow from a timing, and what may be compared with what."""

from dataclasses import replace

import pytest

from trtasr.results import BenchResult, GpuState, Latency
from trtasr.results.speed import speedup

TIMED = Latency(20.0, 22.0, 25.0, 50, 30.0, 2, 1, "CPU")


def test_real_time_factor_and_shape():
    assert TIMED.rtfx == pytest.approx(1500)
    assert TIMED.shape == "2 x 15 s"
    assert replace(TIMED, batch=1, audio_seconds=16.7).shape == "16.7 s"


def test_a_token_takes_what_the_encoder_leaves():
    assert replace(TIMED, encoder_ms=5.0, tokens=60).token_ms == pytest.approx(0.25)
    assert TIMED.token_ms == 0.0


def test_a_speedup_is_over_the_baseline_under_the_same_condition():
    def row(precision, **changes):
        return BenchResult(precision, "t4", 1, (replace(TIMED, **changes),), precision=precision)

    assert speedup([row("fp16", p50_ms=60.0), row("fp32", p50_ms=80.0)], TIMED, "fp32") == pytest.approx(4)
    assert speedup([row("int8", p50_ms=80.0)], TIMED, "fp32") is None
    for other in ({"device": "GPU"}, {"threads": 2}, {"batch": 1}, {"audio_seconds": 15.0}):
        assert speedup([row("fp32", p50_ms=80.0, **other)], TIMED, "fp32") is None


@pytest.mark.parametrize(("reasons", "throttled"), [(0, False), (0x1, False), (0x4, True), (0x5, True)])
def test_idleness_is_no_throttling(reasons, throttled):
    assert GpuState("T4", "580", "P0", 1590, 1590, 5000, 70, 70, 60, reasons).throttled is throttled


def test_plain_launches_stand_behind_those_by_graphs_and_are_compared_with_their_like():
    def row(precision, graphs, plain):
        beside = replace(TIMED, p50_ms=plain, threads=0, device="T4, plain launches")
        first = replace(beside, p50_ms=graphs, device="T4, CUDA graphs", plain_launches=beside)
        return BenchResult(precision, "t4", 1, (first, replace(TIMED, p50_ms=9.0)), precision=precision)

    int8, fp16 = row("int8", 2.0, 4.0), row("fp16", 3.0, 5.0)
    assert [item.p50_ms for item in int8.timings] == [2.0, 4.0, 9.0]
    assert [speedup([fp16, int8], item, "fp16") for item in int8.timings] == [1.5, 1.25, 1.0]
