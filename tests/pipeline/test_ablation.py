"""The ablation runs every setting it names, on a tiny model, and its file holds its figures at any moment."""

import json
from dataclasses import replace

import pytest
from compiling import CHEAP, run
from tiny_archive import write_manifest

from trtasr.cli import main
from trtasr.pipeline import ablation
from trtasr.pipeline.ablation import CORRECTIONS, SETTINGS, Bench, Plan, cell, score
from trtasr.pipeline.measure import word_error_rate
from trtasr.recipe import Evaluation, Quantization, Recipe, override
from trtasr.results import Prepared, Setting

WEIGHTS_ALONE = ("--set", "quantization.weight_only=true")


def keys_of(found):
    return [Setting(c["features"], c["correction"], c["weight_bits"], c["weight_group"]) for c in found["cells"]]


@pytest.mark.parametrize(("bundle", "widths"), [("ctc_bundle", (8, 4)), ("pair_bundle", (4,))])
def test_every_setting_at_every_width_over_the_seeds_and_its_controls(request, tmp_path, bundle, widths):
    made, file = request.getfixturevalue(bundle), tmp_path / "a.json"
    flags = ["--seeds", 2, *(word for bits in widths for word in ("--bits", bits)), "--only", "none", "--only", "fade"]
    code, printed = run("ablation", made.checkpoint, "--manifest", made.manifest, *flags, "-o", file, "--json", *CHEAP)
    assert code == 0
    found = json.loads(printed)
    assert json.loads(file.read_text(encoding="utf-8")) == found
    keys = keys_of(found)
    assert keys == [
        (features, name, bits, 0)
        for features in ("synthetic", "noise", "audio")
        for bits in widths
        for name in ("none", "fade")
    ]
    sets = {"synthetic": 2, "noise": 1, "audio": 1}
    for figure in ("wer", "disagreement", "agreement", "sqnr_db"):
        assert [len(c[figure]) for c in found["cells"]] == [sets[features] for features, *_ in keys]
    cells = dict(zip(keys, found["cells"], strict=True))
    first, second = cells["synthetic", "none", 4, 0]["sqnr_db"]
    assert first != second  # the seeds make different features
    same = [share for c in found["cells"] for share in c["agreement"]]
    assert 10 < min(same) < max(same) <= 100
    assert found["sets_fp32"] == {}


def bench_of(tiny):
    """The calibration features of a tiny network as speech."""
    examples, recipe = tiny.features.examples(), Recipe("a", "b", evaluation=Evaluation(normalizer="none"))
    items = [(item.features[0], item.features.shape[2]) for item in examples]
    spoken = [Prepared(f"{i}.wav", 1.0, "one", values, frames) for i, (values, frames) in enumerate(items)]
    network, files = tiny.exported.network, tiny.exported.files
    reference = word_error_rate(network, files, spoken, recipe.evaluation)
    recipe = replace(recipe, quantization=tiny.plain)
    return Bench(tiny.exported, recipe, spoken, examples, tiny.judged(), reference)


def test_eight_bits_are_better_than_four_and_nothing_is_lost_where_nothing_is_quantized(tiny):
    bench = bench_of(tiny)
    exact, eight, four = (
        score(bench, tiny.features, replace(tiny.plain, **changes))
        for changes in ({"exclude": ("*",)}, {}, {"weight_bits": 4})
    )
    assert exact.agreement == 100
    assert exact.disagreement == 0
    assert exact.wer == bench.reference.rate
    assert exact.sqnr_db > 100 > eight.sqnr_db > four.sqnr_db + 6
    assert 100 >= eight.agreement > four.agreement
    assert four.disagreement > 0


