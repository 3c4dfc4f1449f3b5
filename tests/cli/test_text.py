"""What the terminal and ``--json`` say of a record."""

from dataclasses import replace
from pathlib import Path

from report_sample import gpu_sample, sample

from trtasr.cli.text import compile_data, compile_text, cpu_speed_line

OUT = Path("engines/x")
KEYS = {
    "outcome",
    "problems",
    "seconds",
    "peak_gb",
    "bundle",
    "engine",
    "results",
    "comparison",
    "controls",
    "fidelity",
}


def test_the_last_line_is_for_machines():
    *_, last = compile_text(sample(), OUT).splitlines()
    assert last == (
        "PASSED | 84 s | engine=engines/x/t4-rtx/model.plan | wer_fp32=13.19 | wer_int8=13.25 | wer_int8_cpu=13.28"
    )


def test_every_missed_gate_is_a_line_before_it():
    lines = compile_text(replace(sample(), problems=("first", "second")), OUT).splitlines()
    assert lines[-3:-1] == ["gate missed: first", "gate missed: second"]
    assert lines[-1].startswith("FAILED | ")


def test_a_line_per_engine_says_what_was_kept_out_of_int8_and_none_is_about_baselines():
    lines = [line for line in compile_text(gpu_sample(4), OUT).splitlines() if "layers INT8" in line]
    assert lines == [
        "t4: 2 of 4 layers INT8 (50.0 % of MACs); kept FP16: 2 depthwise (no INT8 kernel on sm_75)",
        "cpu: 0 of 4 layers INT8 (0.0 % of MACs); all INT8",
    ]


def test_int8_is_held_against_fp16_and_fp32_of_the_same_gpu():
    lines = [line for line in compile_text(gpu_sample(4), OUT).splitlines() if line.startswith("int8 t4 against")]
    assert len(lines) == 12
    assert lines[0] == "int8 t4 against FP16, 2 s: 1.41 x"


def test_on_the_cpu_int8_is_held_against_fp32_length_by_length():
    assert cpu_speed_line(sample().results) == ["int8 cpu against fp32, same run, same threads: 5.00 x at 15 s"]
    assert cpu_speed_line(sample().results[:2]) == []


def test_scripts_find_these_keys():
    data = compile_data(sample(), OUT)
    assert set(data) == KEYS
    assert (data["bundle"], data["engine"]) == ("engines/x", "engines/x/t4-rtx/model.plan")
    assert data["controls"][1] == {"label": "noise", "wer": 61.9, "disagreement": 58.2, "sqnr_db": 3.4}
