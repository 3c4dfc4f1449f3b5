from dataclasses import replace

import pytest
from report_sample import gpu_sample, sample

from trtasr.report.speed_view import bar_groups, latency_rows, tradeoff
from trtasr.results import BenchResult, Latency, speedup


def cpu_row(target, p50, device="CPU", seconds=15.0):
    latency = Latency(p50, 1.2 * p50, 1.3 * p50, 50, seconds, 1, 1, device)
    return BenchResult(target, target, 1, (latency,), precision="fp32" if target == "fp32" else "int8")


def test_every_percentile_of_every_shape_is_listed():
    rows = latency_rows(gpu_sample(1).results)
    gpu = [row for row in rows if row.engine == "int8 t4"]
    assert [row.shape for row in gpu] == ["2 s", "7 s", "16.7 s", "8 x 2 s", "8 x 7 s", "8 x 16.7 s"]
    assert {row.device for row in gpu} == {"Tesla T4"}
    assert (gpu[0].p50, gpu[0].p95, gpu[0].p99, gpu[0].runs) == ("1.94", "2.05", "2.32", 500)
    assert {row.device for row in rows if "cpu" in row.engine} == {"Some CPU, 1 thread"}


def test_speedups_are_over_the_plans_of_the_same_gpu():
    rows = {row.engine: row for row in latency_rows(gpu_sample(1).results)}
    assert rows["int8 t4"].over_fp32 == pytest.approx(7.9 / 2.2)
    assert rows["int8 t4"].over_fp16 == pytest.approx(3.1 / 2.2)
    assert rows["fp16 t4"].over_fp16 is None
    assert rows["fp32 t4"].over_fp32 is rows["fp32 t4"].over_fp16 is None
    assert rows["int8 cpu"].over_fp32 == pytest.approx(5)
    assert rows["int8 cpu"].over_fp16 is None


def test_encoder_and_token_times_are_those_of_encoder_decoders():
    plain = cpu_row("fp32", 100.0)
    spoken = replace(plain, latencies=(replace(plain.latencies[0], encoder_ms=40.0, tokens=8),))
    (row,) = latency_rows([spoken])
    assert (row.p50, row.encoder, row.token) == ("100.0", "40.0", "7.50")
    (row,) = latency_rows([plain])
    assert (row.encoder, row.token) == ("", "")


def test_no_speedup_over_another_device_or_shape():
    mine = cpu_row("cpu", 25.0).latencies[0]
    assert speedup([cpu_row("fp32", 100.0)], mine, "fp32") == 4
    assert speedup([cpu_row("fp32", 100.0, device="other")], mine, "fp32") is None
    assert speedup([cpu_row("fp32", 100.0, seconds=2.0)], mine, "fp32") is None


def test_bars_are_proportional_within_their_group():
    groups = bar_groups([cpu_row("cpu", 25.0), cpu_row("fp32", 100.0), BenchResult("int8 t4-rtx", "t4-rtx", 1)])
    [group] = groups
    assert group.title.startswith("15 s of audio, CPU")
    reference, int8 = group.bars
    assert (reference.engine, reference.colour, int8.colour) == ("fp32", "fp32", "int8")
    assert reference.width == pytest.approx(4 * int8.width)
    assert reference.width + reference.tail == pytest.approx(100)
    assert reference.label == "100.0 / 120.0 ms"
    assert bar_groups([BenchResult("int8 t4-rtx", "t4-rtx", 1)]) == []


def test_different_devices_and_shapes_are_not_put_in_one_group():
    rows = [cpu_row("a", 25.0), cpu_row("b", 2.0, device="Other"), cpu_row("c", 2.0, seconds=2.0)]
    assert [len(group.bars) for group in bar_groups(rows)] == [1, 1, 1]


def test_tradeoff_takes_the_longest_input_of_each_batch():
    points = tradeoff(gpu_sample(1).results)
    assert [p.shape for p in points if p.engine == "int8 t4"] == ["16.7 s", "8 x 16.7 s"]
    assert {p.colour for p in points if p.engine == "int8 t4"} == {"int8"}
    assert [p.number for p in points] == list(range(1, 9))


def test_an_engine_that_was_not_timed_is_listed_as_such():
    untimed = next(p for p in tradeoff(sample().results) if p.engine == "int8 t4-rtx")
    assert (untimed.rtfx, untimed.shape, untimed.wer) == (None, "not timed here", 13.25)


def test_plain_launches_are_rows_and_bars_of_their_own():
    row = cpu_row("t4", 2.0, "T4, CUDA graphs")
    first = replace(row.latencies[0], threads=0)
    both = replace(first, plain_launches=replace(first, p50_ms=3.0, device="T4, plain launches"))
    results = [replace(row, latencies=(both,))]
    assert [(item.device, item.p50) for item in latency_rows(results)] == [
        ("T4, CUDA graphs", "2.00"),
        ("T4, plain launches", "3.00"),
    ]
    assert [group.title for group in bar_groups(results)] == [
        "15 s of audio, T4, CUDA graphs",
        "15 s of audio, T4, plain launches",
    ]
