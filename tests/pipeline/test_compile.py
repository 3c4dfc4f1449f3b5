"""The whole pipeline on a tiny archive: what a bundle holds, and that every consumer reads one scale table."""

import html
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from stored_table import table_from_json
from tiny_archive import config, state, write_manifest, write_members

from trtasr.audio.features import FrontendConfig, MelFrontend, mel_bank
from trtasr.audio.manifest import read_manifest
from trtasr.audio.read import read_audio
from trtasr.cli import main
from trtasr.engine.cache import parse_cache
from trtasr.models.jasper import JasperCtc
from trtasr.pipeline import compile as stages
from trtasr.pipeline.opened import open_engine
from trtasr.targets import TARGETS
from trtasr.targets.place import lower

FAST = [
    "--set",
    "calibration.batches=1",
    "--set",
    "calibration.steps=3",
    "--set",
    "evaluation.bench_seconds=[1.0]",
    "--set",
    "evaluation.max_wer_increase=100",
    "--set",
    "calibration.seconds=1.5",
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compile")
    bank = torch.from_numpy(mel_bank(FrontendConfig(highfreq=7000)))
    weights = state() | {"preprocessor.featurizer.fb": bank[None]}
    model, manifest = write_members(folder / "tiny.nemo", config(), weights), write_manifest(folder)
    code = main(["compile", str(model), "--manifest", str(manifest), "-o", str(folder / "out"), "-q", *FAST])
    assert code == 0
    return folder


def read(compiled: Path, name: str):
    return json.loads((compiled / "out" / name).read_text(encoding="utf-8"))


def stored(compiled: Path, name: str) -> dict[str, np.ndarray]:
    model = onnx.load(compiled / "out" / name)
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def test_the_bundle_is_complete_and_sealed(compiled) -> None:
    files = read(compiled, "bundle.json")["files"]
    assert {
        "scales.json",
        "calibration.cache",
        "model.fp32.onnx",
        "model.qdq.onnx",
        "t4-rtx/model.plan",
        "cpu/model.int8.onnx",
        "layers.json",
        "bench.json",
        "wer.json",
        "comparison.json",
        "report.html",
        "model.integer.onnx",
        "model.integer.qdq.onnx",
    } <= set(files)
    assert not [p for p in compiled.iterdir() if p.name.startswith(".")]


def test_the_bundle_hears_with_the_checkpoints_own_mel_bank(compiled) -> None:
    assert "frontend.safetensors" in read(compiled, "bundle.json")["files"]
    opened = open_engine(compiled / "out")
    (item, *_) = opened.heard(read_manifest(compiled / "manifest.json"))
    audio = torch.from_numpy(read_audio(compiled / "0.wav", 16000))[None]
    features, _ = MelFrontend(FrontendConfig(highfreq=7000, n_fft=512))(audio, torch.tensor([audio.shape[1]]))
    np.testing.assert_array_equal(item.features, features[0, :, : item.frames])


def test_the_sidecar_describes_the_engine(compiled) -> None:
    sidecar = read(compiled, "bundle.json")
    assert sidecar["engines"]["t4-rtx"]["parts"][0]["capability"] == "sm75"
    assert sidecar["outcome"] == "PASSED"
    assert len(sidecar["vocabulary"]) == 28
    assert sidecar["tokenizer"] == {"kind": "characters", "file": ""}
    assert sidecar["frontend"]["features"] == 64
    assert set(sidecar["results"]) == {"fp32", "t4-rtx", "cpu"}
    assert sidecar["results"]["t4-rtx"]["p50_ms"] is None  # no number for a device that is not here


def test_cache_and_qdq_nodes_carry_the_scales_of_the_table_bit_for_bit(compiled) -> None:
    table = table_from_json(read(compiled, "scales.json"))
    _, cached = parse_cache((compiled / "out" / "calibration.cache").read_text(encoding="utf-8"))
    assert {n: s.tobytes() for n, s in cached.items()} == {n: e.scale.tobytes() for n, e in table.activations.items()}
    model = onnx.load(compiled / "out" / "model.qdq.onnx")
    constants = stored(compiled, "model.qdq.onnx")
    quantized = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert len(quantized) >= 5
    for node in quantized:
        assert constants[node.input[1]].tobytes() == table.activations[node.input[0]].scale.tobytes()
    weights = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants]
    assert len(weights) == 6
    for node in weights:
        name = node.output[0].removesuffix("_dequantized")
        assert constants[node.input[1]].tobytes() == table.weights[name].scales.tobytes()


