"""Bundles in use: from any folder, moved, read-only by habit, and written by somebody else."""

import hashlib
import html
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from compiling import CHEAP, QUICK, refused, results, run
from onnx import TensorProto
from tiny_archive import write_archive, write_manifest

from trtasr.cli import main


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``out``, compiled inside it with a relative manifest, and its speech."""
    folder = tmp_path_factory.mktemp("verbs") / "project"
    folder.mkdir()
    write_archive(folder / "tiny.nemo")
    write_manifest(folder)
    here = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["compile", "tiny.nemo", "--manifest", "manifest.json", "-o", "out", *CHEAP]) == 0
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def copied(project: Path, tmp_path: Path) -> Path:
    """A bundle of one's own, without its manifest."""
    return Path(shutil.copytree(project / "out", tmp_path / "bundle"))


def changed(bundle: Path, name: str, content: bytes) -> None:
    """Replace a file and seal the bundle anew, as whoever hands it on could."""
    (bundle / name).write_bytes(content)
    sidecar = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    sidecar["files"][name] = hashlib.sha256(content).hexdigest()
    (bundle / "bundle.json").write_text(json.dumps(sidecar), encoding="utf-8")


def test_a_bundle_finds_its_manifest_from_any_folder(project, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert all(row["wer"] is not None for row in results(capsys, project / "out"))
    command = ["compare", str(project / "out"), "--utterances", "1", "-o", str(tmp_path / "comparison")]
    assert main(command) == 0


@pytest.mark.parametrize("name", ["comparison.json", "comparison_inputs.json"])
def test_a_comparison_replaces_an_older_one_and_nothing_else(project, tmp_path, monkeypatch, capsys, name) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["compare", project / "out", "--utterances", "1"]
    assert main([*map(str, command)]) == main([*map(str, command)]) == 0
    capsys.readouterr()
    mine = tmp_path / "comparison" / name
    mine.write_text("of somebody else", encoding="utf-8")
    error = refused(capsys, *command)
    assert f"comparison/{name}: is no file of a comparison" in error
    assert "choose another folder with -o" in error
    assert mine.read_text(encoding="utf-8") == "of somebody else"


def test_a_bundle_moves_together_with_its_manifest(project, tmp_path, capsys) -> None:
    shutil.copytree(project, tmp_path / "elsewhere")
    assert all(row["wer"] is not None for row in results(capsys, tmp_path / "elsewhere" / "out"))


def test_a_bundle_without_its_manifest_is_measured_without_wer(copied, tmp_path, monkeypatch, capsys, caplog) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.WARNING):
        rows = results(capsys, copied)
    assert {row["engine"] for row in rows} == {"fp32 (reference)", "int8 t4-rtx", "int8 cpu"}
    assert all(row["wer"] is None for row in rows)
    assert rows[0]["latencies"]
    assert "WER is not measured: the recipe's manifest manifest.json is not here" in caplog.text
    assert "the recipe's manifest manifest.json is not here" in refused(capsys, "compare", copied)


def test_a_bundle_from_before_several_sets_finds_its_manifest(project, tmp_path, capsys) -> None:
    old = Path(shutil.copytree(project, tmp_path / "old")) / "out"
    sidecar = json.loads((old / "bundle.json").read_text(encoding="utf-8"))
    sidecar["manifest"], sidecar["recipe"]["evaluation"]["manifest"] = "../manifest.json", "manifest.json"
    (old / "bundle.json").write_text(json.dumps(sidecar), encoding="utf-8")
    assert all(row["wer"] is not None for row in results(capsys, old))


def test_a_manifest_that_is_named_must_be_there(project, tmp_path, capsys) -> None:
    assert "nowhere.json" in refused(capsys, "bench", project / "out", "--manifest", tmp_path / "nowhere.json")


def test_reading_a_bundle_writes_nothing_into_it(project, copied, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (copied, *copied.rglob("*"))}
    wav, manifest = str(project / "0.wav"), ["--manifest", str(project / "manifest.json")]
    for command in (
        ["inspect"],
        ["inspect", "--roofline"],
        ["inspect", "--integer"],
        ["bench", *QUICK, *manifest],
        ["compare", *manifest],
        ["compare", "--layers", *manifest],
    ):
        assert main([command[0], str(copied), *command[1:]]) == 0, command
    assert main(["transcribe", str(copied), wav]) == 0
    assert {path: path.stat().st_mtime_ns for path in (copied, *copied.rglob("*"))} == before


