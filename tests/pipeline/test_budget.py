"""Layers left in floating point: as few as the budget needs, the most harmful first."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtasr.checkpoint.nemo import read_nemo
from trtasr.cli import main
from trtasr.engine.compare import output_sqnr
from trtasr.engine.sessions import utterances
from trtasr.models.load import build_model
from trtasr.pipeline.budget import fewest
from trtasr.pipeline.evaluate import log_probs
from trtasr.pipeline.features import calibration_features
from trtasr.recipe import Recipe, override

CHANGES = ["calibration.batches=1", "calibration.steps=2", "calibration.seconds=1.5", "evaluation.bench_seconds=[0.5]"]
FAST = ["-q", *(part for change in CHANGES for part in ("--set", change))]


@given(st.integers(1, 40), st.data())
def test_bisection_finds_the_smallest_count(most, data):
    needed = data.draw(st.integers(1, most))
    assert fewest(most, lambda count: count >= needed) == needed


def kept(tiny_folder, out, *flags, target="cpu"):
    command = ["compile", str(tiny_folder / "tiny.nemo"), "-o", str(out), "--target", target, *FAST, *flags]
    assert main(command) == 0
    decisions = json.loads((out / "scales.json").read_text())["decisions"][target]
    return [d["node"] for d in decisions if d["rule"] == "budget"]


def test_a_higher_budget_leaves_more_layers_out(tiny_folder, tmp_path, capsys):
    counts = [len(kept(tiny_folder, tmp_path / f"{db}", "--min-sqnr", str(db))) for db in (1, 40, 90)]
    assert counts[0] == 0
    assert counts[0] <= counts[1] <= counts[2]
    assert counts[2] > 0
    assert "left in floating point to keep the budget" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [[], ["--correction", "fade", "--set", "quantization.weight_bits=4"]])
def test_the_engine_keeps_the_budget(tiny_folder, tmp_path, flags):
    """As the engine itself computes, on the features it was calibrated with; W4 weights of left layers are not used."""
    out = tmp_path / "out"
    names = kept(tiny_folder, out, "--min-sqnr", "60", *flags)
    assert 0 < len(names) <= 9
    recipe = override(Recipe("tiny", str(tiny_folder / "tiny.nemo")), CHANGES)
    checkpoint = read_nemo(tiny_folder / "tiny.nemo")
    model = build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    features = calibration_features("synthetic", recipe, checkpoint, model)
    feeds = [(feed["features"], feed["lengths"]) for feed in utterances(features)]
    exact, found = (log_probs(out / name, feeds) for name in ("model.fp32.onnx", "cpu/model.int8.onnx"))
    assert output_sqnr(exact, found) >= 60


def test_each_target_has_its_own_layers(tiny_folder, tmp_path):
    """Depthwise layers are INT8 on the CPU alone, so that only there they can be in the way of a budget."""
    out = tmp_path / "out"
    command = ["compile", str(tiny_folder / "tiny.nemo"), "-o", str(out), *FAST, "--min-sqnr", "60"]
    assert main(command) == 0
    decisions = json.loads((out / "scales.json").read_text())["decisions"]
    left = {target: {d["node"] for d in found if d["rule"] == "budget"} for target, found in decisions.items()}
    assert left.keys() == {"t4-rtx", "cpu"}
    depthwise = {d["node"] for d in decisions["t4-rtx"] if d["rule"] == "depthwise"}
    assert left["cpu"] & depthwise
    assert not left["t4-rtx"] & depthwise


def test_what_no_quantized_layer_keeps_leaves_everything_out(tiny_folder, tmp_path):
    names = kept(tiny_folder, tmp_path / "out", "--min-sqnr", "300")
    decisions = json.loads((tmp_path / "out" / "scales.json").read_text())["decisions"]["cpu"]
    assert len(names) == len(decisions) == 9
    assert not any(d["quantized"] for d in decisions)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--max-wer-drop", "0.1"], "needs speech"),
        (
            ["--min-sqnr", "20", "--set", "engine.quantization=implicit", "--target", "t4"],
            "needs explicit quantization",
        ),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused_before_any_work(tmp_path, capsys, flags, words):
    (tmp_path / "broken.nemo").write_bytes(b"")  # would be refused as soon as it is read
    assert main(["compile", str(tmp_path / "broken.nemo"), "-o", str(tmp_path / "x"), *FAST, *flags]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_budget_on_wer_that_holds_leaves_nothing_out(tiny_folder, tmp_path):
    speech = ["--manifest", str(tiny_folder / "manifest.json")]
    names = kept(tiny_folder, tmp_path / "out", *speech, "--max-wer-drop", "1000")
    assert names == []


def test_a_negative_budget_is_refused(tiny_folder, tmp_path, capsys):
    command = ["compile", str(tiny_folder / "tiny.nemo"), "-o", str(tmp_path / "x"), *FAST, "--min-sqnr", "-1"]
    assert main(command) == 2
    assert "min_sqnr" in capsys.readouterr().err
