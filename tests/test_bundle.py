import json
import os
from dataclasses import asdict
from pathlib import Path

import msgspec
import pytest
from sidecar import description

from trtasr.bundle import open_bundle, seal, staged
from trtasr.cli import main
from trtasr.errors import BundleError, UsageError
from trtasr.files.write import write_json
from trtasr.text.generate import Generation


def make(out: Path, text: str = "one") -> None:
    with staged(out) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file.txt").write_text(text, encoding="utf-8")
        seal(folder, description("sub/file.txt"))


def fail(out: Path, error: type[BaseException]) -> None:
    with staged(out) as folder:
        (folder / "half").write_text("x", encoding="utf-8")
        raise error


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_bundle_appears_whole_and_alone(tmp_path: Path) -> None:
    make(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    bundle = open_bundle(tmp_path / "out")
    assert bundle.sidecar.vocabulary == ("a", "b")
    assert bundle.file("sub/file.txt").read_text(encoding="utf-8") == "one"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_new_and_keeps_the_old(tmp_path: Path, error: type[BaseException]) -> None:
    make(tmp_path / "out")
    with pytest.raises(error):
        fail(tmp_path / "out", error)
    assert names(tmp_path) == ["out"]
    assert open_bundle(tmp_path / "out").file("sub/file.txt").is_file()


def test_a_new_bundle_replaces_the_old_one(tmp_path: Path) -> None:
    make(tmp_path / "out")
    make(tmp_path / "out", "two")
    assert names(tmp_path) == ["out"]
    assert open_bundle(tmp_path / "out").file("sub/file.txt").read_text(encoding="utf-8") == "two"


def test_folders_that_are_no_bundle_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious", encoding="utf-8")
    with pytest.raises(UsageError, match="not a bundle"):
        make(tmp_path)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "precious"


def test_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be written"):
        make(tmp_path / "file" / "out")


def test_changed_and_missing_files_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "out")
    bundle = open_bundle(tmp_path / "out")
    (tmp_path / "out" / "sub" / "file.txt").write_text("tampered", encoding="utf-8")
    with pytest.raises(BundleError, match="does not match"):
        bundle.file("sub/file.txt")
    (tmp_path / "out" / "sub" / "file.txt").unlink()
    with pytest.raises(BundleError, match="missing"):
        bundle.file("sub/file.txt")
    with pytest.raises(BundleError, match="has no other"):
        bundle.file("other")


def test_no_bundle_and_broken_sidecar(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle here"):
        open_bundle(tmp_path)
    (tmp_path / "bundle.json").write_text("{", encoding="utf-8")
    with pytest.raises(BundleError, match="not as expected"):
        open_bundle(tmp_path)
    write_json(tmp_path / "bundle.json", {"format": 99})
    with pytest.raises(BundleError, match="not a bundle of format"):
        open_bundle(tmp_path)


def test_the_current_folder_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="current folder"):
        make(Path())
    assert names(tmp_path) == []


