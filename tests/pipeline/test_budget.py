"""Layers left in floating point: as few as the budget needs, the most harmful first."""

import json
import math
from dataclasses import dataclass, replace

import pytest
from compiling import CHANGES as SMALL
from compiling import compiling, read
from exported import exported
from whisper_folder import write_folder

from trtasr.bench.agreement import output_sqnr
from trtasr.bench.fidelity import typical_error
from trtasr.cli import main
from trtasr.files.scratch import scratch
from trtasr.network.network import outputs
from trtasr.pipeline import budget as pipeline
from trtasr.pipeline.budget import Goal, Trial, affordable, budget, leave_out, scaled_as_needed
from trtasr.pipeline.features import calibration_features
from trtasr.recipe import EngineShapes, Evaluation, Recipe, override
from trtasr.targets import CPU, T4, T4_RTX

CHANGES = ["calibration.batches=1", "calibration.steps=2", "calibration.seconds=1.5", "evaluation.bench_seconds=[0.5]"]
FAST = ["-q", *(part for change in CHANGES for part in ("--set", change))]


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


def calibrated_on(checkpoint, folder, changes):
    """The network of a checkpoint, and what its table is made from."""
    graphs = exported(checkpoint, folder)
    features = calibration_features("synthetic", override(Recipe("tiny", str(checkpoint)), changes), graphs)
    return graphs.network, features.examples()


def engine_sqnr(network, bundle, examples):
    """Of the CPU engine against FP32 in dB, as both compute."""
    exact, found = (
        outputs(network, network.files(folder, kind), examples)
        for folder, kind in ((bundle, "fp32.onnx"), (bundle / "cpu", "int8.onnx"))
    )
    return output_sqnr(exact, found)


@pytest.mark.parametrize("flags", [[], ["--correction", "fade", "--set", "quantization.weight_bits=4"]])
def test_the_engine_keeps_the_budget(tiny_folder, tmp_path, flags):
    """As the engine itself computes, on the features it was calibrated with; W4 weights of left layers are not used."""
    out = tmp_path / "out"
    names = kept(tiny_folder, out, "--min-sqnr", "60", *flags)
    assert 0 < len(names) <= 9
    network, examples = calibrated_on(tiny_folder / "tiny.nemo", tmp_path / "fp32", CHANGES)
    assert engine_sqnr(network, out, examples) >= 60


def test_the_engine_of_an_encoder_decoder_keeps_the_budget(tmp_path):
    out, checkpoint = tmp_path / "out", write_folder(tmp_path / "tiny")
    code, _ = compiling(checkpoint, out, "--target", "cpu", "--min-sqnr", "50")
    assert code == 0
    decisions = read(out, "scales.json")["decisions"]["cpu"]
    left = [item["node"] for item in decisions if item["rule"] == "budget"]
    assert 0 < len(left) < sum(item["quantized"] for item in decisions) + len(left)
    network, examples = calibrated_on(checkpoint, tmp_path / "fp32", SMALL)
    assert engine_sqnr(network, out, examples) >= 50


@dataclass(frozen=True)
class Judged:
    """A trial of the tiny network of two parts, and what it leaves in floating point."""

    trial: Trial
    left: tuple[str, ...]

    @property
    def least(self):
        return self.trial.recipe.evaluation.min_sqnr

    def outputs(self, left):
        trial = self.trial
        with scratch() as folder:
            found = outputs(trial.exported.network, trial.written(left, folder), trial.examples)
        return outputs(trial.exported.network, trial.exported.files, trial.examples), found

    def sqnr(self, left):
        return output_sqnr(*self.outputs(left))


def asked(trial):
    """The budget of a trial's recipe."""
    return budget(trial.recipe, trial.exported, trial.examples, ())


@pytest.fixture(scope="module")
def judged(attention):
    recipe = Recipe("tiny", "tiny", quantization=attention.plain, evaluation=Evaluation(min_sqnr=65.0))
    trial = Trial(attention.exported, attention.table(), recipe, T4_RTX, attention.features.examples())
    return Judged(trial, tuple(leave_out(trial, [asked(trial)]).rules))


def test_layers_of_either_part_stay_in_floating_point(judged):
    assert {name.split("/")[1] for name in judged.left} == {"encoder", "decoder"}
    assert judged.sqnr(judged.left) >= judged.least


def test_a_budget_that_holds_leaves_nothing_out(judged):
    recipe = replace(judged.trial.recipe, evaluation=Evaluation(min_sqnr=20.0))
    trial = replace(judged.trial, recipe=recipe)
    assert leave_out(trial, [asked(trial)]).rules == {}


def test_as_few_layers_as_the_budget_needs(judged):
    assert judged.sqnr(judged.left[:-1]) < judged.least


def test_the_most_harmful_layers_are_left_first(judged):
    quantized = [item.node for part in judged.trial.placed(()) for item in part.decisions if item.quantized]
    kept = next(name for name in quantized if name not in judged.left)
    alone = [judged.sqnr([name for name in quantized if name != layer]) for layer in (judged.left[0], kept)]
    assert alone == sorted(alone)