def test_what_needs_no_data_is_scored_once_for_all_seeds(tiny, monkeypatch):
    bench, scored = bench_of(tiny), []
    bench = replace(bench, recipe=replace(bench.recipe, quantization=replace(tiny.plain, weight_only=True)))
    monkeypatch.setattr(ablation, "score", lambda *given: scored.append(score(*given)) or scored[-1])
    quiet = replace(tiny.features, batches=tuple(batch / 2 for batch in tiny.features.batches))
    found = cell(bench, [tiny.features, quiet, quiet], Setting("synthetic", "none", 3, 4))
    assert len(scored) == 1
    assert found.sqnr_db == (scored[0].sqnr_db,) * 3
    settings = replace(tiny.plain, weight_only=True, weight_bits=3, weight_group=4)
    assert score(bench, quiet, settings) == scored[0]
    learnt = cell(bench, [tiny.features, quiet], Setting("synthetic", "none, gptq", 3, 4))
    assert learnt.sqnr_db[0] != learnt.sqnr_db[1]


def grouped(made, tmp_path, *flags, names=("none", "fade, gptq")):
    """Weights alone at three bits, per channel and in groups, on two evaluation sets."""
    (tmp_path / "other").mkdir(exist_ok=True)
    speech = f"{made.manifest},{write_manifest(tmp_path / 'other', 2, text='three')}"
    chosen = ["--seeds", 2, "--bits", 3, "--groups", 0, "--groups", 4]
    chosen += [word for name in names for word in ("--only", name)]
    return run("ablation", made.checkpoint, "--manifest", speech, *chosen, *WEIGHTS_ALONE, *CHEAP, *flags)


def test_groups_are_lines_of_their_own_and_every_set_has_its_rate(ctc_bundle, tmp_path):
    file = tmp_path / "a.json"
    code, printed = grouped(ctc_bundle, tmp_path, "-o", file)
    assert code == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    assert len(found["sets_fp32"]) == 2
    assert [key[2:] for key in keys_of(found)] == [(3, 0), (3, 0), (3, 4), (3, 4)] * 3
    pooled, _, by_set = printed.partition("\n\n")
    head, *lines = pooled.splitlines()[1:]
    assert "disagree %" in head
    for cells, line in zip(found["cells"], lines, strict=True):
        assert line.startswith("W3 g4, weights only " if cells["weight_group"] else "W3, weights only ")
        assert all(0 < value < 1000 for value in cells["disagreement"])
        assert cells["sets"].keys() == found["sets_fp32"].keys()
    assert [f"{name}: WER %" in by_set.splitlines()[0] for name in found["sets_fp32"]] == [True, True]
    assert by_set.splitlines()[1].startswith("FP32 ")
    sqnr = {key: item["sqnr_db"][0] for key, item in zip(keys_of(found), found["cells"], strict=True)}
    for name in ("none", "fade, gptq"):
        assert sqnr["synthetic", name, 3, 4] > sqnr["synthetic", name, 3, 0]


def test_a_run_goes_on_from_its_file_to_the_same_figures(ctc_bundle, tmp_path, monkeypatch, capsys):
    whole, half = tmp_path / "whole.json", tmp_path / "half.json"
    code, printed = grouped(ctc_bundle, tmp_path, "-o", whole, "--json")
    assert code == 0
    made = []

    def stopped(bench, features, setting):
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(setting)
        return cell(bench, features, setting)

    monkeypatch.setattr(ablation, "cell", stopped)
    assert grouped(ctc_bundle, tmp_path, "-o", half)[0] == 130
    assert capsys.readouterr().err.splitlines()[-1] == f"interrupted: written before: {half}"
    begun = json.loads(half.read_text(encoding="utf-8"))
    assert keys_of(begun) == made
    assert begun["cells"] == json.loads(printed)["cells"][:5]
    made[:] = []
    monkeypatch.setattr(ablation, "cell", lambda *given: made.append(given[2]) or cell(*given))
    code, resumed = grouped(ctc_bundle, tmp_path, "-o", half, "--json", "--resume")
    assert code == 0
    assert made == keys_of(json.loads(printed))[5:]
    assert resumed == printed
    assert half.read_text(encoding="utf-8") == whole.read_text(encoding="utf-8")