def made(folder: Path, **changes: object) -> Path:
    """A bundle of one file with changed keys in its sidecar, as somebody else may have written it."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"model")
    seal(folder, description("model.onnx"))
    sidecar = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    (folder / "bundle.json").write_text(json.dumps(sidecar | changes), encoding="utf-8")
    return folder


GENERATION = {
    "start": 0,
    "prompt": [0],
    "end": [1],
    "suppress": [],
    "begin_suppress": [],
    "max_length": 9,
    "no_speech": None,
    "languages": [],
    "tokens_per_second": 0.0,
}
CPU = description("model.onnx")["engines"]["cpu"]
WRONG: dict[str, dict[str, object]] = {
    "files": {"files": ["model.onnx"]},
    "hash": {"files": {"model.onnx": 3}},
    "absolute": {"files": {"/etc/passwd": "0" * 64}},
    "outside": {"files": {"../model.onnx": "0" * 64}},
    "graphs": {"graphs": ["fp32"]},
    "graph elsewhere": {"graphs": {"fp32": ["../outside.onnx"], "cpu": ["model.onnx"]}},
    "graph without hash": {"graphs": {"fp32": ["model.onnx"], "cpu": ["other.onnx"]}},
    "graph of format 2": {"graphs": {"fp32": "model.onnx", "cpu": "model.onnx"}},
    "graph without files": {"graphs": {"fp32": [], "cpu": []}},
    "graphs of more parts": {"graphs": {"fp32": ["model.onnx"], "cpu": ["model.onnx", "model.onnx"]}},
    "no graphs": {"graphs": {}},
    "no engine": {"graphs": {"fp32": ["model.onnx"], "cpu": ["model.onnx"], "t4": ["model.onnx"]}},
    "engines": {"engines": {"cpu": "model.onnx"}},
    "engine of format 2": {"engines": {"cpu": {"path": "model.onnx", "size_bytes": 1}}},
    "engine without parts": {"engines": {"cpu": CPU | {"parts": []}}},
    "precision": {"engines": {"cpu": CPU | {"precision": "int4"}}},
    "engine elsewhere": {"engines": {"cpu": CPU | {"parts": [{"path": "/dev/zero", "size_bytes": 1}]}}},
    "size": {"engines": {"cpu": CPU | {"parts": [{"path": "model.onnx", "size_bytes": -1}]}}},
    "integer": {"integer": {"graph": "model.onnx"}},
    "vocabulary": {"vocabulary": [1]},
    "checkpoint": {"checkpoint": []},
    "recipe": {"recipe": []},
    "recipe key": {"recipe": {"name": "x", "checkpoint": "y", "z": 1}},
    "recipe value": {"recipe": {"name": "x", "checkpoint": "y", "evaluation": {"batch": "many"}}},
    "frontend kind": {"frontend": {"kind": "spectral"}},
    "frontend kind of another type": {"frontend": {"kind": ["mel"]}},
    "frontend key": {"frontend": {"kind": "mel", "width": 3}},
    "frontend value": {"frontend": {"kind": "mel", "features": 10**9}},
    "frontend type": {"frontend": {"kind": "waveform", "sample_rate": "fast"}},
    "family": {"family": "gpt"},
    "family of other graphs": {"family": "whisper"},
    "generation": {"generation": {}},
    "generation of a CTC model": {"generation": GENERATION},
    "frames": {"most_frames": 0},
}


@pytest.mark.parametrize("rules", [None, GENERATION, GENERATION | {"no_speech": 3, "languages": [1]}])
def test_the_rules_of_generation_come_back(tmp_path, rules) -> None:
    found = open_bundle(made(tmp_path / "out", generation=rules)).sidecar.generation
    assert found == (msgspec.convert(rules, Generation) if rules else None)
    assert found is None or json.loads(json.dumps(asdict(found))).items() >= rules.items()


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("verb", ["bench", "transcribe"])
def test_values_that_no_compile_writes_are_refused(tmp_path, capsys, changes, verb) -> None:
    bundle = made(tmp_path / "out", **changes)
    assert main([verb, str(bundle), *(["a.wav"] if verb == "transcribe" else [])]) == 2
    error = capsys.readouterr().err
    assert "bundle.json" in error
    assert "repair: compile the bundle again" in error


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"format": ' + b"1" * 6000 + b"}",
        b'{"format": 1, "files": 1e999}',
        b"null",
        b'{"format": "1"}',
    ],
)
def test_a_sidecar_that_is_no_json_object_of_this_format(tmp_path, capsys, content) -> None:
    bundle = made(tmp_path / "out")
    (bundle / "bundle.json").write_bytes(content)
    assert main(["inspect", str(bundle)]) == 2
    assert "compile the bundle again" in capsys.readouterr().err


def test_a_sidecar_that_never_ends_is_not_read(tmp_path, capsys) -> None:
    bundle = made(tmp_path / "out")
    (bundle / "bundle.json").unlink()
    os.mkfifo(bundle / "bundle.json")
    assert main(["inspect", str(bundle)]) == 2
    assert "no regular file" in capsys.readouterr().err
    (bundle / "bundle.json").unlink()
    (bundle / "bundle.json").symlink_to("/dev/zero")
    assert main(["inspect", str(bundle)]) == 2


def test_files_of_a_bundle_are_files_inside_it(tmp_path: Path) -> None:
    bundle = made(tmp_path / "out")
    model = bundle / "model.onnx"
    model.rename(tmp_path / "outside.onnx")
    model.symlink_to(tmp_path / "outside.onnx")
    with pytest.raises(BundleError, match="leads out of the bundle"):
        open_bundle(bundle).file("model.onnx")
    model.unlink()
    os.mkfifo(model)
    with pytest.raises(BundleError, match="no regular file"):
        open_bundle(bundle).file("model.onnx")
    model.unlink()
    model.mkdir()
    with pytest.raises(BundleError, match="directory"):
        open_bundle(bundle).file("model.onnx")


def test_a_link_inside_the_bundle_and_to_the_bundle_is_followed(tmp_path: Path) -> None:
    bundle = made(tmp_path / "out")
    (bundle / "model.onnx").rename(bundle / "weights")
    (bundle / "model.onnx").symlink_to("weights")
    (tmp_path / "link").symlink_to(bundle)
    assert open_bundle(tmp_path / "link").file("model.onnx").read_bytes() == b"model"
