"""The correction stage: what it does to every layer, and that all else stays where it was."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from calibration_loss import calibration_loss
from exported import Tiny, exported
from onnx import numpy_helper

from trtasr.cli import main
from trtasr.pipeline import correct as correcting
from trtasr.pipeline.features import calibration_features
from trtasr.quant.propagate import correction, joined
from trtasr.recipe import Calibration, Quantization, Recipe
from trtasr.values import CalibrationSet

BUNDLED = Path(__file__).parents[2] / "trtasr" / "zoo" / "quartznet.nemo"

LINEAR = """<ir_version: 9, opset_import: ["" : 18]>
tiny (float[1, n, 4] x) => (float[1, n, 3] out, float[1, n, 3] shown)
<float[4, 3] w1, float[4, 3] w2, float[4, 3] w3, float[4, 3] w4, float[4, 3] w5, float[3] b1, float[3] b2, float[3] b3,
 float[3] b4, float[1] one>
{
    [own] p1 = MatMul(x, w1)
    s1 = Add(b1, p1)
    [shared] p2 = MatMul(x, w2)
    s2 = Add(p2, b2)
    [sharing] p3 = MatMul(x, w3)
    s3 = Add(p3, b2)
    [read] p4 = MatMul(x, w4)
    s4 = Add(p4, b3)
    t4 = Mul(p4, s4)
    [returned] shown = MatMul(x, w5)
    s5 = Add(shown, b4)
    [scalar] p6 = MatMul(x, w5)
    s6 = Add(p6, one)
    out = Sum(s1, s2, s3, t4, s5, s6)
}"""


def test_a_linear_layer_has_the_bias_that_nobody_else_reads():
    model = onnx.parser.parse_model(LINEAR)
    values = {name: np.arange(3, dtype=np.float32) for name in ("b1", "b2", "b3", "b4")}
    values |= {f"w{index}": np.ones((4, 3), np.float32) for index in range(1, 6)} | {"one": np.ones(1, np.float32)}
    del model.graph.initializer[:]
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    found = correcting.added_biases(model)
    assert found.keys() == {"own"}
    assert found["own"][0] == "b1"
    np.testing.assert_array_equal(found["own"][1], values["b1"])


def test_ranks_are_of_each_group():
    scores = {"a1": 5.0, "a2": 7.0, "b1": 1.0, "a3": 6.0, "b2": 0.0}
    assert correcting.group_ranks(scores, lambda name: name[0]) == {"a1": 0, "a2": 1, "a3": 0.5, "b1": 1, "b2": 0}
    assert correcting.group_ranks(scores, lambda _: "") == {"a1": 0.5, "a2": 1, "a3": 0.75, "b1": 0.25, "b2": 0}
    assert correcting.group_ranks({}, lambda _: "") == {}


def judged_layers(monkeypatch):
    """Checks of every layer's strength as the walk goes: filled with one tuple per layer."""
    found = []
    real = correcting.strength

    def strength(settings, weight, change, parts, rank):
        alpha = real(settings, weight, change, parts, rank)
        without = [calibration_loss(weight, np.zeros_like(weight), half) for half in parts]
        applied = [calibration_loss(weight, alpha * change, half) for half in parts]
        fitted = [alpha * correction(weight, half, settings.damping) for half in parts]
        other = [calibration_loss(weight, made, half) for made, half in zip(fitted, parts[::-1], strict=True)]
        together = np.array_equal(change, correction(weight, joined(parts), settings.damping))
        found.append((alpha, without, applied, other[::-1], together, [half.quantized.shape[2] for half in parts]))
        return alpha

    monkeypatch.setattr(correcting, "strength", strength)
    return found


def assert_no_loss_rises(judged):
    for alpha, without, applied, other, together, _ in judged:
        assert 0 <= alpha <= 1
        assert together
        for half in (0, 1):
            assert applied[half] <= without[half] * (1 + 1e-9)
            assert other[half] <= without[half] * (1 + 1e-9)


def test_no_half_loses_with_fade(ctc, monkeypatch):
    """Every layer: neither by what the other half alone would choose, nor by what both have chosen."""
    judged = judged_layers(monkeypatch)
    ctc.make(correction="fade")
    assert len(judged) == 6
    assert_no_loss_rises(judged)
    assert all(frames == [4 * 60, 4 * 60] for *_, frames in judged)  # 8 utterances of 120 frames, stride 2
    assert all(without[0] != without[1] for _, without, *_ in judged)


