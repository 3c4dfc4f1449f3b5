import dataclasses
import re
from xml.etree import ElementTree

import numpy as np

from trtasr.report.html import ReportData, render
from trtasr.report.table import ControlRow
from trtasr.values import (
    BenchResult,
    Comparison,
    Decision,
    Engine,
    Latency,
    LayerRow,
    ScaleTable,
    TensorComparison,
    TensorScale,
    Utterance,
    WeightScale,
    WerResult,
)

HOSTILE = "<script>alert('x')</script>"


def wer(percent: float, transcript: str) -> WerResult:
    return WerResult(percent, 1039, 137, (Utterance("a.wav", 4.2, "close the red door", transcript),), "basic-en-v1")


def sample() -> ReportData:
    timing = Latency(400.0, 440.0, 460.0, 50, 15.0, 1, 1, "Some CPU")
    fast = dataclasses.replace(timing, p50_ms=80.0, p95_ms=90.0)
    activations = {f"/enc/{i}": TensorScale(1.0 + i, "mse", sqnr_db=30.0 + i) for i in range(20)}
    layers = (
        LayerRow("fc_0", "gemm", ("int8", "int8"), ("fp16",), ("/enc/0/Conv",), 900, True),
        LayerRow("conv_1", "correlation", ("fp16", "fp16"), ("fp16",), ("/enc/1/Conv",), 100, False),
    )
    return ReportData(
        name="quartznet",
        family="jasper",
        targets=("t4-rtx", "cpu"),
        device="Some CPU",
        seed=7,
        versions={"onnxruntime": "1.31.1"},
        results=(
            BenchResult("fp32 (reference)", "fp32", 75_500_000, (timing,), wer(13.19, "close the red door")),
            BenchResult("int8 t4-rtx", "t4-rtx", 52_000_000, (), wer(13.25, "close the door right now"), "Q/DQ graph"),
            BenchResult("int8 cpu", "cpu", 19_400_000, (fast,), wer(13.28, "close a red door")),
        ),
        scales=ScaleTable(
            activations,
            {"enc.0.weight": WeightScale(np.ones(256, np.float32), 0, 41.5, (3, 9))},
            alphas={"enc.0": 0.25, "enc.1": 0.75},
        ),
        engines=(Engine("t4-rtx", "t4-rtx/model.plan", 52_000_000, layers),),
        decisions={
            "t4-rtx": (
                Decision("/enc/0/Conv", "Conv", True, "int8"),
                Decision("/enc/1/Conv", "Conv", False, "depthwise"),
            )
        },
        reasons={"depthwise": "no INT8 kernel on sm_75"},
        intervals={"int8 cpu": (-0.21, 0.38)},
        comparisons=(
            Comparison(
                "fp32", "qdq", (TensorComparison("logprobs", 24.31, 0.99812, 1.5),), 0.9912, 2237, "audio",
                "polygraphy run model.qdq.onnx --onnxrt", "comparison.json",
            ),
        ),
        controls=(ControlRow("synthetic", 13.25, 0.06, 24.3), ControlRow("noise", 61.9, 48.71, 3.4)),
        audio_scales=ScaleTable({f"/enc/{i}": TensorScale(1.5 + i, "mse") for i in range(20)}, {}),
        settings={"quant": {"method": "mse"}},
        commands=("trtasr compile quartznet.nemo -o out",),
    )  # fmt: skip


def pictures(page: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)


