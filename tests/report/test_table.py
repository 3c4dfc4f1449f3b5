import math
from dataclasses import replace

import pytest
from report_sample import wer as heard

from trtasr.report.table import (
    controls_table,
    coverage_line,
    decision_summary,
    format_delta,
    generation_lines,
    generation_words,
    last_line,
    layer_table,
    sqnr_table,
    summary_table,
)
from trtasr.results import BenchResult, Control, Engine, Latency, LayerRow, WerResult
from trtasr.values import Decision


def wer(percent: float) -> WerResult:
    return heard(percent, "close the red door")


def latency(p50: float, seconds: float = 15.0, threads: int = 1, device: str = "Some CPU") -> Latency:
    return Latency(p50, p50 * 1.1, p50 * 1.2, 50, seconds, 1, threads, device)


FP32 = BenchResult("fp32 (reference)", "fp32", 75_500_000, (latency(50, 2), latency(400)), wer(13.19), "", "fp32")
RTX = BenchResult("int8 t4-rtx", "t4-rtx", 52_000_000, (), wer(13.25), "Q/DQ graph, ONNX Runtime", absent="no T4 here")
CPU = BenchResult("int8 cpu", "cpu", 19_400_000, (latency(100),), wer(13.28))

SUMMARY = """\
engine               size  measured on    p50 / p95 ms  RTFx  WER %  delta  CER %
fp32 (reference)  75.5 MB  cpu           400.0 / 440.0  37.5  13.19      -   6.59
int8 t4-rtx       52.0 MB  (no T4 here)              -     -  13.25  +0.06   6.62  (Q/DQ graph, ONNX Runtime)
int8 cpu          19.4 MB  cpu           100.0 / 110.0   150  13.28  +0.09   6.64
latency: 15 s of audio, batch 1, 1 thread, 50 runs, Some CPU
WER and CER: 1 utterances, 1039 words, 5000 characters, batch 1, normalizer basic-en-v1"""


def test_summary_table():
    assert summary_table([RTX, FP32, CPU]) == SUMMARY


def test_summary_without_wer_or_timing_shows_dashes():
    table = summary_table([BenchResult("fp32", "fp32", 1_000_000), BenchResult("int8 cpu", "cpu", 300_000)])
    _, fp32, int8 = (line.split() for line in table.splitlines())
    assert fp32 == ["fp32", "1.0", "MB", "(not", "timed)", "-", "-", "-", "-", "-"]
    assert int8 == ["int8", "cpu", "0.3", "MB", "(not", "timed)", "-", "-", "-", "-", "-"]


def test_without_spaces_between_words_the_character_error_rate_comes_first_and_has_the_difference():
    unspaced = [replace(row, wer=replace(row.wer, spaced=False, normalizer="unicode-v1")) for row in (FP32, CPU)]
    heading, fp32, int8, *_, conditions = summary_table(unspaced).splitlines()
    assert heading.endswith("CER %  delta  WER %")
    assert (fp32.split()[-3:], int8.split()[-3:]) == (["6.59", "-", "13.19"], ["6.64", "+0.04", "13.28"])
    assert "normalizer unicode-v1;" in conditions
    assert conditions.endswith(" CER is judged")
    assert controls_table([Control("noise", 1.0, 2.0, 3.0)], unspaced).startswith("calibration (static scales)  CER %")


def test_a_gpu_row_names_the_gpu():
    gpu = BenchResult("int8 t4", "t4", 1, (latency(4.567, threads=0, device="Tesla T4"),))
    table = summary_table([gpu])
    assert "Tesla T4      4.57 / 5.02  3284" in table
    assert "batch 1, 50 runs, Tesla T4" in table
    assert "thread" not in table


@pytest.mark.parametrize(
    ("points", "shown"), [(None, "-"), (0.0, "+0.00"), (-0.001, "+0.00"), (-0.12, "-0.12"), (1.005, "+1.00")]
)
def test_format_delta(points, shown):
    assert format_delta(points) == shown


LAYERS = (
    LayerRow("__myl_Conv_0", "correlation", ("fp16", "fp16"), ("fp16",), ("/encoder/0/Conv",), 100, False),
    LayerRow("__myl_Fc_1", "gemm", ("int8", "int8"), ("int8",), ("/encoder/1/Conv", "/encoder/1/Relu"), 900, True),
    LayerRow("__myl_Add_2", "kgen", ("fp16",), ("fp16",), ()),
)


def test_layer_table_hides_layers_without_weights():
    heading, kept, int8, hidden = layer_table(LAYERS).splitlines()
    assert heading.index("MACs %") + len("MACs %") == kept.index("10.00") + len("10.00")
    assert kept.split() == ["__myl_Conv_0", "correlation", "fp16", "x", "fp16", "fp16", "-", "10.00", "/encoder/0/Conv"]
    assert int8.split()[2:] == ["int8", "x", "int8", "int8", "yes", "90.00", "/encoder/1/Conv", "+1"]
    assert hidden.startswith("(1 layer ")


