import dataclasses
import re
from xml.etree import ElementTree

from report_sample import gpu_sample, sample, wer

from trtasr.report.html import render
from trtasr.results import BenchResult, Built, Comparison, Control, Engine, LayerRow, Record
from trtasr.values import Decision, ScaleTable, TensorScale

HOSTILE = "<script>alert('x')</script>"


def pictures(page: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)


def text(page: str) -> str:
    """Visible text with blanks collapsed."""
    body = re.sub(r"<(style|script).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_page_shows_every_figure():
    shown = text(render(sample()))
    for figure in (
        "quartznet",
        "Some CPU",
        "75.5 MB",
        "52.0 MB",
        "19.4 MB",
        "25.7 % of FP32",
        "13.19",
        "13.25",
        "+0.06",
        "+0.09 [-0.21, +0.38]",
        "(no T4 here)",
        "400.0",
        "80.0",
        "5.00 x",
        "basic-en-v1",
        "61.90",
        "+48.71",
        "24.3",
        "0.99812",
        "99.12 %",
        "polygraphy run model.qdq.onnx --onnxrt",
        "trtasr compile quartznet.nemo -o out",
        "t4-rtx: 1 of 2 layers INT8 (90.0 % of MACs)",
        "kept FP16: 1 depthwise (no INT8 kernel on sm_75)",
        "no INT8 kernel on sm_75",
        "enc.0.weight",
        "41.5",
        "corrected layers: 2, strength 0.25 to 0.75",
        "1 of 1 transcripts differ from FP32",
        "ab" * 32,
        "cd" * 32,
        "onnxruntime 1.31.1",
        "model QuartzNet15x5",
        "built 2026-11-30 02:15:00 UTC",
        "INT8 90.0 % FP16 10.0 %",
    ):
        assert figure in shown, figure


def test_a_reconstruction_is_called_one():
    data = sample()
    fade = dataclasses.replace(data.table, settings={"quantization": {"correction": "fade"}})
    assert "our reconstruction" in render(dataclasses.replace(data, tables={"synthetic": fade}))
    assert "our reconstruction" not in render(data)


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
    assert re.findall(r"<td[^>]*>(.*?)</td>", row.group())[4:8] == ["-", "-", "-", "-"]
    assert "Latency int8 t4-rtx" not in render(sample())


def test_a_plan_for_another_gpu_is_not_here():
    other = BenchResult("int8 rtx-sm86", "rtx-sm86", 1, (), wer(13.3, "close the red door"), absent="not here")
    shown = text(render(dataclasses.replace(sample(), results=(sample().results[0], other))))
    assert "13.30" in shown
    assert "0.0 MB (not here)" in shown


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
    (bad,) = re.findall(r'<div class="card bad">(.*?) x', page)
    assert "int8 cpu over FP32" in bad
    assert bad.endswith(">0.50")


def test_pictures_are_valid_and_finite():
    drawings = pictures(render(sample()))
    assert len(drawings) == 3
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert not re.search(r"\b(nan|inf)\b", drawing, flags=re.IGNORECASE)


def test_missed_gates_stand_at_the_top_and_nothing_does_when_all_hold():
    missed = ("int8 t4: WER 9.00 % is +1.00 points over FP32", "int8 t4 is 0.67 times as fast as FP16")
    page = render(dataclasses.replace(sample(), problems=missed))
    top = text(page[: page.index('<div class="cards">')])
    assert "FAILED 2 quality gates" in top
    assert all(problem in top for problem in missed)
    assert "1 quality gate missed" in text(render(dataclasses.replace(sample(), problems=missed[:1])))
    assert "FAILED" not in render(sample())


def test_page_is_self_contained():
    page = render(sample())
    assert not re.search(r"https?://|//cdn|<link|@import|src=|url\(", page)
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def hostile_engine(bad):
    part = Built(bad, 1, (LayerRow(bad, bad, (bad,), (bad,), (bad,), 5, tactic=bad),), {bad: bad})
    decisions = (Decision(bad, bad, False, bad),)
    words = {"rest": bad, "reasons": {bad: bad}, "linted": True, "subnormal": (bad,), "overflowing": (bad,)}
    return Engine(bad, bad, (part,), decisions=decisions, **words)


def test_hostile_strings_are_escaped():
    data = sample()
    bad = HOSTILE
    page = render(
        dataclasses.replace(
            data,
            name=bad,
            architecture=bad,
            built=bad,
            device=bad,
            versions={bad: bad},
            results=(dataclasses.replace(data.results[0], engine=bad, note=bad, wer=wer(1.0, bad)), data.results[2]),
            tables={
                "synthetic": ScaleTable({bad: TensorScale(1.0, bad, sqnr_db=20.0)}, {}),
                "audio": ScaleTable({bad: TensorScale(2.0, bad)}, {}),
            },
            engines=(hostile_engine(bad),),
            comparison=dataclasses.replace(data.comparison, reference=bad, candidate=bad, features=bad, command=bad),
            controls=(Control(bad, 1.0, 1.0, 1.0),),
            recipe={bad: bad, "calibration": {"method": "synthetic", "seed": bad}},
            commands=(bad,),
            problems=(bad,),
            checkpoint={"file": bad, "sha256": bad, "class": bad},
        )
    )
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert" in page


def test_minimal_report_has_no_empty_sections():
    data = Record(
        name="n",
        architecture="a",
        family="f",
        checkpoint={"file": "c", "sha256": "0", "class": "C"},
        recipe={"calibration": {"method": "noise", "seed": 0}},
        described={},
        fp32=(),
        engines=(),
        tables={"noise": ScaleTable({}, {})},
        results=(BenchResult("fp32", "fp32", 1_000_000, precision="fp32"),),
        comparison=Comparison("fp32", "int8", (), 1.0, 0, "audio", "", ""),
        parity=0.0,
        device="d",
        built="b",
        seconds=1.0,
    )
    page = render(data)
    assert pictures(page) == []
    for heading in ("Speed", "Precision", "Layers", "FP32 against", "Calibration", "Quantization error"):
        assert f"<h2>{heading}" not in page
    assert "<h2>Summary" in page


def test_rendering_is_deterministic():
    assert render(sample()) == render(sample())


def test_a_gpu_host_shows_every_plan_beside_int8():
    shown = text(render(gpu_sample(4)))
    for figure in (
        "Speedup int8 t4 over FP16 1.41 x",
        "Speedup int8 t4 over FP32 3.59 x",
        "8 x 16.7 s of audio, on Tesla T4",
        "t4-fp32: 0 of 4 layers INT8",
        "no weights 30.0 %",
        "sm75_xmma_fprop_implicit_gemm_i8i8_nhwc_tn_n_tilesize0",
    ):
        assert figure in shown, figure
    assert "Size fp16 t4" not in shown
    assert "Speedup fp16 t4" not in shown


def test_fp16_lint_lists_layers_or_says_none():
    row = re.search(r"subnormal scale</td>(.*?)</tr>.*?large accumulator</td>(.*?)</tr>", render(sample()), re.DOTALL)
    assert row
    assert "/enc/0/Conv" in row[1]
    assert "none" in row[2]
    unseen = tuple(dataclasses.replace(engine, linted=False) for engine in sample().engines)
    assert "FP16 lint" not in render(dataclasses.replace(sample(), engines=unseen))


def test_time_and_tactic_columns_appear_only_when_known():
    engine = dataclasses.replace(gpu_sample(2).engines[0], target="t4-rtx")
    for parts, columns in ((engine.parts, ["time %", "kernel", "tactic"]), (sample().engines[0].parts, [])):
        page = render(dataclasses.replace(sample(), engines=(dataclasses.replace(engine, parts=parts),)))
        table = page[page.index('id="layers-t4-rtx"') :]
        head = re.findall(r"<th(?: [^>]*)?>(.*?)</th>", table[: table.index("</thead>")])
        expected = ["layer", "type", "operands", "output", "INT8", "MACs %", *columns, "ONNX nodes", "kept by"]
        assert head == expected
        assert table[: table.index("</tr>", table.index("<tbody>"))].count("<td") == len(expected)


def test_the_times_of_encoder_and_tokens_are_columns_where_there_are_any():
    data = sample()
    assert "per token" not in text(render(data))
    spoken = dataclasses.replace(data.results[2].latencies[0], encoder_ms=20.0, tokens=8)
    cpu = dataclasses.replace(data.results[2], latencies=(spoken,))
    page = render(dataclasses.replace(data, results=(data.results[0], cpu)))
    assert "encoder per token" in text(page)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr><td>int8 cpu</td>.*?</tr>", page)]
    assert any(row[2:7] == ["80.0", "90.0", "460.0", "20.0", "7.50"] for row in cells)
