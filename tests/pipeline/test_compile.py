"""The whole pipeline on tiny checkpoints: what a bundle holds, and that every consumer reads one scale table."""

import json
import logging
import re
import shutil
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import numpy as np
import onnx
import pytest
import torch
from compiling import CHEAP, compiling, read, run
from exported import initializers
from golden import whisper_configs
from stored_table import table_from_json
from tiny_archive import config, write_manifest, write_members
from whisper_folder import write_folder

from trtasr.audio.features import FrontendConfig, MelFrontend
from trtasr.audio.manifest import read_manifest
from trtasr.audio.read import read_audio
from trtasr.checkpoint.read import read_checkpoint
from trtasr.engine.cache import parse_cache
from trtasr.errors import RecipeError
from trtasr.graph.dynamic import UNIT_SCALE
from trtasr.graph.rotate import rotated_layers
from trtasr.graph.tensors import activation_tensors, weight_tensors
from trtasr.models.jasper import JasperCtc
from trtasr.pipeline import compile as pipeline
from trtasr.pipeline.compile import rehearse
from trtasr.pipeline.job import Options
from trtasr.pipeline.opened import open_engine
from trtasr.quant.rotation import rotated
from trtasr.quant.scales import weight_scale
from trtasr.recipe import Quantization, Recipe

FILES = {
    *("scales.json", "calibration.cache", "layers.json", "bench.json", "wer.json", "report.html"),
    *("comparison.json", "comparison_inputs.json"),
}
OWN_FILES = {
    "model": {"frontend.safetensors", "model.integer.onnx", "model.integer.qdq.onnx"},
    "encoder": {"tokenizer.json", "comparison_decoder.json", "comparison_decoder_inputs.json"},
}
QDQ = {"model": (6, 6), "encoder": (9, 12 + 4), "decoder": (13, 16 + 1)}  # activations and weights
CPU = {"model": {"QLinearConv": 6, "MatMulIntegerToFloat": 3}, "encoder": {"MatMulIntegerToFloat": 16}}
CPU["decoder"] = {"MatMulIntegerToFloat": 17}
LEFT = {  # target -> rules of layers that are not in INT8
    "model": {"t4-rtx": {"depthwise": 3}, "cpu": {}},
    "encoder": {"t4-rtx": {"stem": 2, "activations": 12}, "cpu": {"gelu": 2, "activations": 12}},
}
INT8 = {"model": {"t4-rtx": 6, "cpu": 9}, "encoder": {"t4-rtx": 33, "cpu": 33}}


@pytest.fixture(params=["ctc_bundle", "pair_bundle"])
def made(request):
    """A checkpoint with its bundle, of either kind."""
    return request.getfixturevalue(request.param)


def table_of(bundle):
    return table_from_json(read(bundle, "scales.json"))


# what a bundle holds


def test_the_bundle_is_complete_and_sealed(made):
    wanted = {f"{part}.{kind}.onnx" for part in made.parts for kind in ("fp32", "qdq")}
    wanted |= {name for part in made.parts for name in (f"t4-rtx/{part}.plan", f"cpu/{part}.int8.onnx")}
    wanted |= FILES | OWN_FILES[made.parts[0]]
    assert set(read(made.bundle, "bundle.json")["files"]) == wanted
    files = {path.relative_to(made.bundle).as_posix() for path in made.bundle.rglob("*") if path.is_file()}
    assert files == wanted | {"bundle.json"}
    assert not [path for path in made.bundle.parent.iterdir() if path.name.startswith(".")]


