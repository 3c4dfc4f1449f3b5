"""What a compile leaves behind."""

import json
import math
from dataclasses import replace

import pytest
from report_sample import gpu_sample, sample

from trtasr.pipeline.record import changed_values, record_json, summary_json
from trtasr.recipe import Recipe, override
from trtasr.results import Control, GpuState


def test_every_changed_value_is_in_the_command_line() -> None:
    recipe = override(
        Recipe("x", "y"),
        [
            'engine.compute_capability="8.6"',
            'quantization.exclude=["/a b/*"]',
            "engine.quantize_depthwise=true",
            "calibration.seed=3",
        ],
    )
    changes = changed_values(recipe)
    assert len(changes) == 4
    assert override(Recipe("x", "y"), changes) == recipe


def test_a_record_is_json_without_tables_layers_and_transcripts() -> None:
    text = json.dumps(record_json(gpu_sample(171)), allow_nan=False)
    assert len(text) < 20_000
    found = json.loads(text)
    assert (found["outcome"], found["targets"], found["seconds"]) == ("PASSED", ["t4", "cpu"], 84.2)
    assert found["engines"]["t4"]["parts"][0]["tensorrt"] == "10.16.1.11"
    assert found["results"]["cpu"]["wer"] == 13.28
    assert found["vocabulary"] == ["a", "b"]
    assert len(found["fp16_subnormal_scales"]["t4"]) == 5


def test_what_is_not_a_number_is_null() -> None:
    state = GpuState("Tesla T4", "580", "P0", 1590, 1590, 5000, math.nan, 70, 60, 0x4)
    record = replace(sample(), controls=(Control("noise", None, None, math.nan),), gpu=(state,))
    found = json.loads(json.dumps(record_json(record), allow_nan=False))
    assert found["controls"] == [{"label": "noise", "wer": None, "disagreement": None, "sqnr_db": None}]
    assert (found["gpu"][0]["power_w"], found["gpu"][0]["throttled"]) == (None, True)


def test_differences_to_fp32_are_in_it() -> None:
    record = replace(sample(), manifests=("../dev.json", "../an4.json"))
    found = json.loads(json.dumps(record_json(record), allow_nan=False))
    assert found["manifest"] == ["../dev.json", "../an4.json"]
    assert found["results"]["fp32"]["differences"] == []
    (difference,) = found["results"]["cpu"]["differences"]
    assert difference == {
        "dataset": "",
        "utterances": 60,
        "units": 1039,
        "reference": 13.19,
        "rate": 13.28,
        "delta": pytest.approx(0.09),
        "interval": [-0.21, 0.38],
        "detectable": 0.42,
        "disagreement": 1.35,
    }


def test_missed_gates_are_in_it() -> None:
    found = record_json(replace(sample(), problems=("int8 cpu: too slow",)))
    assert (found["outcome"], found["problems"]) == ("FAILED", ["int8 cpu: too slow"])


def test_an_engine_that_was_not_timed_has_no_figures_of_speed() -> None:
    untimed = next(row for row in sample().results if row.target == "t4-rtx")
    found = summary_json(untimed)
    assert (found["wer"], found["p50_ms"], found["p95_ms"], found["rtfx"]) == (13.25, None, None, None)
