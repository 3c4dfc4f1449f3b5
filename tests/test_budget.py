"""Layers left in floating point: as few as the budget needs, the most harmful first."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_archive import write_archive, write_manifest

from trtasr.budget import fewest
from trtasr.cli import main

CHANGES = ["calibration.batches=1", "calibration.steps=2", "calibration.seconds=1.5", "evaluation.bench_seconds=[0.5]"]
FAST = ["-q", *(part for change in CHANGES for part in ("--set", change))]


@given(st.integers(1, 40), st.data())
def test_bisection_finds_the_smallest_count(most, data):
    needed = data.draw(st.integers(1, most))
    assert fewest(most, lambda count: count >= needed) == needed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("budget")
    write_archive(made / "tiny.nemo")
    write_manifest(made)
    return made


def kept(folder, out, *flags, target="cpu"):
    command = ["compile", str(folder / "tiny.nemo"), "-o", str(out), "--target", target, *FAST, *flags]
    assert main(command) == 0
    decisions = json.loads((out / "scales.json").read_text())["decisions"][target]
    return [d["node"] for d in decisions if d["rule"] == "budget"]


def test_a_higher_budget_leaves_more_layers_out(folder, tmp_path, capsys):
    counts = [len(kept(folder, tmp_path / f"{db}", "--min-sqnr", str(db))) for db in (1, 40, 90)]
    assert counts[0] == 0
    assert counts[0] <= counts[1] <= counts[2]
    assert counts[2] > 0
    assert "left in floating point to keep the budget" in capsys.readouterr().out


def test_an_impossible_budget_leaves_everything_out(folder, tmp_path):
    names = kept(folder, tmp_path / "out", "--min-sqnr", "300")
    decisions = json.loads((tmp_path / "out" / "scales.json").read_text())["decisions"]["cpu"]
    assert len(names) == 6
    assert not any(d["quantized"] for d in decisions if d["node"] in names)


def test_a_budget_on_wer_needs_speech(folder, tmp_path, capsys):
    command = ["compile", str(folder / "tiny.nemo"), "-o", str(tmp_path / "x"), *FAST, "--max-wer-drop", "0.1"]
    assert main(command) == 2
    assert "needs speech" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_budget_on_wer_that_holds_leaves_nothing_out(folder, tmp_path):
    speech = ["--manifest", str(folder / "manifest.json")]
    names = kept(folder, tmp_path / "out", *speech, "--max-wer-drop", "1000")
    assert names == []


def test_a_negative_budget_is_refused(folder, tmp_path, capsys):
    command = ["compile", str(folder / "tiny.nemo"), "-o", str(tmp_path / "x"), *FAST, "--min-sqnr", "-1"]
    assert main(command) == 2
    assert "min_sqnr" in capsys.readouterr().err