def test_weights_outside_the_hashed_files_are_not_loaded(project, copied, capsys) -> None:
    """ONNX Runtime reads any file that a model names; only those of the bundle are allowed."""
    path = copied / "model.fp32.onnx"
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    changed(copied, "model.fp32.onnx", path.read_bytes())
    error = refused(capsys, "transcribe", copied, project / "0.wav", "--target", "fp32")
    assert "has no weights.bin" in error
    changed(copied, "weights.bin", (copied / "weights.bin").read_bytes())
    assert main(["transcribe", str(copied), str(project / "0.wav"), "--target", "fp32"]) == 0
    (copied / "weights.bin").write_bytes(b"\0" * (copied / "weights.bin").stat().st_size)
    error = refused(capsys, "transcribe", copied, project / "0.wav", "--target", "fp32")
    assert "weights.bin: sha256" in error


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", ""])
def test_weights_elsewhere_are_refused(project, copied, capsys, location) -> None:
    model = onnx.load(copied / "model.fp32.onnx")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    changed(copied, "model.fp32.onnx", model.SerializeToString())
    assert "has no" in refused(capsys, "transcribe", copied, project / "0.wav", "--target", "fp32")


def misnamed(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Nope"


def misshaped(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [2**40, 3]


def unwired(model: onnx.ModelProto) -> None:
    del model.graph.node[3]


def single(model: onnx.ModelProto) -> None:
    del model.graph.output[1]


def flat(model: onnx.ModelProto) -> None:
    """Scores of another rank."""
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["scores" if output == name else output for output in node.output]
    model.graph.node.append(onnx.helper.make_node("Flatten", ["scores"], [name], axis=0))
    model.graph.output[0].ClearField("type")


def wider(model: onnx.ModelProto) -> None:
    """One token more than the vocabulary has."""
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["scores" if output == name else output for output in node.output]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 1]), "pads"))
    model.graph.node.append(onnx.helper.make_node("Pad", ["scores", "pads"], [name]))
    model.graph.output[0].ClearField("type")


@pytest.mark.parametrize("change", [misnamed, misshaped, unwired, single, flat, wider])
def test_graphs_that_no_compile_writes_are_named(project, copied, capsys, change) -> None:
    model = onnx.load(copied / "model.fp32.onnx")
    change(model)
    changed(copied, "model.fp32.onnx", model.SerializeToString())
    for command in (
        ["transcribe", copied, project / "0.wav", "--target", "fp32"],
        ["bench", copied, "--manifest", project / "manifest.json", *QUICK],
    ):
        error = refused(capsys, *command)
        assert "model" in error
        assert "repair: compile the bundle again" in error


@pytest.mark.parametrize("content", [b"", b"\x08", b"no model", b"\xff" * 100])
@pytest.mark.parametrize(
    "flags",
    [
        ["inspect", "--roofline"],
        ["inspect", "--integer"],
        ["compare"],
        ["compare", "--layers"],
        ["compare", "--integer"],
    ],
    ids=" ".join,
)
def test_files_that_are_no_graph_are_named(project, copied, tmp_path, monkeypatch, capsys, content, flags) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model.fp32.onnx", "model.integer.onnx"):
        changed(copied, name, content)
    manifest = ["--manifest", project / "manifest.json"] if flags[0] == "compare" else []
    error = refused(capsys, flags[0], copied, *flags[1:], *manifest)
    assert ".onnx" in error
    assert "repair: compile the bundle again" in error


def test_names_with_wildcards_are_names(project, copied, capsys) -> None:
    sidecar = json.loads((copied / "bundle.json").read_text(encoding="utf-8"))
    (copied / "model.fp32.onnx").rename(copied / "a**[b.onnx")
    sidecar["files"]["a**[b.onnx"] = sidecar["files"].pop("model.fp32.onnx")
    sidecar["graphs"]["fp32"] = ["a**[b.onnx"]
    (copied / "bundle.json").write_text(json.dumps(sidecar), encoding="utf-8")
    assert results(capsys, copied)[0]["size_bytes"] == (copied / "a**[b.onnx").stat().st_size


ROW = {"name": "a", "kind": "gemm", "operands": ["Int8"], "outputs": [], "onnx_nodes": []}