def test_the_sidecar_says_how_to_run_it(made):
    sidecar, checkpoint = read(made.bundle, "bundle.json"), read_checkpoint(made.checkpoint)
    assert (sidecar["family"], sidecar["outcome"], sidecar["problems"]) == (checkpoint.family, "PASSED", [])
    assert tuple(sidecar["vocabulary"]) == checkpoint.vocabulary
    rules = checkpoint.generation
    assert sidecar["generation"] == (json.loads(json.dumps(asdict(rules))) if rules else None)
    assert sidecar["graphs"] == {
        "fp32": [f"{part}.fp32.onnx" for part in made.parts],
        "t4-rtx": [f"{part}.qdq.onnx" for part in made.parts],
        "cpu": [f"cpu/{part}.int8.onnx" for part in made.parts],
    }
    for target, engine in sidecar["engines"].items():
        paths = [made.bundle / part["path"] for part in engine["parts"]]
        assert [path.name.partition(".")[0] for path in paths] == list(made.parts), target
        assert [part["size_bytes"] for part in engine["parts"]] == [path.stat().st_size for path in paths]
        assert (engine["label"], engine["precision"]) == (f"int8 {target}", "int8")
    assert {part["capability"] for part in sidecar["engines"]["t4-rtx"]["parts"]} == {"sm75"}
    assert set(sidecar["results"]) == {"fp32", "t4-rtx", "cpu"}
    fp32 = [made.bundle / f"{part}.fp32.onnx" for part in made.parts]
    assert sidecar["results"]["fp32"]["size_bytes"] == sum(path.stat().st_size for path in fp32)
    assert sidecar["results"]["t4-rtx"]["p50_ms"] is None  # no number for a device that is not here
    assert sidecar["comparison"]["features"] == "audio"
    assert 0 < sidecar["parity"] < 1e-3


def test_the_sidecar_of_a_ctc_model(ctc_bundle):
    sidecar = read(ctc_bundle.bundle, "bundle.json")
    assert sidecar["architecture"] == "QuartzNet1x2"
    page = (ctc_bundle.bundle / "report.html").read_text(encoding="utf-8")
    assert "<li><span>model</span>QuartzNet1x2</li>" in page
    assert sidecar["most_frames"] is None
    assert len(sidecar["vocabulary"]) == 28
    assert sidecar["tokenizer"] == {"kind": "characters", "file": ""}
    assert (sidecar["frontend"]["kind"], sidecar["frontend"]["features"]) == ("mel", 64)


def test_the_sidecar_of_an_encoder_decoder(pair_bundle):
    sidecar = read(pair_bundle.bundle, "bundle.json")
    assert sidecar["most_frames"] == 80
    shape = {"sample_rate": 1000, "features": 16, "n_fft": 40, "hop_length": 25, "pad_seconds": 2}
    assert sidecar["frontend"] == {"kind": "log_mel", **shape}
    assert sidecar["tokenizer"] == {"kind": "huggingface", "file": "tokenizer.json"}
    held, own = (folder / "tokenizer.json" for folder in (pair_bundle.bundle, pair_bundle.checkpoint))
    assert held.read_bytes() == own.read_bytes()


def test_the_sidecar_says_when_it_was_built(made):
    age = datetime.now(UTC) - datetime.strptime(read(made.bundle, "bundle.json")["built"], "%Y-%m-%dT%H:%M:%S%z")
    assert timedelta() <= age < timedelta(hours=1)


def test_the_report_says_how_to_make_the_bundle_again(made):
    page = (made.bundle / "report.html").read_text(encoding="utf-8")
    assert "calibration.batches=" in page
    assert "evaluation.manifest=" in page


def test_the_bundle_hears_with_the_checkpoints_own_mel_bank(ctc_bundle):
    opened = open_engine(ctc_bundle.bundle)
    (item, *_) = opened.heard(read_manifest(ctc_bundle.manifest))
    audio = torch.from_numpy(read_audio(ctc_bundle.checkpoint.parent / "0.wav", 16000))[None]
    features, _ = MelFrontend(FrontendConfig(highfreq=7000, n_fft=512))(audio, torch.tensor([audio.shape[1]]))
    np.testing.assert_array_equal(item.features, features[0, :, : item.frames])


def test_times_are_kept_and_of_a_decoder_those_of_its_tokens(made):
    rows = {row["target"]: row for row in read(made.bundle, "bench.json")}
    generates = len(made.parts) > 1
    for target in ("fp32", "cpu"):
        (latency,) = rows[target]["latencies"]
        assert (latency["tokens"], latency["audio_seconds"]) == (2 * generates, 0.5)
        assert 0 < latency["encoder_ms"] < latency["p50_ms"] if generates else latency["encoder_ms"] == 0
    assert rows["t4-rtx"]["latencies"] == []