def test_layer_table_shows_all_in_full():
    table = layer_table(LAYERS, show_all=True).splitlines()
    assert table[2].endswith("/encoder/1/Conv, /encoder/1/Relu")
    assert table[3].split() == ["__myl_Add_2", "kgen", "fp16", "fp16", "-", "-", "-"]
    assert len(table) == 4


def test_long_names_keep_their_end():
    name = "x" * 60 + "/conv.17"
    row = LayerRow(name, "gemm", (), (), (), 1)
    assert "/conv.17" in layer_table([row])
    assert name not in layer_table([row])
    assert name in layer_table([row], show_all=True)


def test_coverage_counts_layers_with_weights():
    assert coverage_line("t4-rtx", LAYERS).startswith("t4-rtx: 1 of 2 layers INT8 (90.0 %")
    assert coverage_line("cpu", ()).startswith("cpu: 0 of 0 layers INT8 (0.0 %")


def test_decision_summary():
    kept = [Decision(f"n{i}", "Conv", False, "depthwise") for i in range(77)]
    decisions = [*kept, Decision("logits", "Conv", False, "last-layer"), Decision("a", "Conv", True, "int8")]
    engine = Engine("t4", "int8 t4", (), decisions=tuple(decisions), reasons={"depthwise": "no kernel"})
    summary = decision_summary(engine)
    assert summary.endswith("FP16: 77 depthwise (no kernel), 1 last-layer")
    assert decision_summary(replace(engine, rest="FP32", reasons={})).startswith("kept FP32: 77 depthwise, ")
    assert decision_summary(replace(engine, decisions=engine.decisions[-1:])) == "all INT8"


def test_scales_at_run_time_are_told_with_their_number_where_some_layers_have_none():
    decisions = (Decision("a", "Conv", True, "int8"), Decision("b", "Conv", True, "int8"))
    engine = Engine("t4", "int8 t4", (), decisions=decisions, activation_scales="dynamic", dynamic=("a", "b"))
    assert decision_summary(engine) == "dynamic scales; all INT8"
    assert decision_summary(replace(engine, dynamic=("b",))) == "dynamic scales in 1 of 2; all INT8"
    assert decision_summary(replace(engine, activation_scales="static", dynamic=())) == "all INT8"


def test_controls_table():
    rows = [
        Control("synthetic", 13.25, 1.5, 24.31),
        Control("noise", 61.9, 58.25, -3.0),
        Control("audio", None, None, math.nan),
    ]
    assert [line.split() for line in controls_table(rows, [FP32]).splitlines()[1:]] == [
        ["synthetic", "13.25", "+0.06", "1.50", "24.3"],
        ["noise", "61.90", "+48.71", "58.25", "-3.0"],
        ["audio", "-", "-", "-", "-"],
    ]


def test_last_line():
    values = {"engine": "engines/q/t4-rtx/model.plan", "wer_fp32": 13.19, "wer_int8": 13.254, "layers": 94}
    expected = "PASSED | 84 s | engine=engines/q/t4-rtx/model.plan | wer_fp32=13.19 | wer_int8=13.25 | layers=94"
    assert last_line("PASSED", 84.2, values) == expected


def test_sqnr_by_layer_names_the_lowest():
    table = sqnr_table({"/a": math.inf, "/b": 17.25, "/c": 30.0}, "cpu")
    _, *rows, lowest = table.splitlines()
    assert [row.split() for row in rows] == [["/a", "exact"], ["/b", "17.2"], ["/c", "30.0"]]
    assert lowest.startswith("lowest: /b, 17.2 dB")
    assert "nothing to compare" in sqnr_table({}, "cpu")


SPOKEN = replace(latency(15.0), encoder_ms=3.0, tokens=60)


def test_what_encoder_and_tokens_take_is_a_line_per_timed_engine():
    fast = replace(latency(120.0, 2.0), encoder_ms=1.0, tokens=8)
    timed = BenchResult("int8 cpu", "cpu", 1, (fast, SPOKEN))
    slow = BenchResult("fp32 (reference)", "fp32", 1, (replace(SPOKEN, p50_ms=633.0, encoder_ms=33.0),))
    first, second = generation_lines([timed, RTX, CPU, slow])
    assert first.startswith("fp32 (reference): encoder 33.0 ms, 10.0 ms ")
    assert second == f"int8 cpu: {generation_words(SPOKEN)}"
    assert generation_words(SPOKEN).startswith("encoder 3.00 ms, 0.20 ms ")
    assert generation_lines([FP32, CPU]) == []  # CTC models generate nothing


def test_a_token_takes_what_the_encoder_leaves():
    assert SPOKEN.token_ms == pytest.approx(12 / 60)
    assert latency(15.0).token_ms == 0.0
