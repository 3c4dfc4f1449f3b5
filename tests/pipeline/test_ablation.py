"""The ablation runs every setting it names, on a tiny model, and its table holds the figures of its JSON."""

import json

import pytest
from report_sample import scored

from trtasr.cli import main
from trtasr.pipeline.ablation import CORRECTIONS, SETTINGS, Cell, ablation_table, spread, width
from trtasr.recipe import Quantization, Recipe, override

CHANGES = ["calibration.batches=1", "calibration.steps=2", "calibration.seconds=1.5"]
FAST = ["-q", *(part for change in CHANGES for part in ("--set", change))]


def test_every_setting_at_every_width_over_the_seeds_and_its_controls(tiny_folder, capsys):
    command = [
        "ablation",
        str(tiny_folder / "tiny.nemo"),
        "--manifest",
        str(tiny_folder / "manifest.json"),
        "--seeds",
        "2",
        "--bits",
        "8",
        "--bits",
        "4",
        "--only",
        "none",
        "--only",
        "fade",
        "--json",
        *FAST,
    ]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    keys = [(c["features"], c["correction"], c["weight_bits"]) for c in found["cells"]]
    assert keys == [
        (features, name, bits)
        for features in ("synthetic", "noise", "audio")
        for bits in (8, 4)
        for name in ("none", "fade")
    ]
    assert [len(c["wer"]) for c in found["cells"]] == [2] * 4 + [1] * 8
    sqnr = {key: c["sqnr_db"] for key, c in zip(keys, found["cells"], strict=True)}
    assert min(sqnr["synthetic", "none", 8]) > max(sqnr["synthetic", "none", 4])
    first, second = sqnr["synthetic", "none", 8]
    assert first != second  # the seeds make different features


def test_settings_are_settings_of_the_recipe():
    for changes in SETTINGS.values():
        assignments = [f"quantization.{key}={value}" for key, value in changes.items()]
        assert override(Recipe("a", "b"), assignments).quantization != Quantization() or changes == CORRECTIONS["none"]


def test_the_methods_of_the_papers_on_weights_alone_are_settings_too():
    methods = [SETTINGS[name] for name in ("none", "none, gptq", "qep 0.5, gptq", "fade, gptq")]
    assert [(item["correction"], item.get("rounding", "nearest")) for item in methods] == [
        ("none", "nearest"),
        ("none", "gptq"),
        ("qep", "gptq"),
        ("fade", "gptq"),
    ]
    cell = Cell("synthetic", "fade", 3, (6.0,), (90.0,), (20.0,))
    recipe = override(Recipe("a", "b"), ["quantization.weight_only=true"])
    assert width(cell, recipe.quantization) == "W3A32"
    assert ablation_table(scored(5.0), [cell], recipe).splitlines()[2].startswith("W3A32")


def test_the_table_shows_mean_deviation_and_difference():
    recipe = Recipe("a", "b")
    cell = Cell("synthetic", "fade", 4, (6.0, 7.0, 8.0), (90.0, 91.0, 92.0), (20.0, 21.0, 22.0))
    lines = ablation_table(scored(5.0), [cell], recipe).splitlines()
    assert lines[0] == "FP32: WER 5.00 %, normalizer basic-en-v1"
    assert lines[2].split() == [
        *["W4A8", "synthetic", "(data-free)", "fade", "7.00", "+-", "1.00", "+2.00"],
        *["91.00", "+-", "1.00", "21.00", "+-", "1.00", "3"],
    ]
    assert spread([3.0]) == "3.00"
    useless = Cell("audio", "none", 4, (6.0, None), (1.0, 2.0), (1.0, 2.0))
    line = ablation_table(scored(5.0), [useless], recipe).splitlines()[2]
    assert "real audio (the evaluation set itself)" in line
    assert "useless (1 of 2)" in line
    assert " - " in line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seeds", "0"], "at least one seed"),
        (["--bits", "9"], "2 to 8 bits"),
        ([], "needs speech"),
        (["--only", "gptq"], "use one of 'none'"),
    ],
)
def test_bad_input(tiny_folder, capsys, flags, words):
    assert main(["ablation", str(tiny_folder / "tiny.nemo"), *flags, "-q"]) == 2
    assert words in capsys.readouterr().err
