"""ModelOpt as a peer: what it is told, what happens where it fails, and the real one where there is an environment."""

import json
import os
import sys

import numpy as np
import onnx
import pytest
import whisper_pair
from peers import __main__ as peers
from peers import modelopt
from tiny_archive import write_archive, write_manifest
from whisper_folder import write_folder

from trtasr.errors import BuildError, MissingError

SMALL = {"batches": 1, "steps": 2, "seconds": 1.5}
PYTHON = os.environ.get("TRTASR_MODELOPT", "")
# It notes its command line, keeps the inputs, and changes the graph that it reads, as ModelOpt does.
FAKE = """#!{python}
import json, pathlib, shutil, sys
here = pathlib.Path(__file__).parent
if sys.argv[1:] == ["-I", "-m", "modelopt.onnx.quantization", "--help"]:
    sys.exit()
with (here / "told.jsonl").open("a") as told:
    print(json.dumps(sys.argv[1:]), file=told)
flags = dict(zip(sys.argv[4::2], sys.argv[5::2], strict=True))
shutil.copy(flags["--calibration_data_path"], here)
graph = pathlib.Path(flags["--onnx_path"])
{then}
"""
COPIES = "shutil.copy(graph, flags['--output_path']); graph.write_bytes(b'changed')"
FAILS = "print('what it did'); sys.exit('ValueError: no such\\toperator')"
FAILS_BY_MAX = f"if flags['--calibration_method'] == 'max':\n    {FAILS}\n{COPIES}"


@pytest.fixture
def place(tmp_path):
    """Where the fake interpreter is, and what it keeps."""
    folder = tmp_path / "environment"
    folder.mkdir()
    return folder


@pytest.fixture
def source(tmp_path):
    """A graph, which need not be one."""
    path = tmp_path / "model.fp32.onnx"
    path.write_bytes(b"graph")
    return path


