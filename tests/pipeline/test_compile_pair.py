"""The whole pipeline on a tiny Hugging Face folder: two graphs, one scale table, one bundle."""

import contextlib
import json
import logging
import re
from dataclasses import asdict

import numpy as np
import onnx
import pytest
import soundfile
import whisper_folder
from compiling_pair import CHEAP, HALVES, compiled_bundle, compiling, read, run, speech_folder
from golden import whisper_configs
from onnx import TensorProto, numpy_helper
from stored_table import table_from_json
from whisper_folder import write_folder

from trtasr.checkpoint.read import read_checkpoint
from trtasr.engine.cache import parse_cache
from trtasr.graph.own_part import own_part
from trtasr.graph.tensors import activation_tensors, weight_tensors
from trtasr.pipeline import compile as compiling_stage
from trtasr.pipeline import job
from trtasr.targets import T4, TARGETS
from trtasr.targets.place import lower


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return speech_folder(tmp_path_factory.mktemp("compile"))


@pytest.fixture(scope="module")
def compiled(folder):
    return compiled_bundle(folder)


def table_of(bundle):
    return table_from_json(read(bundle, "scales.json"))


def stored(model):
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def test_the_bundle_is_complete_and_sealed(compiled):
    wanted = {f"{half}.{kind}.onnx" for half in HALVES for kind in ("fp32", "qdq")}
    wanted |= {f"t4-rtx/{half}.plan" for half in HALVES} | {f"cpu/{half}.int8.onnx" for half in HALVES}
    wanted |= {
        "scales.json",
        "calibration.cache",
        "layers.json",
        "bench.json",
        "wer.json",
        "report.html",
        "comparison.json",
        "comparison_inputs.json",
        "comparison_decoder.json",
        "comparison_decoder_inputs.json",
    }
    wanted |= {"tokenizer.json"}
    assert set(read(compiled, "bundle.json")["files"]) == wanted
    files = {path.relative_to(compiled).as_posix() for path in compiled.rglob("*") if path.is_file()}
    assert files == wanted | {"bundle.json"}


def test_the_sidecar_says_how_to_run_it(compiled, folder):
    sidecar, checkpoint = read(compiled, "bundle.json"), read_checkpoint(folder / "tiny")
    assert (sidecar["family"], sidecar["outcome"], sidecar["problems"]) == ("whisper", "PASSED", [])
    assert sidecar["generation"] == json.loads(json.dumps(asdict(checkpoint.generation)))
    assert sidecar["most_frames"] == 80
    assert sidecar["frontend"] == {
        "kind": "log_mel",
        "sample_rate": 1000,
        "features": 16,
        "n_fft": 40,
        "hop_length": 25,
        "pad_seconds": 2,
    }
    assert tuple(sidecar["vocabulary"]) == checkpoint.vocabulary
    assert sidecar["tokenizer"] == {"kind": "huggingface", "file": "tokenizer.json"}
    assert (compiled / "tokenizer.json").read_bytes() == (folder / "tiny" / "tokenizer.json").read_bytes()
    assert sidecar["graphs"] == {
        "fp32": ["encoder.fp32.onnx", "decoder.fp32.onnx"],
        "t4-rtx": ["encoder.qdq.onnx", "decoder.qdq.onnx"],
        "cpu": ["cpu/encoder.int8.onnx", "cpu/decoder.int8.onnx"],
    }
    for target, engine in sidecar["engines"].items():
        paths = [compiled / part["path"] for part in engine["parts"]]
        assert [path.name.partition(".")[0] for path in paths] == list(HALVES), target
        assert [part["size_bytes"] for part in engine["parts"]] == [path.stat().st_size for path in paths]
        assert (engine["label"], engine["precision"]) == (f"int8 {target}", "int8")
    assert sidecar["results"]["fp32"]["size_bytes"] == sum(
        (compiled / f"{half}.fp32.onnx").stat().st_size for half in HALVES
    )
    assert sidecar["results"]["t4-rtx"]["p50_ms"] is None  # no number for a device that is not here
    assert sidecar["comparison"]["features"] == "audio"
    assert 0 < sidecar["parity"] < 1e-3


