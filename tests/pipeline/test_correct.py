"""The correction stage on a small network: what it writes down is what every target computes with."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from calibration_loss import calibration_loss
from onnx import numpy_helper
from stored_table import read_table
from tiny_archive import write_archive, write_manifest

from trtasr.checkpoint.nemo import read_nemo
from trtasr.cli import main
from trtasr.engine.cache import parse_cache
from trtasr.engine.sessions import open_session
from trtasr.errors import UsageError
from trtasr.graph.center import center
from trtasr.graph.corrected import with_corrections
from trtasr.graph.cpu_qdq import quantize_for_cpu
from trtasr.graph.export import export_onnx, fold_batchnorm
from trtasr.graph.integer import first_read, integerize
from trtasr.models.load import build_model
from trtasr.pipeline import correct as correcting
from trtasr.pipeline.controls import quantized_graph
from trtasr.pipeline.lock import cache_text, write_table
from trtasr.pipeline.scales import table_from_features, walked
from trtasr.quant.propagate import correction, joined
from trtasr.quant.scales import quantize_weight
from trtasr.quant.synthesize import SynthesisSettings, synthesize
from trtasr.recipe import Quantization
from trtasr.values import CalibrationSet

BUNDLED = Path(__file__).parents[2] / "trtasr" / "zoo" / "quartznet.nemo"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Exported graph and synthetic features of a tiny QuartzNet."""
    folder = tmp_path_factory.mktemp("correct")
    checkpoint = read_nemo(write_archive(folder / "tiny.nemo"))
    model = build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    export_onnx(fold_batchnorm(model), folder / "model.onnx", 64)
    settings = SynthesisSettings(batches=2, batch_size=4, frames=120, steps=3)
    return folder / "model.onnx", synthesize(model, 64, settings)


def made(parts, **changes):
    return table_from_features(*parts, replace(Quantization(), **changes), {})


@pytest.fixture(scope="module", params=["qep", "fade"])
def table(parts, request):
    return made(parts, correction=request.param, weight_bits=4)


def initializers(model):
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def logits(model, features):
    session = open_session(model.SerializeToString())
    return [
        session.run(["log_probs"], {"features": x, "lengths": n})[0]
        for x, n in zip(features.batches, features.lengths, strict=True)
    ]


def sqnr(parts, table):
    exact, found = (
        logits(model, parts[1]) for model in (onnx.load(parts[0]), quantized_graph(onnx.load(parts[0]), table, ()))
    )
    noise = sum(float(np.square(a - b).sum()) for a, b in zip(exact, found, strict=True))
    return 10 * np.log10(sum(float(np.square(a).sum()) for a in exact) / noise)


def test_table_qdq_graph_cache_cpu_graph_and_integer_graph_agree_bit_for_bit(parts, table):
    fp32 = center(onnx.load(parts[0]), table.offsets)
    fp32 = with_corrections(fp32, table, [node.name for node in fp32.graph.node])
    stored, qdq = initializers(fp32), initializers(quantized_graph(onnx.load(parts[0]), table, ()))
    cpu = initializers(quantize_for_cpu(fp32, table, ()).model)
    integer = initializers(integerize(fp32, table))
    readers = {node.input[1]: node.name for node in fp32.graph.node if node.op_type == "Conv"}
    _, cached = parse_cache(cache_text(table))
    weights = [name for name in table.corrected if name in table.weights]
    assert len(weights) >= 5
    for name in weights:
        codes = quantize_weight(stored[name], table.weights[name].scales, table.weights[name].axis)
        scales = table.weights[name].scales.reshape([-1] + [1] * (codes.ndim - 1))
        np.testing.assert_array_equal(codes * scales, table.corrected[name])  # on the grid, exactly
        np.testing.assert_array_equal(qdq[f"{name}_int8"], codes)
        np.testing.assert_array_equal(integer[f"{name}_uint8"] - np.int16(128), codes)
        np.testing.assert_array_equal(qdq[f"{name}_scale"], table.weights[name].scales)
        found = cpu[f"{readers[name]}/weight"]
        np.testing.assert_array_equal(found if found.ndim == 3 else found.T[:, :, None], codes)
    assert integer["features_scale"] == table.activations[first_read(fp32, "features")].scale
    for name, entry in table.activations.items():
        assert cached[name] == entry.scale
        if f"{name}_scale" in qdq:
            assert qdq[f"{name}_scale"] == entry.scale