def test_each_target_has_its_own_layers(tiny_folder, tmp_path):
    """Depthwise layers are INT8 on the CPU alone, so that only there they can be in the way of a budget."""
    out = tmp_path / "out"
    command = ["compile", str(tiny_folder / "tiny.nemo"), "-o", str(out), *FAST, "--min-sqnr", "60"]
    assert main([*command, "--set", "quantization.fidelity=fast"]) == 0  # static scales
    decisions = json.loads((out / "scales.json").read_text())["decisions"]
    left = {target: {d["node"] for d in found if d["rule"] == "budget"} for target, found in decisions.items()}
    assert left.keys() == {"t4-rtx", "cpu"}
    depthwise = {d["node"] for d in decisions["t4-rtx"] if d["rule"] == "depthwise"}
    assert left["cpu"] & depthwise
    assert not left["t4-rtx"] & depthwise


def test_what_no_quantized_layer_keeps_leaves_everything_out(tiny_folder, tmp_path):
    names = kept(tiny_folder, tmp_path / "out", "--min-sqnr", "300", "--set", "quantization.fidelity=fast")
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


def test_a_layer_harms_as_much_alone_as_where_it_alone_is_quantized(judged):
    """Switches change one layer of one graph; candidates are graphs of their own."""
    trial, names = judged.trial, list(judged.trial.harm)
    for layer in (names[0], names[len(names) // 2]):
        alone = typical_error(*judged.outputs([name for name in names if name != layer]))
        assert abs(trial.harm[layer] + 10 * math.log10(alone)) < 0.5


def test_layers_with_the_most_noise_for_what_they_compute_come_first(judged):
    costs = {name: cost for part in judged.trial.macs for name, cost in part.items()}
    noise = [10 ** (-harm / 10) / costs[name] for name, harm in judged.trial.harm.items()]
    assert noise == sorted(noise, reverse=True)


def test_scales_are_computed_at_run_time_where_static_ones_miss_fidelity(judged):
    static = replace(judged.trial, target=CPU)
    missed, held = (lambda _: 1.1), (lambda _: 1.0)
    assert scaled_as_needed(static, missed).target.activation_scales == "dynamic"
    assert scaled_as_needed(static, held) is static
    asked = replace(static.recipe, engine=EngineShapes(activation_scales="static"))
    assert scaled_as_needed(replace(static, recipe=asked), missed).target is CPU
    assert scaled_as_needed(replace(static, target=T4), missed).target is T4
    assert len(judged.trial.harm) == sum(len(part) for part in judged.trial.macs)


def test_a_second_goal_keeps_what_the_first_has_left_out(judged):
    def few(files):
        assert len(files) == 2
        tried.append(files)
        return 2.0 if len(tried) == 1 else 0.0

    tried = []
    left = leave_out(judged.trial, [asked(judged.trial), Goal("fidelity", few)])
    assert [name for name, rule in left.rules.items() if rule == "budget"] == list(judged.left)
    assert "fidelity" in left.rules.values()


def test_what_half_of_the_work_does_not_reach_leaves_everything_in_int8(judged):
    never = leave_out(judged.trial, [Goal("fidelity", lambda _: 2.0, 0.5)])
    assert never.rules == {}


def test_a_goal_that_may_be_held_in_part_takes_what_it_may(judged):
    asked = []
    goal = Goal("fidelity", lambda files: asked.append(files) or 2.0, 0.5, partial=True)
    found = leave_out(judged.trial, [goal]).rules
    assert sorted(found) == sorted(affordable(judged.trial, goal, ()))
    assert len(asked) == 2


def test_no_more_goes_back_than_may(judged):
    costs, ranked = judged.trial.costs, list(judged.trial.harm)
    for most in (0.1, 0.5, 1.0):
        found = affordable(judged.trial, Goal("fidelity", lambda _: 2.0, most), ())
        assert found == ranked[: len(found)]
        assert sum(costs[name] for name in found) <= most * sum(costs.values())
        assert len(found) == len(ranked) or sum(costs[name] for name in ranked[: len(found) + 1]) > most * sum(
            costs.values()
        )


def test_what_an_earlier_goal_left_out_counts(judged):
    first = list(judged.trial.harm)[-1]
    goal = Goal("fidelity", lambda _: 2.0, judged.trial.costs[first] / sum(judged.trial.costs.values()))
    assert affordable(judged.trial, goal, (first,)) == []


def test_targets_that_quantize_alike_measure_harm_once(judged, monkeypatch):
    def refused(*_):
        raise AssertionError("measured again")

    before = judged.trial.harm
    monkeypatch.setattr(pipeline, "harms", refused)
    assert replace(judged.trial).harm == before
    with pytest.raises(AssertionError, match="measured again"):
        replace(judged.trial, known={}).harm  # noqa: B018