def fake(place, then):
    """Path of an interpreter that only seems to have ModelOpt."""
    path = place / "python"
    path.write_text(FAKE.format(python=sys.executable, then=then), encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def told(place):
    """Flags of every run but the first, which asks for help."""
    lines = (place / "told.jsonl").read_text(encoding="utf-8").splitlines()
    return [dict(zip(words[3::2], words[4::2], strict=True)) for words in map(json.loads, lines)]


def table(model, manifest, python, *names):
    """Exit code of a table of some peers."""
    chosen = [word for name in names for word in ("--only", name)]
    command = [str(model), "--manifest", str(manifest), "--audio", str(manifest), "--modelopt", python, *chosen]
    return peers.main(command, calibration=SMALL)


def last_rows(printed):
    """Rows of the table at the end that are not ours."""
    rows = printed.split("\n\n")[-1].splitlines()[1:]
    return [row for row in rows if not row.startswith("trtasr")]


def test_a_peer_that_fails_costs_its_own_row_alone(tiny_folder, place, capsys, monkeypatch):
    monkeypatch.setattr(peers, "SECONDS", 1.0)
    monkeypatch.setattr(peers, "quant_pre_process", lambda *_, **__: 1 / 0)
    names = ["modelopt max", "ort dynamic", "modelopt entropy"]
    python = fake(place, FAILS_BY_MAX)
    assert table(tiny_folder / "tiny.nemo", tiny_folder / "manifest.json", python, *names) == BuildError.exit_code
    printed = capsys.readouterr()
    *failed, whole = last_rows(printed.out)
    assert [row.split() for row in failed] == [[*name.split(), peers.FAILED] for name in names[:2]]
    assert whole.startswith("modelopt entropy, 3 recordings, model left in FP32  ")
    assert "modelopt max: model.fp32.onnx: ModelOpt ended with status 1: ValueError: no such operator" in printed.err
    assert "repair: " in printed.err
    assert "ort dynamic: Traceback" in printed.err
    assert "ZeroDivisionError" in printed.err
    assert [command["--calibration_method"] for command in told(place)] == ["max", "entropy"]


def test_every_graph_of_a_pair_has_inputs_of_its_own(tmp_path, place):
    exported = whisper_pair.exported(tmp_path)
    examples = peers.alike(whisper_pair.alone(whisper_pair.tiny_features()).examples(), 40)
    (folder := tmp_path / "made").mkdir()
    files = peers.quantized("modelopt entropy", exported, examples, folder, fake(place, COPIES))
    title = peers.title("modelopt entropy", exported, len(examples), files)
    assert title == "modelopt entropy, 4 recordings, encoder left in FP32, decoder left in FP32"
    assert [(command["--quantize_mode"], command["--high_precision_dtype"]) for command in told(place)] == [
        ("int8", "fp32")
    ] * 2
    with np.load(place / "inputs.encoder.fp32.npz") as inputs:
        assert inputs["features"].tobytes() == b"".join(item.features.tobytes() for item in examples)
        assert inputs["lengths"].tolist() == [40] * 4
    with np.load(place / "inputs.decoder.fp32.npz") as inputs:
        assert inputs["tokens"].tolist() == [item.tokens.tolist() for item in examples]
        assert len(inputs["cross_key.0"]) == len(inputs["past_key.0"]) == 4
        assert inputs["past_key.0"].size == 0
        assert inputs["token_bias"].shape == (4 * whisper_pair.VOCABULARY,)


def test_the_exported_graph_stays_as_it_is(source, tmp_path, place):
    inputs = [{"x": np.full((1, 2), value)} for value in (1, 2)]
    modelopt.quantize(source, tmp_path / "peer.onnx", inputs, "max", fake(place, COPIES))
    assert source.read_bytes() == (tmp_path / "peer.onnx").read_bytes() == b"graph"


def test_a_graph_that_was_not_written_is_a_failure(source, tmp_path, place):
    with pytest.raises(BuildError, match=r"model\.fp32\.onnx: ModelOpt ended with status 0: no message"):
        modelopt.quantize(source, tmp_path / "peer.onnx", [{"x": np.zeros(1)}], "max", fake(place, "pass"))


@pytest.mark.parametrize(
    ("python", "words"), [("/nowhere/python", "cannot be run"), (sys.executable, "No module named"), (".", "be run")]
)
def test_a_wrong_interpreter_is_refused_before_anything_is_compiled(tmp_path, capsys, python, words):
    assert table(tmp_path / "no.nemo", tmp_path / "no.json", python) == MissingError.exit_code
    printed = capsys.readouterr().err
    assert f"{python}: " in printed
    assert words in printed
    assert "repair: give --modelopt the Python of an environment that has ModelOpt" in printed


def test_its_rows_need_its_interpreter(capsys):
    with pytest.raises(SystemExit, match="2"):
        peers.main(["any.nemo", "--manifest", "a", "--audio", "b", "--only", "modelopt max"])
    assert "needs --modelopt PYTHON" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="TRTASR_MODELOPT names no Python of an environment with ModelOpt")
@pytest.mark.parametrize(("write", "name"), [(write_archive, "tiny.nemo"), (write_folder, "tiny")])
def test_the_real_one_quantizes_every_graph(tmp_path, capsys, monkeypatch, write, name):
    made, real = [], modelopt.quantize

    def noted(source, file, *rest):
        real(source, file, *rest)
        made.append((onnx.load(source).graph, onnx.load(file).graph))

    monkeypatch.setattr(modelopt, "quantize", noted)
    monkeypatch.setattr(peers, "SECONDS", 1.0)
    write(tmp_path / name)
    assert table(tmp_path / name, write_manifest(tmp_path), PYTHON, "modelopt entropy") == 0
    (row,) = last_rows(capsys.readouterr().out)
    assert row.startswith("modelopt entropy, 3 recordings  ")  # no graph left in FP32
    for source, graph in made:
        assert [axes(value) for value in graph.input] == [axes(value) for value in source.input]
        assert [kind(value) for value in graph.output] == [kind(value) for value in source.output]


def axes(value):
    """Name, type and axes of an input; an axis that changes has a name."""
    return (*kind(value), [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim])


def kind(value):
    """Name and type of a graph's input or output."""
    return value.name, value.type.tensor_type.elem_type