def test_the_files_hold_the_table_bit_for_bit(table, tmp_path):
    path, _ = write_table(tmp_path, "m", table)
    again = read_table(path)
    assert again.alphas == table.alphas
    assert again.corrected.keys() == table.corrected.keys()
    for name, values in table.corrected.items():
        np.testing.assert_array_equal(again.corrected[name], values)
    first = (tmp_path / "m.safetensors").read_bytes()
    write_table(tmp_path, "m", again)
    assert (tmp_path / "m.safetensors").read_bytes() == first
    (tmp_path / "m.safetensors").write_bytes(first[:-1])
    with pytest.raises(UsageError, match=r"not the weights of m\.json"):
        read_table(path)
    write_table(tmp_path, "m", replace(table, corrected={}))
    assert not (tmp_path / "m.safetensors").exists()


def test_strengths_are_per_layer_for_fade_and_one_for_qep(parts):
    fade, qep = (made(parts, correction=name, weight_bits=4).alphas for name in ("fade", "qep"))
    assert fade.keys() == qep.keys()
    assert set(qep.values()) == {0.5}
    assert len(set(fade.values())) > 1
    assert all(0 <= alpha <= 1 for alpha in fade.values())


def test_alpha_zero_is_the_bias_correction_alone(parts):
    plain, zero = made(parts, correction="bias"), made(parts, correction="qep", alpha=0.0)
    for name, values in plain.corrected.items():
        np.testing.assert_array_equal(zero.corrected[name], values)
    assert plain.alphas == {}


def test_corrections_help_on_their_own_features_at_four_bits(parts):
    found = {name: sqnr(parts, made(parts, correction=name, weight_bits=4)) for name in ("none", "bias", "qep", "fade")}
    assert found["none"] < found["qep"]
    assert found["none"] < found["fade"]
    assert sqnr(parts, made(parts)) > found["fade"]  # eight bits


def test_gptq_rounding_helps_too(parts):
    nearest, gptq = (
        sqnr(parts, made(parts, correction="bias", weight_bits=4, rounding=name)) for name in ("nearest", "gptq")
    )
    assert gptq > nearest


def test_the_plain_table_needs_no_walk():
    plain = Quantization(correction="none")
    assert not walked(plain)
    for change in ({"correction": "fade"}, {"rounding": "gptq"}, {"weight_bits": 6}):
        assert walked(replace(plain, **change))


def test_eight_bits_without_correction_walk_to_the_same_numbers(parts, monkeypatch):
    """Ranges differ, as layers read what earlier ones compute in INT8; weights and offsets do not."""
    plain = made(parts, correction="none")
    monkeypatch.setattr("trtasr.pipeline.scales.walked", lambda quantization: True)
    walked_table = made(parts, correction="none")
    assert walked_table.weights.keys() == plain.weights.keys()
    for name, entry in plain.weights.items():
        np.testing.assert_array_equal(walked_table.weights[name].scales, entry.scales)
    assert abs(sqnr(parts, walked_table) - sqnr(parts, plain)) < 1.5


@pytest.mark.parametrize("changes", [{}, {"correction": "fade"}, {"rounding": "gptq"}])
def test_weights_alone_leave_activations_as_they_are(parts, changes):
    """The graph of a simulation: that of full precision with other weights, no worse than with INT8 activations."""
    table, beside = (made(parts, weight_only=only, weight_bits=3, **changes) for only in (True, False))
    found = quantized_graph(onnx.load(parts[0]), table, ())
    assert table.activations == {}
    assert table.offsets == {}
    assert [node.op_type for node in found.graph.node] == [node.op_type for node in onnx.load(parts[0]).graph.node]
    for name, entry in table.weights.items():
        if name in table.corrected:
            assert np.abs(quantize_weight(initializers(found)[name], entry.scales, entry.axis)).max() == 3
    assert sqnr(parts, table) > sqnr(parts, beside) - 1


def test_weights_alone_at_eight_bits_are_walked_too(parts):
    table = made(parts, weight_only=True)
    assert walked(replace(Quantization(), weight_only=True))
    assert sqnr(parts, table) > sqnr(parts, made(parts)) + 3


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
    assert correcting.group_ranks(scores) == {"a1": 0.5, "a2": 1, "a3": 0.75, "b1": 0.25, "b2": 0}
    assert correcting.group_ranks({}) == {}


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


def test_no_half_loses_with_fade(parts, monkeypatch):
    """Every layer: neither by what the other half alone would choose, nor by what both have chosen."""
    judged = judged_layers(monkeypatch)
    made(parts, correction="fade")
    assert len(judged) == 6
    assert_no_loss_rises(judged)
    assert all(frames == [4 * 60, 4 * 60] for *_, frames in judged)  # 8 utterances of 120 frames, stride 2
    assert all(without[0] != without[1] for _, without, *_ in judged)