def test_a_file_keeps_the_lines_that_the_plan_has_no_more(ctc_bundle, tmp_path):
    file, found = tmp_path / "a.json", []
    for name in ("none", "bias"):
        code, printed = grouped(ctc_bundle, tmp_path, "-o", file, "--json", "--resume", names=(name,))
        assert code == 0
        found.append(json.loads(printed)["cells"])
    assert json.loads(file.read_text(encoding="utf-8"))["cells"] == found[1] + found[0]
    assert {cell["correction"] for cell in found[1]} == {"bias"}


def test_a_file_of_something_else_is_left_alone(ctc_bundle, tmp_path, capsys):
    file = tmp_path / "a.json"
    command = ["ablation", ctc_bundle.checkpoint, "--manifest", ctc_bundle.manifest, "--seeds", 1, "--bits", 8]
    command += ["--only", "none", "-o", file, *CHEAP]
    assert run(*command)[0] == 0
    content = file.read_text(encoding="utf-8")
    capsys.readouterr()
    for flags, words in (
        ([], "is there already"),
        (["--resume", "--seeds", 2], "other settings (seeds)"),
        (["--resume", "--set", "quantization.headroom=2"], "other settings (quantization)"),
    ):
        assert run(*command, *flags)[0] == 2
        assert words in capsys.readouterr().err
        assert file.read_text(encoding="utf-8") == content
    file.write_text("[]", encoding="utf-8")
    assert run(*command, "--resume")[0] == 2
    assert "not as expected" in capsys.readouterr().err
    file.unlink()
    assert run(*command, "--resume")[0] == 0  # nothing to go on from: from the beginning


def test_settings_are_settings_of_the_recipe():
    for changes in SETTINGS.values():
        assignments = [f"quantization.{key}={value}" for key, value in changes.items()]
        assert override(Recipe("a", "b"), assignments).quantization != Quantization() or changes == CORRECTIONS["bias"]


def test_the_methods_of_the_papers_on_weights_alone_are_settings_too():
    methods = [SETTINGS[name] for name in ("none", "none, gptq", "qep 0.5, gptq", "fade, gptq")]
    assert [(item["correction"], item.get("rounding", "nearest")) for item in methods] == [
        ("none", "nearest"),
        ("none", "gptq"),
        ("qep", "gptq"),
        ("fade", "gptq"),
    ]
    dampings = [SETTINGS[f"{name}, gptq 0.01"]["gptq_damping"] for name in ("none", "bias", "qep 0.5", "fade")]
    assert dampings == [0.01] * 4  # of the authors of GPTQ, beside the recipe's


def test_the_methods_of_the_papers_are_calibrated_on_audio_too():
    names = ("none", "none, gptq", "qep 0.5, gptq", "fade, gptq")
    lines = Plan(5, (4, 3), names, (0, 128)).settings
    assert len(set(lines)) == len(lines) == 3 * 2 * 2 * 4
    assert lines[0] == ("synthetic", "none", 4, 0)
    assert lines[4] == ("synthetic", "none", 4, 128)
    assert lines[-1] == ("audio", "fade, gptq", 3, 128)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seeds", "0"], "at least one seed"),
        (["--bits", "9"], "2 to 8 bits"),
        ([], "needs speech"),
        (["--only", "gptq"], "use one of 'none'"),
        (["--groups", "128"], "add quantization.weight_only = true"),
        (["--groups", "1", *WEIGHTS_ALONE], "use at least 2, or 0"),
        (["--groups", "-2", *WEIGHTS_ALONE], "--groups: weight_group = -2"),
    ],
)
def test_bad_input(tiny_folder, capsys, flags, words):
    assert main(["ablation", str(tiny_folder / "tiny.nemo"), *flags, "-q"]) == 2
    assert words in capsys.readouterr().err