def test_times_of_encoder_and_tokens_are_kept(compiled):
    rows = {row["target"]: row for row in read(compiled, "bench.json")}
    for target in ("fp32", "cpu"):
        (latency,) = rows[target]["latencies"]
        assert (latency["tokens"], latency["audio_seconds"]) == (2, 0.5)
        assert 0 < latency["encoder_ms"] < latency["p50_ms"]
    assert rows["t4-rtx"]["latencies"] == []


def test_one_table_has_the_scales_of_both_graphs(compiled):
    table = table_of(compiled)
    models = [onnx.load(compiled / f"{half}.fp32.onnx") for half in HALVES]
    assert table.activations.keys() == {name for model in models for name in activation_tensors(model)}
    assert table.weights.keys() == {item.name for model in models for item in weight_tensors(model)}
    _, cached = parse_cache((compiled / "calibration.cache").read_text(encoding="utf-8"))
    assert {n: s.tobytes() for n, s in cached.items()} == {n: e.scale.tobytes() for n, e in table.activations.items()}


@pytest.mark.parametrize(("half", "activations", "weights"), [("encoder", 9, 12 + 4), ("decoder", 13, 16 + 1)])
def test_qdq_nodes_carry_the_scales_of_the_table_bit_for_bit(compiled, half, activations, weights):
    table, model = table_of(compiled), onnx.load(compiled / f"{half}.qdq.onnx")
    constants = stored(model)
    quantized = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantized) == activations
    for node in quantized:
        assert constants[node.input[1]].tobytes() == table.activations[node.input[0]].scale.tobytes()
    integers = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants]
    assert len(integers) == weights
    for node in integers:
        name = node.output[0].removesuffix("_dequantized")
        assert constants[node.input[0]].dtype == np.int8
        assert constants[node.input[1]].tobytes() == table.weights[name].scales.tobytes()


@pytest.mark.parametrize(("half", "products"), [("encoder", 16), ("decoder", 17)])
def test_the_cpu_graphs_read_the_same_table(compiled, half, products):
    table, constants = table_of(compiled), stored(onnx.load(compiled / f"cpu/{half}.int8.onnx"))
    originals = {node.name: node for node in onnx.load(compiled / f"{half}.fp32.onnx").graph.node}
    nodes = [n for n in onnx.load(compiled / f"cpu/{half}.int8.onnx").graph.node if n.op_type == "MatMulIntegerToFloat"]
    assert len(nodes) == products
    for node in nodes:
        original = originals[node.name]
        entry = table.activations[original.input[0]]
        expected = entry.unsigned_scale if constants[node.input[4]] == 0 else entry.scale
        assert constants[node.input[2]].tobytes() == expected.tobytes(), node.name
        np.testing.assert_array_equal(constants[node.input[3]], table.weights[original.input[1]].scales)


def test_the_graph_of_the_decoders_plan_keeps_its_cache_in_half(compiled, tmp_path):
    source = tmp_path / "decoder.fp32.onnx"
    source.write_bytes((compiled / source.name).read_bytes())
    table = own_part(table_of(compiled), onnx.load(source))
    graph = onnx.load(lower(source, table, TARGETS["t4-rtx"], ()).graph).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    halves = {name for name, kind in types.items() if kind == TensorProto.FLOAT16}
    assert halves == {
        f"{kind}_{part}.{layer}"
        for kind in ("cross", "past", "present")
        for part in ("key", "value")
        for layer in (0, 1)
    }
    assert types["logits"] == types["token_bias"] == TensorProto.FLOAT


def test_layers_of_both_graphs_are_listed(compiled):
    for target, rule in (("t4-rtx", "kernel"), ("cpu", "gelu")):
        nodes = {name for row in read(compiled, "layers.json")[target] for name in row["onnx_nodes"]}
        assert {"/encoder/layers.0/fc1/MatMul", "/decoder/layers.1/encoder_attn/k_proj/MatMul"} <= nodes
        decisions = read(compiled, "scales.json")["decisions"][target]
        assert sum(item["quantized"] for item in decisions) == 12 + 4 + 16 + 1
        left = {item["node"]: item["rule"] for item in decisions if not item["quantized"]}
        assert {node for node, why in left.items() if why == rule} == {"/encoder/conv1/Conv", "/encoder/conv2/Conv"}
        assert sum(why == "activations" for why in left.values()) == len(left) - 2 == 4 + 8