def text(page: str) -> str:
    """Visible text with blanks collapsed."""
    body = re.sub(r"<(style|script).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_page_shows_every_figure():
    shown = text(render(sample()))
    for figure in (
        "quartznet", "Some CPU", "75.5 MB", "52.0 MB", "19.4 MB", "25.7 % of FP32", "13.19", "13.25", "+0.06",
        "+0.09 [-0.21, +0.38]", "(no T4 here)", "400.0", "80.0", "5.00 x", "basic-en-v1", "61.90", "+48.71",
        "24.3", "0.99812", "99.12 %", "polygraphy run model.qdq.onnx --onnxrt", "trtasr compile quartznet.nemo -o out",
        "t4-rtx: 1 of 2 layers INT8 (90.0 % of MACs)", "kept FP16: 1 depthwise (no INT8 kernel on sm_75)",
        "depthwise: no INT8 kernel on sm_75", "enc.0.weight", "41.5", "corrected layers: 2, strength 0.25 to 0.75",
        "1 of 1 transcripts differ from FP32",
    ):  # fmt: skip
        assert figure in shown, figure


def test_transcript_differences_are_marked():
    data = sample()
    for transcript, marked in (
        ("close the door", '<del title="missing">red</del>'),
        ("close a red door", '<ins title="substitute">a</ins>'),
        ("close the red door now", '<ins title="insert">now</ins>'),
    ):
        changed = dataclasses.replace(data.results[2], wer=wer(13.3, transcript))
        page = render(dataclasses.replace(data, results=(data.results[0], changed)))
        assert marked in page
        assert "1 error (+1 to FP32)" in text(page)


def test_an_engine_not_timed_shows_no_speed():
    row = re.search(r"<tr><td>int8 t4-rtx</td>.*?</tr>", render(sample()))
    assert row
    assert re.findall(r"<td[^>]*>(.*?)</td>", row.group())[3:7] == ["-", "-", "-", "-"]
    assert "Latency int8 t4-rtx" not in render(sample())


def test_no_speedup_between_different_devices():
    data = sample()
    timing = dataclasses.replace(data.results[2].latencies[0], device="Another CPU")
    elsewhere = dataclasses.replace(data.results[2], latencies=(timing,))
    page = render(dataclasses.replace(data, results=(data.results[0], elsewhere)))
    assert "Latency int8 cpu" in page
    assert "Speedup" not in page


def test_slower_int8_is_marked_bad():
    data = sample()
    slow = dataclasses.replace(data.results[2].latencies[0], p50_ms=800.0)
    page = render(
        dataclasses.replace(data, results=(data.results[0], dataclasses.replace(data.results[2], latencies=(slow,))))
    )
    assert re.search(r'<div class="card bad"><div class="title">Speedup int8 cpu</div><div class="value">0.50 x', page)


def test_pictures_are_valid_and_finite():
    drawings = pictures(render(sample()))
    assert len(drawings) == 3
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert not re.search(r"\b(nan|inf)\b", drawing, flags=re.IGNORECASE)


def test_page_is_self_contained():
    page = render(sample())
    assert not re.search(r"https?://|//cdn|<link|@import|src=|url\(", page)
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_hostile_strings_are_escaped():
    data = sample()
    bad = HOSTILE
    page = render(
        dataclasses.replace(
            data,
            name=bad,
            family=bad,
            device=bad,
            versions={bad: bad},
            results=(dataclasses.replace(data.results[0], engine=bad, note=bad, wer=wer(1.0, bad)), data.results[2]),
            scales=ScaleTable({bad: TensorScale(1.0, bad, sqnr_db=20.0)}, {}),
            audio_scales=ScaleTable({bad: TensorScale(2.0, bad)}, {}),
            engines=(Engine("cpu", bad, 1, (LayerRow(bad, bad, (bad,), (bad,), (bad,), 5),)),),
            decisions={"cpu": (Decision(bad, bad, False, bad),)},
            controls=(ControlRow(bad, 1.0, 1.0, 1.0),),
            settings={bad: bad},
            commands=(bad,),
        )
    )
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert" in page


def test_minimal_report_has_no_empty_sections():
    data = ReportData("n", "f", ("cpu",), "d", 0, {}, (BenchResult("fp32", "fp32", 1_000_000),), ScaleTable({}, {}))
    page = render(data)
    assert pictures(page) == []
    for heading in ("Speed", "Layers", "Reproduce", "Calibration without audio", "Quantization error"):
        assert f"<h2>{heading}" not in page
    assert "<h2>Summary" in page


def test_rendering_is_deterministic():
    assert render(sample()) == render(sample())