def test_the_closing_lines_name_engine_tokens_and_outcome(made):
    lines = made.printed.splitlines()
    assert lines[-1].startswith("PASSED | ")
    assert f"engine={made.bundle}/t4-rtx/{made.parts[0]}.plan | wer_fp32=" in lines[-1]
    assert "wer_int8_cpu=" in lines[-1]
    spoken = [line.partition(": encoder ")[0] for line in lines if "ms per token (2 tokens)" in line]
    assert spoken == (["fp32 (reference)", "int8 cpu"] if len(made.parts) > 1 else [])
    unit = "tokens" if len(made.parts) > 1 else "frames"
    assert any(f"{unit} have the same token" in line for line in lines)


# one scale table


def test_one_table_has_the_scales_of_all_graphs(made):
    table = table_of(made.bundle)
    models = [onnx.load(made.bundle / f"{part}.fp32.onnx") for part in made.parts]
    assert table.activations.keys() == {name for model in models for name in activation_tensors(model)}
    assert table.weights.keys() == {item.name for model in models for item in weight_tensors(model)}
    _, cached = parse_cache((made.bundle / "calibration.cache").read_text(encoding="utf-8"))
    assert {n: s.tobytes() for n, s in cached.items()} == {n: e.scale.tobytes() for n, e in table.activations.items()}


def test_qdq_nodes_carry_the_scales_of_the_table_bit_for_bit(made):
    """Those of weights, as they are smoothed and rotated; activations are divided by their magnitude and share one."""
    table = table_of(made.bundle)
    for part in made.parts:
        model, original = (onnx.load(made.bundle / f"{part}.{kind}.onnx") for kind in ("qdq", "fp32"))
        constants, stored = initializers(model), initializers(original)
        turned = rotated_layers(original, table, {node.name for node in original.graph.node})
        layers = {node.input[1]: node for node in original.graph.node if len(node.input) > 1}
        quantized = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
        integers = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants]
        assert (len(quantized), len(integers)) == QDQ[part]
        made_by = {name: node for node in model.graph.node for name in node.output}
        for node in quantized:
            assert constants[node.input[1]].tobytes() == UNIT_SCALE.tobytes()
            assert made_by[node.input[0]].op_type == "Div"
        for node in integers:
            name = node.output[0].removesuffix("_dequantized").removesuffix("_int8_columns").removesuffix("_rotated")
            assert constants[node.input[0]].dtype == np.int8
            entry, layer = table.weights[name], layers[name]
            weight, divisor = stored[name], constants.get(f"{layer.input[0]}_smoothing")
            if divisor is not None:
                weight = weight * (1 / divisor)[:, None]  # linear layers all
            weight = rotated(weight, 1 - entry.axis) if layer.name in turned else weight
            assert constants[node.input[1]].tobytes() == weight_scale(weight, entry.axis).scales.tobytes()


SCALES_OF = {"QLinearConv": (1, 2, 4), "MatMulIntegerToFloat": (2, 4, 3)}  # inputs: scale, zero point, weight scales


def test_the_cpu_graphs_read_the_same_table(made):
    """Input and weight scales of each integer layer are those of its FP32 node in the table."""
    table = table_of(made.bundle)
    for part in made.parts:
        originals = {node.name: node for node in onnx.load(made.bundle / f"{part}.fp32.onnx").graph.node}
        model = onnx.load(made.bundle / f"cpu/{part}.int8.onnx")
        constants = initializers(model)
        nodes = [node for node in model.graph.node if node.op_type in SCALES_OF]
        assert Counter(node.op_type for node in nodes) == CPU[part]
        for node in nodes:
            original = originals[node.name]
            scale, zero, weights = (constants[node.input[place]] for place in SCALES_OF[node.op_type])
            entry = table.activations[original.input[0]]
            expected = entry.unsigned_scale if zero == 0 else entry.scale
            assert scale.tobytes() == expected.tobytes(), node.name
            np.testing.assert_array_equal(weights, table.weights[original.input[1]].scales)