@pytest.mark.parametrize(
    "table",
    [
        [],
        3,
        {"cpu": {}},
        {"cpu": [3]},
        {"cpu": [{"name": "a"}]},
        {"cpu": [ROW | {"name": 3}]},
        {"cpu": [ROW | {"operands": "Int8"}]},
        {"cpu": [ROW | {"macs": "many"}]},
        {"cpu": [ROW | {"macs": 1.5}]},
        {"cpu": [ROW | {"time_share": None}]},
        {"cpu": None},
    ],
)
def test_a_layer_table_that_no_compile_writes(copied, capsys, table) -> None:
    changed(copied, "layers.json", json.dumps(table).encode())
    error = refused(capsys, "inspect", copied)
    assert "layers.json" in error
    assert "repair: compile the bundle again" in error


def test_a_layer_table_nested_without_end(copied, capsys) -> None:
    changed(copied, "layers.json", b'{"cpu": ' + b"[" * 100_000)
    assert "layers.json" in refused(capsys, "inspect", copied)


@pytest.mark.parametrize("verb", ["bench", "compare", "inspect", "transcribe"])
def test_the_help_says_whose_bundles_to_open(capsys, verb) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    assert "Only open bundles you trust" in " ".join(capsys.readouterr().out.split())


def test_verbs_work_on_the_bundle(ctc_bundle, tmp_path, capsys) -> None:
    out, speech = ctc_bundle.bundle, ("--manifest", ctc_bundle.manifest)
    assert "6 of 9 layers INT8" in run("inspect", out, "--target", "t4-rtx")[1]
    totals = json.loads(run("inspect", out, "--roofline", "--batch", "8", "--json")[1])["estimate_total_ms"]
    assert 0 < totals["int8"] < totals["fp16"] < totals["fp32"]
    assert "a length of at most 3600 s" in refused(capsys, "inspect", out, "--roofline", "--seconds", "0")
    assert "int8 cpu against fp32" in run("bench", out, *speech, "--seconds", "1", "-q")[1]
    assert "polygraphy run" in run("compare", out, *speech, "-o", tmp_path / "cmp", "-q")[1]
    for chosen in (("--target", "t4-rtx"), ()):  # of itself not cpu, which shares no tensor
        code, printed = run("compare", out, *speech, *chosen, "--layers", "-q")
        assert code == 0
        assert "conv/Conv_output_0" in printed
        assert "dB (t4-rtx against fp32)" in printed
    code, printed = run("transcribe", out, *(ctc_bundle.manifest.parent / f"{i}.wav" for i in (0, 1)), "--json", "-q")
    assert code == 0
    assert [Path(row["audio_filepath"]).name for row in json.loads(printed)] == ["0.wav", "1.wav"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--target", "cpu", "--layers"], "shares no inner tensor"),
        (["--utterances", "0"], "at least one utterance"),
        (["--layers", "--utterances", "-3"], "at least one utterance"),
        (["--target", "fp32"], "what engines are compared with"),
    ],
)
def test_compare_refuses_what_would_say_nothing(ctc_bundle, tmp_path, capsys, flags, words) -> None:
    speech = "--manifest", ctc_bundle.manifest
    assert words in refused(capsys, "compare", ctc_bundle.bundle, *speech, "-o", tmp_path / "cmp", "-q", *flags)
    assert not (tmp_path / "cmp").exists()


def test_the_printed_polygraphy_commands_run_from_anywhere(ctc_bundle, tmp_path) -> None:
    moved = shutil.copytree(ctc_bundle.bundle, tmp_path / "a bundle")
    code, printed = run("compare", moved, "--manifest", ctc_bundle.manifest, "-o", tmp_path / "cmp", "-q")
    assert code == 0
    page = html.unescape((moved / "report.html").read_text(encoding="utf-8"))
    (reported,) = re.findall(r"<h3>Commands</h3><pre>BUNDLE=.*?\n(\(cd [^\n]*polygraphy run [^\n]*\))", page, re.DOTALL)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    programs = {"BUNDLE": str(moved), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command, environment in (
        (printed.partition("polygraphy: ")[2], os.environ),
        (reported, os.environ | programs),
    ):
        done = subprocess.run(
            ["bash", "-c", command], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
        )
        assert "Runtime" in done.stdout.splitlines()[-1], done.stdout + done.stderr
        assert done.returncode == 0, done.stdout
    assert not list(elsewhere.iterdir())