@pytest.mark.slow
def test_no_half_loses_with_fade_on_the_bundled_model(tmp_path, monkeypatch):
    graphs = exported(BUNDLED, tmp_path)
    recipe = Recipe("quartznet", "", calibration=Calibration(batches=2, batch_size=2, seconds=2.0, steps=5))
    judged = judged_layers(monkeypatch)
    Tiny(graphs, calibration_features("synthetic", recipe, graphs), Quantization(correction="none")).make(
        correction="fade", weight_bits=4
    )
    assert len(judged) == 24
    assert_no_loss_rises(judged)


def replaced_layers(monkeypatch):
    """Every layer with what replaces it, filled as the walk goes."""
    found, real = [], correcting.corrected_layer

    def corrected_layer(given, layer, *rest):
        replaced = real(given, layer, *rest)
        found.append((given, layer, replaced))
        return replaced

    monkeypatch.setattr(correcting, "corrected_layer", corrected_layer)
    return found


@pytest.mark.parametrize("changes", [{"rounding": "gptq"}, {"weight_bits": 4}])
def test_rounding_a_weight_leaves_the_mean_output_where_it_was(ctc, monkeypatch, changes):
    """Pointwise layers on the quantized inputs they read, centered or not: mean(W x + b) before and after rounding."""
    layers, centered = replaced_layers(monkeypatch), set()
    ctc.make(correction="bias", **changes)
    for given, layer, replaced in layers:
        weight, bias = (layer.constants[name] for name in layer.node.input[1:3])
        new_weight, new_bias = (replaced.constants[name] for name in layer.node.input[1:3])
        if weight.shape[2:] == (1,):
            centered.add(layer.node.input[0] in given.offsets)
            mean = np.concatenate([x[0] for x in replaced.inputs], axis=1).mean(axis=1, dtype=np.float64)
            wanted = weight[:, :, 0] @ mean + bias
            np.testing.assert_allclose(new_weight[:, :, 0] @ mean + new_bias, wanted, atol=1e-4)
    assert centered == {True, False}


def test_rounding_a_linear_layer_leaves_its_mean_output_where_it_was(attention, monkeypatch):
    layers, checked = replaced_layers(monkeypatch), 0
    attention.make(correction="bias", weight_bits=4)
    for given, layer, replaced in layers:
        if layer.node.name in given.biases:
            checked += 1
            (name, bias), weight = given.biases[layer.node.name], layer.node.input[1]
            mean = np.concatenate([x[0] for x in replaced.inputs]).mean(axis=0, dtype=np.float64)
            wanted = mean @ layer.constants[weight] + bias
            np.testing.assert_allclose(mean @ replaced.constants[weight] + replaced.constants[name], wanted, atol=1e-4)
    assert checked == 2 * 5 + 2 * 8  # keys have no bias, nor have the logits


def test_silence_keeps_its_output(ctc):
    """With weights on a grid of four bits too: zero features give what they gave, but for the bias correction."""
    features = ctc.features
    silent = CalibrationSet((np.zeros_like(features.batches[0]),), features.lengths[:1], "synthetic")
    table = ctc.table(correction="none", weight_bits=4)
    quiet = Tiny(ctc.exported, silent, ctc.plain)
    exact, found, loud = (np.stack(side[:4]) for side in (quiet.judged(), quiet.judged(table), ctc.judged()))
    assert np.abs(found - exact).max() < 0.2 * np.abs(loud - exact).max()


def test_compile_with_every_correction(tiny_folder, tmp_path, capsys):
    changes = [
        "calibration.batches=1",
        "calibration.steps=2",
        "calibration.seconds=1.5",
        "evaluation.bench_seconds=[0.5]",
        "evaluation.max_wer_increase=100",
    ]
    fast = ["--target", "cpu", "-q", *(part for change in changes for part in ("--set", change))]
    model, speech = str(tiny_folder / "tiny.nemo"), ["--manifest", str(tiny_folder / "manifest.json")]
    for name in ("bias", "qep", "fade"):
        out = tmp_path / name
        assert main(["compile", model, *speech, "-o", str(out), "--correction", name, *fast]) == 0
        scales = json.loads((out / "scales.json").read_text())
        assert bool(scales["alphas"]) == (name != "bias")
        assert scales["corrected"]
        assert scales["settings"]["quantization"]["correction"] == name
    capsys.readouterr()
    assert main(["compile", model, "--correction", "fad", "-o", str(tmp_path / "x"), "-q"]) == 2
    assert "use one of none, bias, qep, fade" in capsys.readouterr().err
