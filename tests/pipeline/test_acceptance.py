"""The acceptance run: that it runs every variant, on a T4 host made of fakes, and what it says of each."""

import json
import math
import sys
from dataclasses import replace

from report_sample import gpu_sample
from t4_host import FAST

from trtasr.cli import main
from trtasr.errors import BuildError, MissingError
from trtasr.pipeline import acceptance
from trtasr.pipeline.acceptance import Outcome, outcome_json, outcome_table

BUILT = Outcome("explicit", gpu_sample(4), "", {"/a": math.inf, "/b": 17.25}, 30.04)
FAILED = Outcome("implicit", None, "no parser\nrepair: none", {}, 1.0)


def test_a_variant_is_json_with_its_kernels_and_the_error_of_every_layer() -> None:
    found = json.loads(json.dumps(outcome_json(BUILT), allow_nan=False))
    assert (found["name"], found["outcome"], found["error"], found["seconds"]) == ("explicit", "PASSED", "", 30.0)
    assert [row["target"] for row in found["bench"]] == ["fp32", "t4-fp16", "t4-fp32", "t4", "cpu"]
    assert found["engines"]["t4"]["parts"][0]["tensorrt"] == "10.16.1.11"
    assert found["layers"]["t4"][0]["tactic"].startswith("sm75_")
    assert found["layer_sqnr_db"] == {"/a": None, "/b": 17.25}
    assert found["fallback"] == []


def test_a_variant_that_failed_says_why() -> None:
    assert outcome_json(FAILED) == {"name": "implicit", "seconds": 1.0, "error": "no parser\nrepair: none"}
    missed = replace(BUILT, record=replace(gpu_sample(4), problems=("too slow",)))
    heading, *rows = [line.split() for line in outcome_table([BUILT, missed, FAILED]).splitlines()]
    assert heading[:3] == ["variant", "WER", "%"]
    assert rows[0] == ["explicit", "13.27", "+0.08", "2", "of", "4", "1.41", "3.59", "17.2"]
    assert rows[1][-2:] == ["too", "slow"]
    assert rows[2][-3:] == ["failed:", "no", "parser"]


def test_acceptance_tries_every_variant_and_writes_one_file(host, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_TRT_NO_INT8", "/encoder/encoder.0/mconv.0/conv/Conv")  # the first depthwise convolution
    model, manifest = str(host / "tiny.nemo"), str(host / "manifest.json")
    command = ["acceptance", model, "--manifest", manifest, "-o", str(tmp_path / "all"), *FAST, "-q"]
    assert main([*command, "--set", "quantization.fidelity=fast"]) == 0  # random weights are easily harmed
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "all" / "t4-acceptance.json").read_text())
    assert found["host"] == {"gpu": "Tesla T4 (fake)", "capability": [7, 5], "tensorrt": "10.16.1.11"}
    plain, depthwise, chains, ours, theirs = found["variants"]
    assert sum(row["int8"] for row in plain["layers"]["t4"]) == 5
    assert sum(row["int8"] for row in depthwise["layers"]["t4"]) == 5  # one without a kernel takes the others with it
    assert depthwise["fallback"] == [
        "/encoder/encoder.0/mconv.0/conv/Conv",
        "/encoder/encoder.1/mconv.0/conv/Conv",
        "/encoder/encoder.1/mconv.5/conv/Conv",
    ]
    assert len(plain["layer_sqnr_db"]) == 9
    forms = [variant["engines"]["t4"]["forms"][0] for variant in (plain, chains)]
    assert [(form["name"], form["counts"]["written"]) for form in forms] == [("plain", 0), ("chains", 2)]
    assert [v["engines"]["t4"]["parts"][0]["quantization"] for v in (ours, theirs)] == ["implicit", "implicit"]
    assert {row["target"] for row in plain["bench"]} == {"fp32", "t4", "t4-fp16", "t4-fp32"}
    assert "PASSED" in printed.splitlines()[-1]
    assert [line.split("  ")[0] for line in printed.splitlines()[1:6]] == [v["name"] for v in found["variants"]]


def test_acceptance_begins_with_a_builder(host, tmp_path, monkeypatch, capsys):
    def refuse():
        raise MissingError("TensorRT gives no builder here", "update the driver")

    monkeypatch.setattr(acceptance, "require_builder", refuse)
    assert main(["acceptance", str(host / "tiny.nemo"), "-o", str(tmp_path), "-q"]) == 4
    assert "TensorRT gives no builder here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_acceptance_keeps_a_failure_as_a_finding(host, tmp_path, monkeypatch, capsys):
    def fail(recipe, options):
        raise BuildError("the parser refused it", "another graph")

    monkeypatch.setattr(acceptance, "compile_recipe", fail)
    assert main(["acceptance", str(host / "tiny.nemo"), "-o", str(tmp_path), "-q"]) == 3
    found = json.loads((tmp_path / "t4-acceptance.json").read_text())
    assert all("the parser refused it" in variant["error"] for variant in found["variants"])
    assert "failed: the parser refused it" in capsys.readouterr().out


def test_acceptance_keeps_what_it_has_when_the_gpu_breaks(host, tmp_path, monkeypatch, capsys):
    def broken(recipe, options):
        raise sys.modules["pycuda.driver"].LogicError("an illegal memory access was encountered")

    monkeypatch.setattr(acceptance, "compile_recipe", broken)
    assert main(["acceptance", str(host / "tiny.nemo"), "-o", str(tmp_path), "-q"]) == 3
    found = json.loads((tmp_path / "t4-acceptance.json").read_text())
    assert [v["error"] for v in found["variants"]] == ["LogicError: an illegal memory access was encountered"] * 5
    assert "illegal memory access" in capsys.readouterr().out