def test_the_cpu_graph_reads_the_same_table(compiled) -> None:
    """Input and weight scales of each integer convolution are those of its FP32 node in the table."""
    table = table_from_json(read(compiled, "scales.json"))
    fp32 = {n.name: n for n in onnx.load(compiled / "out" / "model.fp32.onnx").graph.node}
    model, constants = onnx.load(compiled / "out" / "cpu/model.int8.onnx"), stored(compiled, "cpu/model.int8.onnx")
    convolutions = [n for n in model.graph.node if n.op_type == "QLinearConv"]
    assert len(convolutions) >= 6
    for node in convolutions:
        original = fp32[node.name]
        entry = table.activations[original.input[0]]
        expected = entry.unsigned_scale if constants[node.input[2]] == 0 else entry.scale
        assert constants[node.input[1]].tobytes() == expected.tobytes(), node.name
        assert np.array_equal(constants[node.input[4]], table.weights[original.input[1]].scales), node.name


def test_the_fp16_graph_of_the_plan_carries_the_same_scales(compiled, tmp_path) -> None:
    table = table_from_json(read(compiled, "scales.json"))
    (tmp_path / "model.fp32.onnx").write_bytes((compiled / "out" / "model.fp32.onnx").read_bytes())
    lowered = lower(tmp_path / "model.fp32.onnx", table, TARGETS["t4-rtx"], ())
    model = onnx.load(lowered.graph)
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    expected = {float(e.scale) for e in table.activations.values()}
    found = [constants[n.input[1]] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert len(found) >= 5
    assert all(scale.dtype == np.float16 and float(scale) in expected for scale in found)
    weights = {w.scales.tobytes() for w in table.weights.values()}
    nodes = {node.name: node for node in model.graph.node}
    made_by = {name: node for node in model.graph.node for name in node.output}
    gains = {name.removesuffix("/gain"): node.input[1] for name, node in nodes.items() if name.endswith("/gain")}
    assert len(gains) == 6
    for name, gain in gains.items():  # one scale per product, a power of two, and a gain per channel
        scale = constants[made_by[nodes[name].input[1]].input[1]]
        assert scale.dtype == constants[gain].dtype == np.float16
        assert (scale.astype(np.float32) * constants[gain]).tobytes() in weights


def test_layers_say_which_run_in_int8(compiled) -> None:
    rows = [row for row in read(compiled, "layers.json")["t4-rtx"] if row["macs"]]
    dense = [row for row in rows if row["int8"]]
    assert len(dense) == 6  # 5 pointwise (one of them residual) and the decoder
    assert {row["operands"][0] for row in rows if not row["int8"]} == {"Half"}


def test_decisions_name_their_rule(compiled) -> None:
    decisions = read(compiled, "scales.json")["decisions"]
    assert {d["rule"] for d in decisions["t4-rtx"]} == {"int8", "depthwise"}
    assert {d["rule"] for d in decisions["cpu"]} == {"int8"}


def test_a_second_compile_gives_the_same_engine_and_replaces_the_first(compiled) -> None:
    before = read(compiled, "bundle.json")["files"]
    model, manifest = compiled / "tiny.nemo", compiled / "manifest.json"
    assert main(["compile", str(model), "--manifest", str(manifest), "-o", str(compiled / "out"), "-q", *FAST]) == 0
    after = read(compiled, "bundle.json")["files"]
    for name in (
        "t4-rtx/model.plan",
        "cpu/model.int8.onnx",
        "model.fp32.onnx",
        "model.qdq.onnx",
        "scales.json",
        "calibration.cache",
    ):
        assert before[name] == after[name], name


def test_committed_tables_are_reused_only_for_the_same_checkpoint_and_settings(compiled, tmp_path, caplog) -> None:
    model = compiled / "tiny.nemo"
    folder = tmp_path / "calib"
    settings = ["--calib-dir", str(folder), *FAST[:4], *FAST[8:]]
    assert main(["calibrate", str(model), *settings]) == 0
    assert {p.name for p in folder.iterdir()} == {"tiny.json", "tiny.cache"}
    caplog.set_level(logging.INFO)
    reuse = ["compile", str(model), "-o", str(tmp_path / "out"), *FAST, "--target", "cpu", "--calib-dir", str(folder)]
    assert main(reuse) == 0
    assert "synthetic batch" not in caplog.text
    caplog.clear()
    assert main([*reuse, "--set", "calibration.seed=9"]) == 0
    assert "calibrating anew" in caplog.text
    assert "synthetic batch 1 of 1" in caplog.text


def test_missed_gate_exits_3_and_keeps_the_marked_bundle(compiled, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(stages, "missed_gates", lambda *_: ("int8 cpu: WER too high",))
    code = main(["compile", str(compiled / "tiny.nemo"), "-o", str(tmp_path / "out"), *FAST, "--target", "cpu", "-q"])
    printed = capsys.readouterr().out
    assert code == 3
    assert "gate missed: int8 cpu" in printed
    assert printed.splitlines()[-1].startswith("FAILED | ")
    assert json.loads((tmp_path / "out" / "bundle.json").read_text(encoding="utf-8"))["outcome"] == "FAILED"
    assert "int8 cpu: WER too high" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_reference_that_recognizes_nothing_fails_compile_and_bench(compiled, tmp_path, capsys) -> None:
    """An untrained network, and 15 words none of which it says."""
    spoken = str(write_manifest(tmp_path, 5, text="completely different words"))
    command = ["compile", str(compiled / "tiny.nemo"), "--manifest", spoken, "-o", str(tmp_path / "out"), "-q", *FAST]
    assert main([*command, "--target", "cpu"]) == 3
    error = capsys.readouterr().err
    assert "the FP32 reference recognizes nothing: WER" in error
    assert "repair: look at, in this order: language" in error
    assert not (tmp_path / "out").exists()
    assert main(["bench", str(compiled / "out"), "--manifest", spoken, "--seconds", "1", "-q"]) == 3
    assert "recognizes nothing" in capsys.readouterr().err


def test_transcripts_are_kept_as_given_and_every_figure_names_its_normalizer(compiled, tmp_path, capsys) -> None:
    spoken = str(write_manifest(tmp_path, 3, text="One, TWO!"))
    out = tmp_path / "out"
    command = ["compile", str(compiled / "tiny.nemo"), "--manifest", spoken, "-o", str(out), "-q", *FAST, "--json"]
    assert main([*command, "--target", "cpu", "--set", "evaluation.normalizer=unicode-v1"]) == 0
    figures = [
        json.loads(capsys.readouterr().out)["results"]["fp32"],
        json.loads((out / "bundle.json").read_text(encoding="utf-8"))["results"]["cpu"],
        json.loads((out / "bench.json").read_text(encoding="utf-8"))[0],
    ]
    assert {(row["normalizer"], row["measure"]) for row in figures} == {("unicode-v1", "WER")}
    assert all(row["wer"] > 0 and row["cer"] > 0 for row in figures)
    scored = json.loads((out / "wer.json").read_text(encoding="utf-8"))["fp32"]
    assert (scored["normalizer"], scored["utterances"][0]["text"]) == ("unicode-v1", "One, TWO!")
    assert scored["utterances"][0]["reference"] == "one two"
    assert "normalizer unicode-v1" in (out / "report.html").read_text(encoding="utf-8")


def test_the_printed_polygraphy_commands_run_from_anywhere(compiled, tmp_path, capsys) -> None:
    out, manifest = compiled / "out", str(compiled / "manifest.json")
    moved = tmp_path / "a bundle"
    shutil.copytree(out, moved)
    assert main(["compare", str(moved), "--manifest", manifest, "-o", str(tmp_path / "cmp"), "-q"]) == 0
    printed = capsys.readouterr().out.partition("polygraphy: ")[2]
    page = html.unescape((moved / "report.html").read_text(encoding="utf-8"))
    (reported,) = re.findall(r"<h3>Commands</h3><pre>BUNDLE=.*?\n(\(cd [^\n]*polygraphy run [^\n]*\))", page, re.DOTALL)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    programs = {"BUNDLE": str(moved), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command, environment in ((printed, os.environ), (reported, os.environ | programs)):
        done = subprocess.run(
            ["bash", "-c", command], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
        )
        assert "Runtime" in done.stdout.splitlines()[-1], done.stdout + done.stderr
        assert done.returncode == 0, done.stdout
    assert not list(elsewhere.iterdir())


def test_the_sidecar_says_when_and_what_was_built(compiled) -> None:
    sidecar = read(compiled, "bundle.json")
    age = datetime.now(UTC) - datetime.strptime(sidecar["built"], "%Y-%m-%dT%H:%M:%S%z")
    assert timedelta() <= age < timedelta(hours=1)
    assert sidecar["architecture"] == "QuartzNet1x2"
    assert "<li><span>model</span>QuartzNet1x2</li>" in (compiled / "out" / "report.html").read_text(encoding="utf-8")


def test_verbs_work_on_the_bundle(compiled, tmp_path, capsys) -> None:
    out, manifest = str(compiled / "out"), str(compiled / "manifest.json")
    assert main(["inspect", out, "--target", "t4-rtx"]) == 0
    assert "6 of 9 layers INT8" in capsys.readouterr().out
    assert main(["inspect", out, "--roofline", "--batch", "8", "--json"]) == 0
    totals = json.loads(capsys.readouterr().out)["estimate_total_ms"]
    assert 0 < totals["int8"] < totals["fp16"] < totals["fp32"]
    assert main(["inspect", out, "--roofline", "--seconds", "0"]) == 2
    assert "a length of at most 3600 s" in capsys.readouterr().err
    assert main(["bench", out, "--manifest", manifest, "--seconds", "1", "-q"]) == 0
    assert "int8 cpu against fp32" in capsys.readouterr().out
    assert main(["compare", out, "--manifest", manifest, "-o", str(tmp_path / "cmp"), "-q"]) == 0
    assert "polygraphy run" in capsys.readouterr().out
    assert main(["compare", out, "--manifest", manifest, "--target", "t4-rtx", "--layers", "-q"]) == 0
    printed = capsys.readouterr().out
    assert "conv/Conv_output_0" in printed
    assert "dB (t4-rtx against fp32)" in printed
    assert main(["compare", out, "--manifest", manifest, "--layers", "-q"]) == 0  # not cpu, which shares no tensor
    assert "dB (t4-rtx against fp32)" in capsys.readouterr().out
    assert main(["transcribe", out, str(compiled / "0.wav"), str(compiled / "1.wav"), "--json", "-q"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [Path(row["audio_filepath"]).name for row in rows] == ["0.wav", "1.wav"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--target", "cpu", "--layers"], "shares no inner tensor"),
        (["--utterances", "0"], "at least one utterance"),
        (["--layers", "--utterances", "-3"], "at least one utterance"),
        (["--target", "fp32"], "what engines are compared with"),
    ],
)
def test_compare_refuses_what_would_say_nothing(compiled, tmp_path, capsys, flags, words) -> None:
    out, manifest = str(compiled / "out"), str(compiled / "manifest.json")
    command = ["compare", out, "--manifest", manifest, "-o", str(tmp_path / "cmp"), "-q", *flags]
    assert main(command) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "cmp").exists()


@pytest.mark.parametrize("flag", ["--saveEngine", "--exportLayerInfo", "--exportProfile", "--timingCacheFile"])
def test_an_output_that_is_a_folder_is_refused_before_anything_is_built(compiled, tmp_path, capsys, flag) -> None:
    command = ["compile", str(compiled / "tiny.nemo"), "-o", str(tmp_path / "out"), *FAST, "-q", flag, str(tmp_path)]
    assert main(command) == 2
    assert "is a folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["--saveEngine", "--exportLayerInfo", "--timingCacheFile"])
def test_an_output_that_is_no_regular_file_is_refused_before_anything_is_built(compiled, tmp_path, capsys, flag):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = ["compile", str(compiled / "tiny.nemo"), "-o", str(tmp_path / "out"), *FAST, "-q", flag, str(pipe)]
    assert main(command) == 2
    assert "pipe: is no regular file, and is left alone" in capsys.readouterr().err
    assert pipe.is_fifo()
    assert not (tmp_path / "out").exists()


def test_the_report_says_how_to_make_the_bundle_again(compiled) -> None:
    page = (compiled / "out" / "report.html").read_text(encoding="utf-8")
    assert "calibration.batches=" in page
    assert "evaluation.manifest=" in page


def test_trtexec_spellings(compiled, tmp_path) -> None:
    plan, layers = tmp_path / "my.plan", tmp_path / "layers.json"
    code = main(
        [
            "compile",
            str(compiled / "tiny.nemo"),
            "-o",
            str(tmp_path / "out"),
            *FAST,
            "-q",
            "--target",
            "t4-rtx",
            "--saveEngine",
            str(plan),
            "--exportLayerInfo",
            str(layers),
        ]
    )
    assert code == 0
    assert plan.read_bytes() == (tmp_path / "out" / "t4-rtx" / "model.plan").read_bytes()
    assert json.loads(layers.read_text(encoding="utf-8"))["Layers"]


def test_controls_show_all_three_calibrations(compiled, tmp_path, capsys) -> None:
    code = main(
        [
            "compile",
            str(compiled / "tiny.nemo"),
            "--manifest",
            str(compiled / "manifest.json"),
            "-o",
            str(tmp_path / "out"),
            *FAST,
            "--target",
            "t4-rtx",
            "--controls",
            "-q",
        ]
    )
    printed = capsys.readouterr().out
    assert code == 0
    for label in ("random noise", "synthetic (data-free)", "real audio"):
        assert label in printed


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_layer_of_one_channel(tmp_path, index) -> None:
    """Its scale per channel is one per tensor: every graph is made all the same."""
    settings = config()
    settings["encoder"]["jasper"][index]["filters"] = 1
    weights = JasperCtc(settings["encoder"], settings["decoder"]).state_dict()
    model = write_members(tmp_path / "tiny.nemo", settings, weights)
    target = ["--set", 'engine.target="cpu"']
    assert main(["compile", str(model), "-o", str(tmp_path / "out"), "-q", *target, *FAST]) == 0
    assert (tmp_path / "out" / "model.integer.onnx").is_file()