def test_the_closing_lines_name_encoder_tokens_and_outcome(compiled, folder):
    lines = (folder / "printed").read_text(encoding="utf-8").splitlines()
    assert lines[-1].startswith("PASSED | ")
    assert f"engine={compiled}/t4-rtx/encoder.plan | wer_fp32=" in lines[-1]
    assert "wer_int8_cpu=" in lines[-1]
    spoken = [line for line in lines if "ms per token (2 tokens)" in line]
    assert [line.partition(": encoder ")[0] for line in spoken] == ["fp32 (reference)", "int8 cpu"]
    assert any("tokens have the same token" in line for line in lines)


def test_a_second_compile_gives_the_same_graphs(compiled, folder, tmp_path):
    code, _ = compiling(folder, tmp_path / "out", "--target", "cpu", "--manifest", folder / "manifest.json")
    assert code == 0
    first, second = (read(bundle, "bundle.json")["files"] for bundle in (compiled, tmp_path / "out"))
    for name in (
        *(f"{half}.fp32.onnx" for half in HALVES),
        *(f"cpu/{half}.int8.onnx" for half in HALVES),
        "calibration.cache",
    ):
        assert first[name] == second[name], name


def test_without_speech_engines_are_compared_on_synthetic_features(folder, tmp_path):
    code, printed = compiling(folder, tmp_path / "out", "--target", "t4-rtx")
    assert code == 0
    sidecar = read(tmp_path / "out", "bundle.json")
    assert sidecar["comparison"]["features"] == "synthetic"
    assert sidecar["comparison"]["unit"] == "tokens"
    assert sidecar["results"]["fp32"]["wer"] is None
    assert read(tmp_path / "out", "wer.json") == {}
    assert re.fullmatch(r"PASSED \| \d+ s \| engine=.*/out/t4-rtx/encoder\.plan", printed.splitlines()[-1])


def test_corrected_weights_reach_both_graphs(folder, tmp_path):
    code, _ = compiling(folder, tmp_path / "out", "--target", "cpu", "--correction", "fade")
    assert code == 0
    table = table_of(tmp_path / "out")
    assert len(table.alphas) == 18 + 17
    changed = 0
    for half in HALVES:
        exact, cpu = (onnx.load(tmp_path / "out" / name) for name in (f"{half}.fp32.onnx", f"cpu/{half}.int8.onnx"))
        integers = [values for values in stored(cpu).values() if values.dtype == np.int8]
        for node in exact.graph.node:
            if node.name in table.alphas and node.op_type == "MatMul":
                plain = np.rint(stored(exact)[node.input[1]] / table.weights[node.input[1]].scales)
                same = any(np.array_equal(values, plain) for values in integers)
                assert same == (table.alphas[node.name] == 0) or table.alphas[node.name] < 0.1, node.name
                changed += not same
    assert changed > 10


def test_controls_show_all_three_calibrations(folder, tmp_path):
    code, printed = compiling(
        folder, tmp_path / "out", "--target", "cpu", "--controls", "--manifest", folder / "manifest.json"
    )
    assert code == 0
    for label in ("random noise", "synthetic (data-free)", "real audio (the evaluation set itself)"):
        assert label in printed
    assert [item["wer"] is not None for item in read(tmp_path / "out", "bundle.json")["controls"]] == [True] * 3


def test_a_committed_table_is_reused_for_the_same_folder_and_settings(folder, tmp_path, caplog):
    calib = tmp_path / "calib"
    code, printed = run("calibrate", folder / "tiny", "--calib-dir", calib, *CHEAP)
    assert code == 0
    assert "PASSED" in printed
    assert {path.name for path in calib.iterdir()} == {"tiny.json", "tiny.cache"}
    caplog.set_level(logging.INFO)
    again = ["--target", "cpu", "--calib-dir", calib]
    with monkeypatched_calibration(fails=True):
        assert compiling(folder, tmp_path / "out", *again)[0] == 0
    assert table_of(tmp_path / "out").activations == table_from_json(read(calib, "tiny.json")).activations
    caplog.clear()
    with monkeypatched_calibration(fails=False) as asked:
        assert compiling(folder, tmp_path / "out", *again, "--set", "calibration.seed=9")[0] == 0
    assert asked == ["synthetic"]
    assert "calibrating anew" in caplog.text