@pytest.mark.parametrize("target", ["t4-rtx", "cpu"])
def test_layers_say_which_run_in_int8_and_decisions_by_which_rule(made, target):
    decisions = read(made.bundle, "scales.json")["decisions"][target]
    left = Counter(item["rule"] for item in decisions if not item["quantized"])
    assert left == LEFT[made.parts[0]][target]
    quantized = {item["node"] for item in decisions if item["quantized"]}
    assert len(quantized) == INT8[made.parts[0]][target]
    rows = read(made.bundle, "layers.json")[target]
    assert quantized <= {name for row in rows for name in row["onnx_nodes"]}
    weighted = [row for row in rows if row["macs"]]
    if target == "t4-rtx":
        assert {row["operands"][0] for row in weighted if not row["int8"]} == {"Half"}
    if len(made.parts) == 1:
        assert sum(row["int8"] for row in weighted) == len(quantized)


def test_corrected_weights_reach_every_graph(pair_bundle, tmp_path):
    code, _ = compiling(pair_bundle.checkpoint, tmp_path / "out", "--target", "cpu", "--correction", "fade")
    assert code == 0
    table = table_of(tmp_path / "out")
    assert len(table.alphas) == 18 + 17
    changed = 0
    for part in pair_bundle.parts:
        names = f"{part}.fp32.onnx", f"cpu/{part}.int8.onnx"
        exact, cpu = (onnx.load(tmp_path / "out" / name) for name in names)
        weights = initializers(exact)
        integers = [values for values in initializers(cpu).values() if values.dtype == np.int8]
        for node in exact.graph.node:
            if node.name in table.alphas and node.op_type == "MatMul":
                plain = np.rint(weights[node.input[1]] / table.weights[node.input[1]].scales)
                same = any(np.array_equal(values, plain) for values in integers)
                assert same == (table.alphas[node.name] == 0) or table.alphas[node.name] < 0.1, node.name
                changed += not same
    assert changed > 10


# again, and otherwise


def test_a_second_compile_gives_the_same_engine_and_replaces_the_first(made, tmp_path):
    before = read(made.bundle, "bundle.json")["files"]
    out = shutil.copytree(made.bundle, tmp_path / "out")
    (out / "report.html").write_text("old")
    assert compiling(made.checkpoint, out, "--manifest", made.manifest, *made.flags)[0] == 0
    after = read(out, "bundle.json")["files"]
    same = [f"{part}.{kind}.onnx" for part in made.parts for kind in ("fp32", "qdq")]
    same += [name for part in made.parts for name in (f"t4-rtx/{part}.plan", f"cpu/{part}.int8.onnx")]
    for name in (*same, "scales.json", "calibration.cache"):
        assert before[name] == after[name], name
    assert (out / "report.html").read_text(encoding="utf-8") != "old"


@pytest.fixture
def asked(monkeypatch):
    """Which calibration features were asked for."""
    methods, real = [], pipeline.calibration_features
    monkeypatch.setattr(pipeline, "calibration_features", lambda *given: methods.append(given[0]) or real(*given))
    return methods


def test_committed_tables_are_reused_only_for_the_same_checkpoint_and_settings(made, tmp_path, asked, caplog):
    calib, out = tmp_path / "calib", tmp_path / "out"
    code, printed = run("calibrate", made.checkpoint, "--calib-dir", calib, *CHEAP)
    assert code == 0
    assert "PASSED" in printed
    assert {path.name for path in calib.iterdir()} == {"tiny.json", "tiny.cache", "tiny.safetensors"}
    assert asked == ["synthetic"]
    again = ["--target", "cpu", "--calib-dir", calib]
    assert compiling(made.checkpoint, out, *again)[0] == 0
    assert asked == ["synthetic"]
    assert table_of(out).activations == table_from_json(read(calib, "tiny.json")).activations
    caplog.set_level(logging.INFO)
    assert compiling(made.checkpoint, out, *again, "--set", "calibration.seed=9")[0] == 0
    assert asked == ["synthetic"] * 2
    assert "calibrating anew" in caplog.text


def test_a_rehearsal_refuses_what_a_compile_would(ctc_bundle, tmp_path):
    recipe = Recipe("tiny", str(ctc_bundle.checkpoint), quantization=Quantization(weight_only=True))
    with pytest.raises(RecipeError, match="weight_only"):
        rehearse(recipe, Options(tmp_path / "out"))


