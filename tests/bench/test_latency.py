import numpy as np
import pytest

from trtasr.bench import latency
from trtasr.bench.latency import Plan, measure_latencies, summarize

PLAN = Plan(audio_seconds=15.0, batch=1, threads=1, device="some CPU", runs=4, warmup=2)


def test_engines_alternate_after_warmup():
    calls = []
    runs = {"fp32": lambda: calls.append("A"), "int8": lambda: calls.append("B")}
    results = measure_latencies(runs, PLAN)
    assert "".join(calls) == "AA" + "BB" + "ABABABAB"
    assert list(results) == ["fp32", "int8"]
    assert [r.runs for r in results.values()] == [4, 4]


def test_percentiles_and_rtfx_of_known_durations():
    result = summarize([n * 1_000_000 for n in range(1, 102)], PLAN)
    assert (result.p50_ms, result.p95_ms, result.p99_ms) == (51.0, 96.0, 100.0)
    assert result.rtfx == pytest.approx(15.0 / 0.051)
    assert (result.audio_seconds, result.batch, result.threads, result.device) == (15.0, 1, 1, "some CPU")


def test_budget_ends_timing_after_a_whole_round():
    plan = Plan(audio_seconds=1.0, batch=1, threads=1, device="d", runs=1000, max_seconds=0.0, warmup=0)
    results = measure_latencies({"a": lambda: None, "b": lambda: None}, plan)
    assert [r.runs for r in results.values()] == [1, 1]


def test_fake_clock_gives_exact_latency(monkeypatch):
    clock = iter(np.cumsum([0, 0, 3_000_000, 0, 0, 5_000_000, 0, 0, 4_000_000, 0]).tolist())
    monkeypatch.setattr(latency, "perf_counter_ns", lambda: next(clock))
    plan = Plan(audio_seconds=2.0, batch=2, threads=0, device="GPU", runs=3, warmup=0)
    result = measure_latencies({"engine": lambda: None}, plan)["engine"]
    assert (result.p50_ms, result.runs, result.batch, result.threads) == (4.0, 3, 2, 0)
    assert result.rtfx == pytest.approx(500.0)


def test_a_failing_engine_is_not_timed():
    def crash() -> None:
        raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError, match="no kernel"):
        measure_latencies({"engine": crash}, PLAN)