@contextlib.contextmanager
def monkeypatched_calibration(fails):
    """Notes which features are asked for; fails where none should be."""
    asked = []
    real = compiling_stage.calibration_features

    def calibration_features(method, *rest):
        assert not fails, "the table is there"
        asked.append(method)
        return real(method, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling_stage, "calibration_features", calibration_features)
        yield asked


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--set", "calibration.seconds=2.5"], "longer than the model hears"),
        (["--set", "evaluation.bench_seconds=[1, 2.5]"], "bench_seconds = [1.0, 2.5]: the model hears 0.025 to 2 s"),
        (["--set", "quantization.exclude=['/encoder/x']"], "matches no Conv, MatMul or Gemm node"),
    ],
)
def test_what_a_pair_cannot_have_is_refused(folder, tmp_path, capsys, flags, words):
    speech = ["--manifest", folder / "manifest.json", "--target", "cpu"]
    assert compiling(folder, tmp_path / "out", *speech, *flags)[0] == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_utterance_longer_than_the_positions_is_refused(folder, tmp_path, capsys):
    soundfile.write(tmp_path / "long.wav", np.zeros(33600, np.float32), 16000)
    line = {"audio_filepath": "long.wav", "duration": 2.1, "text": "one"}
    (tmp_path / "manifest.json").write_text(json.dumps(line), encoding="utf-8")
    assert compiling(folder, tmp_path / "out", "--manifest", tmp_path / "manifest.json", "--target", "cpu")[0] == 2
    assert "2.100 s, but the model hears at most 2 s" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_implicit_quantization_is_refused(folder, tmp_path, monkeypatch, capsys):
    """Only a T4 host would come so far."""
    monkeypatch.setattr(job, "resolve", lambda engine: ((T4,), None))
    assert compiling(folder, tmp_path / "out", "--target", "t4", "--quantization", "implicit")[0] == 2
    assert "quantized explicitly only" in capsys.readouterr().err


def test_a_model_that_says_nothing_fails_the_run(folder, tmp_path, capsys):
    silent = whisper_configs.GENERATIONS["named"] | {"suppress_tokens": list(range(88))}
    write_folder(tmp_path / "tiny", generation_config=silent)
    code, _ = compiling(tmp_path, tmp_path / "out", "--target", "cpu", "--manifest", folder / "manifest.json")
    assert code == 3
    assert "all 2 transcripts are empty" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_saved_engine_is_both_files_and_a_folder_keeps_its_whole_name(folder, tmp_path, monkeypatch):
    write_folder(tmp_path / "tiny.en")
    monkeypatch.chdir(tmp_path)
    saved = tmp_path / "my.onnx"
    code, _ = run("compile", f"{tmp_path / 'tiny.en'}/", "--target", "cpu", "--saveEngine", saved, *CHEAP)
    assert code == 0
    bundle = tmp_path / "engines" / "tiny.en"
    for half in HALVES:
        assert (tmp_path / f"my.{half}.onnx").read_bytes() == (bundle / "cpu" / f"{half}.int8.onnx").read_bytes()
    assert read(bundle, "bundle.json")["name"] == "tiny.en"


def test_lengths_that_the_engine_does_not_have_are_said(folder, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        run("compile", folder / "tiny", "-o", tmp_path / "out", "--target", "cpu", *CHEAP[1:])
    assert "every utterance is padded to 2 s" in caplog.text
    caplog.clear()
    alone = whisper_folder.PREPROCESSOR | {"padding": "longest"}
    write_folder(tmp_path / "alone", preprocessor_config=alone)
    with caplog.at_level(logging.INFO):
        run("compile", tmp_path / "alone", "-o", tmp_path / "out", "--target", "cpu", *CHEAP[1:])
    assert "engine.max_seconds = 20: the model hears at most 2 s" in caplog.text
