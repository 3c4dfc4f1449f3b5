"""The ablation runs every setting it names, on a tiny model, and its table holds the figures of its JSON."""

import json
from dataclasses import replace

import pytest
from compiling import CHEAP, run
from report_sample import scored

from trtasr.cli import main
from trtasr.pipeline.ablation import CORRECTIONS, SETTINGS, Bench, Cell, ablation_table, score, spread, width
from trtasr.recipe import Evaluation, Quantization, Recipe, override
from trtasr.results import Prepared


@pytest.mark.parametrize(("bundle", "widths"), [("ctc_bundle", (8, 4)), ("pair_bundle", (4,))])
def test_every_setting_at_every_width_over_the_seeds_and_its_controls(request, bundle, widths):
    made = request.getfixturevalue(bundle)
    flags = ["--seeds", 2, *(word for bits in widths for word in ("--bits", bits)), "--only", "none", "--only", "fade"]
    code, printed = run("ablation", made.checkpoint, "--manifest", made.manifest, *flags, "--json", *CHEAP)
    assert code == 0
    found = json.loads(printed)
    keys = [(c["features"], c["correction"], c["weight_bits"]) for c in found["cells"]]
    assert keys == [
        (features, name, bits)
        for features in ("synthetic", "noise", "audio")
        for bits in widths
        for name in ("none", "fade")
    ]
    sets = {"synthetic": 2, "noise": 1, "audio": 1}
    assert [len(c["wer"]) for c in found["cells"]] == [sets[features] for features, *_ in keys]
    cells = dict(zip(keys, found["cells"], strict=True))
    first, second = cells["synthetic", "none", 4]["sqnr_db"]
    assert first != second  # the seeds make different features
    same = [share for c in found["cells"] for share in c["agreement"]]
    assert 10 < min(same) < max(same) <= 100


def test_eight_bits_are_better_than_four_and_nothing_is_lost_where_nothing_is_quantized(tiny):
    examples, recipe = tiny.features.examples(), Recipe("a", "b", evaluation=Evaluation(normalizer="none"))
    items = [(item.features[0], item.features.shape[2]) for item in examples]
    spoken = [Prepared(f"{i}.wav", 1.0, "one", values, frames) for i, (values, frames) in enumerate(items)]
    bench = Bench(tiny.exported, recipe, spoken, examples, tiny.judged())
    (_, none, exact), (_, eight, better), (_, four, worse) = (
        score(bench, tiny.features, replace(tiny.plain, **changes))
        for changes in ({"exclude": ("*",)}, {}, {"weight_bits": 4})
    )
    assert none == 100
    assert exact > 100 > better > worse + 6
    assert 100 >= eight > four


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