def test_without_speech_engines_are_compared_on_synthetic_features(made, tmp_path):
    code, printed = compiling(made.checkpoint, tmp_path / "out", "--target", "t4-rtx")
    assert code == 0
    sidecar = read(tmp_path / "out", "bundle.json")
    assert sidecar["comparison"]["features"] == "synthetic"
    assert sidecar["comparison"]["unit"] == ("tokens" if len(made.parts) > 1 else "frames")
    assert sidecar["results"]["fp32"]["wer"] is None
    assert read(tmp_path / "out", "wer.json") == {}
    plan = rf"t4-rtx/{made.parts[0]}\.plan"
    assert re.fullmatch(rf"PASSED \| \d+ s \| engine=.*/out/{plan}", printed.splitlines()[-1])


def test_what_is_refused_leaves_nothing(made, tmp_path, capsys):
    flags = "--target", "cpu", "--set", "quantization.exclude=['/encoder/x']"
    assert compiling(made.checkpoint, tmp_path / "out", *flags)[0] == 2
    assert "matches no Conv, MatMul or Gemm node" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_missed_gate_exits_3_and_keeps_the_marked_bundle(ctc_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "missed_gates", lambda *_: ("int8 cpu: WER too high",))
    code, printed = compiling(ctc_bundle.checkpoint, tmp_path / "out", "--target", "cpu")
    assert code == 3
    assert "gate missed: int8 cpu" in printed
    assert printed.splitlines()[-1].startswith("FAILED | ")
    assert read(tmp_path / "out", "bundle.json")["outcome"] == "FAILED"
    assert "int8 cpu: WER too high" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_reference_that_recognizes_too_little_fails_compile_and_bench(ctc_bundle, tmp_path, capsys):
    """An untrained network, and 15 words none of which it says."""
    spoken = "--manifest", write_manifest(tmp_path, 5, text="completely different words")
    assert compiling(ctc_bundle.checkpoint, tmp_path / "out", *spoken, "--target", "cpu")[0] == 3
    error = capsys.readouterr().err
    assert "the FP32 reference recognizes too little to hold INT8 against: WER" in error
    assert "repair: look at, in this order: language" in error
    assert not (tmp_path / "out").exists()
    assert run("bench", ctc_bundle.bundle, *spoken, "--seconds", "1", "-q")[0] == 3
    assert "recognizes too little" in capsys.readouterr().err


def test_a_model_that_says_nothing_fails_the_run(pair_bundle, tmp_path, capsys):
    silent = whisper_configs.GENERATIONS["named"] | {"suppress_tokens": list(range(88))}
    folder = write_folder(tmp_path / "tiny", generation_config=silent)
    code, _ = compiling(folder, tmp_path / "out", "--target", "cpu", "--manifest", pair_bundle.manifest)
    assert code == 3
    assert "all 2 transcripts are empty" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_transcripts_are_kept_as_given_and_every_figure_names_its_normalizer(ctc_bundle, tmp_path):
    out, spoken = tmp_path / "out", write_manifest(tmp_path, 3, text="One, TWO!")
    flags = "--manifest", spoken, "--json", "--target", "cpu", "--set", "evaluation.normalizer=unicode-v1"
    code, printed = compiling(ctc_bundle.checkpoint, out, *flags)
    assert code == 0
    figures = [
        json.loads(printed)["results"]["fp32"],
        read(out, "bundle.json")["results"]["cpu"],
        read(out, "bench.json")[0],
    ]
    assert {(row["normalizer"], row["measure"]) for row in figures} == {("unicode-v1", "WER")}
    assert all(row["wer"] > 0 and row["cer"] > 0 for row in figures)
    scored = read(out, "wer.json")["fp32"]
    assert (scored["normalizer"], scored["utterances"][0]["text"]) == ("unicode-v1", "One, TWO!")
    assert scored["utterances"][0]["reference"] == "one two"
    assert "normalizer unicode-v1" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_layer_of_one_channel(tmp_path, index):
    """Its scale per channel is one per tensor: every graph is made all the same."""
    settings = config()
    settings["encoder"]["jasper"][index]["filters"] = 1
    weights = JasperCtc(settings["encoder"], settings["decoder"]).state_dict()
    model = write_members(tmp_path / "tiny.nemo", settings, weights)
    assert compiling(model, tmp_path / "out", "--target", "cpu")[0] == 0
    assert (tmp_path / "out" / "model.integer.onnx").is_file()