@pytest.mark.slow
def test_no_half_loses_with_fade_on_the_bundled_model(tmp_path, monkeypatch):
    checkpoint = read_nemo(BUNDLED)
    model = build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    export_onnx(fold_batchnorm(model), tmp_path / "model.onnx", 64)
    features = synthesize(model, 64, SynthesisSettings(batches=2, batch_size=2, frames=200, steps=5))
    judged = judged_layers(monkeypatch)
    made((tmp_path / "model.onnx", features), correction="fade", weight_bits=4)
    assert len(judged) == 24
    assert_no_loss_rises(judged)


@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_a_weight_leaves_the_mean_output_where_it_was(parts, monkeypatch, bits):
    """Pointwise layers on the quantized inputs they read, centered or not: mean(W x + b) before and after rounding."""
    checked = []
    real = correcting.corrected_layer

    def corrected_layer(given, layer, found, rank):
        replaced = real(given, layer, found, rank)
        weight, bias = (layer.constants[name] for name in layer.node.input[1:3])
        new_weight, new_bias = (replaced.constants[name] for name in layer.node.input[1:3])
        if weight.shape[2:] == (1,):
            mean = np.concatenate([x[0] for x in replaced.inputs], axis=1).mean(axis=1, dtype=np.float64)
            centered = layer.node.input[0] in given.offsets
            checked.append((centered, weight[:, :, 0] @ mean + bias, new_weight[:, :, 0] @ mean + new_bias))
        return replaced

    monkeypatch.setattr(correcting, "corrected_layer", corrected_layer)
    made(parts, correction="bias", weight_bits=bits)
    assert {centered for centered, *_ in checked} == {True, False}
    for _, before, after in checked:
        np.testing.assert_allclose(after, before, atol=1e-4)


@pytest.mark.parametrize("name", ["none", "bias", "fade"])
def test_the_walk_computes_what_the_qdq_graph_computes(parts, name, monkeypatch):
    found = []
    real = correcting.output_sqnr
    monkeypatch.setattr(correcting, "output_sqnr", lambda *both: found.append(real(*both)) or found[-1])
    table = made(parts, correction=name, weight_bits=4)
    assert found == [pytest.approx(sqnr(parts, table), abs=0.05)]


def test_silence_keeps_its_output(parts):
    """With weights on a grid of four bits too: zero features give what they gave, but for the bias correction."""
    exported, features = parts
    silent = CalibrationSet((np.zeros_like(features.batches[0]),), features.lengths[:1], "synthetic")
    table = made(parts, correction="none", weight_bits=4)
    exact, found = (
        logits(model, silent)[0] for model in (onnx.load(exported), quantized_graph(onnx.load(exported), table, ()))
    )
    loud = logits(onnx.load(exported), features)[0]
    assert np.abs(found - exact).max() < 0.2 * np.abs(loud - exact).max()


def test_an_excluded_layer_is_neither_quantized_nor_corrected(parts):
    name = "/encoder/encoder.1/mconv.1/conv/Conv"
    table = made(parts, correction="fade", exclude=(name,))
    assert name not in table.alphas
    assert not any("encoder.1.mconv.1" in key for key in table.corrected)


def test_one_utterance_has_no_second_half_to_judge_by(parts):
    exported, features = parts
    one = CalibrationSet((features.batches[0][:1],), (features.lengths[0][:1],), "synthetic")
    with pytest.raises(UsageError, match="at least two utterances"):
        table_from_features(exported, one, replace(Quantization(), correction="fade"), {})
    assert table_from_features(exported, one, replace(Quantization(), correction="bias"), {}).corrected


def test_compile_with_every_correction(parts, tmp_path, capsys):
    write_archive(tmp_path / "tiny.nemo")
    write_manifest(tmp_path)
    changes = [
        "calibration.batches=1",
        "calibration.steps=2",
        "calibration.seconds=1.5",
        "evaluation.bench_seconds=[0.5]",
        "evaluation.max_wer_increase=100",
    ]
    fast = ["--target", "cpu", "-q", *(part for change in changes for part in ("--set", change))]
    for name in ("bias", "qep", "fade"):
        out = tmp_path / name
        speech = ["--manifest", str(tmp_path / "manifest.json")]
        assert main(["compile", str(tmp_path / "tiny.nemo"), *speech, "-o", str(out), "--correction", name, *fast]) == 0
        scales = json.loads((out / "scales.json").read_text())
        assert bool(scales["alphas"]) == (name != "bias")
        assert scales["corrected"]
        assert scales["settings"]["quantization"]["correction"] == name
    capsys.readouterr()
    assert main(["compile", str(tmp_path / "tiny.nemo"), "--correction", "fad", "-o", str(tmp_path / "x"), "-q"]) == 2
    assert "use one of none, bias, qep, fade" in capsys.readouterr().err
