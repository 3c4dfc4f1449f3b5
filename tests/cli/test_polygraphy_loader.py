"""Features for Polygraphy: the compiler's own, cut to their valid frames, and clear refusals of anything else."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from exported import exported
from sidecar import description
from tiny_archive import write_archive

from trtasr.bundle import seal
from trtasr.cli.polygraphy_loader import VARIABLE, load_data, load_first, main, read_features, write_features
from trtasr.errors import UsageError
from trtasr.files.keep import sha256_file
from trtasr.pipeline.features import calibration_features
from trtasr.recipe import Recipe, override, to_dict
from trtasr.values import CalibrationSet

FAST = ["calibration.batches=2", "calibration.batch_size=3", "calibration.steps=2", "calibration.seconds=0.5"]
SETS = [part for assignment in FAST for part in ("--set", assignment)]
HEAVY = ("torch", "onnx", "onnxruntime", "polygraphy", "tensorrt_rtx")


def mixed() -> CalibrationSet:
    generator = np.random.default_rng(0)
    batches = tuple(generator.normal(size=(2, 4, frames)).astype(np.float32) for frames in (10, 6))
    return CalibrationSet(batches, (np.array([10, 7]), np.array([0, 5])), "audio")


def test_utterances_are_cut_to_their_valid_frames(tmp_path, monkeypatch) -> None:
    features = mixed()
    assert write_features(tmp_path / "f.npz", features, "abc") == 3  # the empty one is left out
    monkeypatch.setenv(VARIABLE, str(tmp_path / "f.npz"))
    fed = load_data()
    assert [feed["features"].shape for feed in fed] == [(1, 4, 10), (1, 4, 7), (1, 4, 5)]
    assert [feed["lengths"].tolist() for feed in fed] == [[10], [7], [5]]
    assert {feed["features"].dtype.name for feed in fed} == {"float32"}
    assert {feed["lengths"].dtype.name for feed in fed} == {"int64"}
    assert np.array_equal(fed[1]["features"], features.batches[0][1:, :, :7])
    assert np.array_equal(fed[2]["features"], features.batches[1][1:, :, :5])
    assert len(load_first()) == 1
    assert np.array_equal(load_first()[0]["features"], fed[0]["features"])
    assert [path.name for path in tmp_path.iterdir()] == ["f.npz"]


def test_the_file_says_where_it_comes_from(tmp_path) -> None:
    write_features(tmp_path / "f.npz", mixed(), "abc")
    found = read_features(tmp_path / "f.npz")
    assert (found.method, found.checkpoint_sha256, len(found.utterances)) == ("audio", "abc", 3)


def test_an_unset_variable_names_the_repair(monkeypatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(UsageError, match="TRTASR_FEATURES is not set") as error:
        load_data()
    assert "python -m trtasr.cli.polygraphy_loader" in error.value.repair


def wrong_files(folder: Path) -> dict[str, Path]:
    paths = {name: folder / f"{name}.npz" for name in KINDS[:-1]}
    paths["text"].write_text("features", encoding="utf-8")
    paths["empty"].touch()
    with paths["array"].open("wb") as stream:
        np.save(stream, np.zeros(3))
    np.savez(paths["foreign"], features=np.zeros((1, 4, 10)), lengths=np.array([10]))
    write_features(paths["truncated"], mixed(), "abc")
    paths["truncated"].write_bytes(paths["truncated"].read_bytes()[:-200])
    write_features(paths["incomplete"], mixed(), "abc")
    with np.load(paths["incomplete"]) as data:
        whole = dict(data)
        kept = {key: data[key] for key in data if key != "lengths_1"}
    np.savez(paths["incomplete"], **kept)
    changes = {
        "flat": {"features_0": np.zeros(10, np.float32)},
        "doubles": {"features_0": np.zeros((1, 4, 10))},
        "longer": {"lengths_0": np.array([99])},
        "endless": {"count": 10**9},
        "promising": {"count": "many"},
        "none": {"count": 0},
        "no_text": {"format": np.frombuffer(b"\xff" * 8, "<U2").reshape(())},
    }
    for name, change in changes.items():
        np.savez(paths[name], **(whole | change))
    return paths | {"folder": folder}


KINDS = (
    "missing",
    "text",
    "empty",
    "array",
    "foreign",
    "truncated",
    "incomplete",
    "flat",
    "doubles",
    "longer",
    "endless",
    "promising",
    "none",
    "no_text",
    "folder",
)


@pytest.mark.parametrize("kind", KINDS)
def test_other_files_are_refused(tmp_path, monkeypatch, kind) -> None:
    path = wrong_files(tmp_path)[kind]
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(UsageError, match=path.name) as error:
        load_data()
    assert "make it with" in error.value.repair


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4, 99999999999999), }",
        "{",
        "(" * 110,
        "{'descr': [('a', '<f4', 1000000000)], 'shape': (6,)}",
    ],
)
def test_arrays_whose_header_lies_are_refused(tmp_path, monkeypatch, header) -> None:
    write_features(tmp_path / "f.npz", mixed(), "abc")
    text = header.encode().ljust(118) + b"\n"
    with zipfile.ZipFile(tmp_path / "f.npz") as old, zipfile.ZipFile(tmp_path / "g.npz", "w") as new:
        for name in old.namelist():
            lying = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(160)
            new.writestr(name, lying if name == "features_0.npy" else old.read(name))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "g.npz"))
    with pytest.raises(UsageError, match=r"g\.npz") as error:
        load_data()
    assert "make it with" in error.value.repair


def test_what_cannot_be_written_leaves_nothing(tmp_path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        write_features(tmp_path / "nowhere" / "f.npz", mixed(), "abc")
    empty = CalibrationSet((np.zeros((1, 4, 3), np.float32),), (np.array([0]),), "audio")
    with pytest.raises(UsageError, match="every utterance is empty"):
        write_features(tmp_path / "f.npz", empty, "abc")
    assert not list(tmp_path.iterdir())


def test_features_are_those_the_compiler_calibrates_with(tmp_path, capsys) -> None:
    archive, out = write_archive(tmp_path / "tiny.nemo"), tmp_path / "f.npz"
    assert main([str(archive), "-o", str(out), *SETS]) == 0
    assert "6 utterances, synthetic, 50 frames each" in capsys.readouterr().out
    recipe = override(Recipe("tiny", str(archive)), FAST)
    expected = calibration_features("synthetic", recipe, exported(archive, tmp_path / "fp32")).examples()
    found = read_features(out)
    assert found.checkpoint_sha256 == sha256_file(archive)
    for item, wanted in zip(found.utterances, expected, strict=True):
        assert np.array_equal(item.features, wanted.features)
        assert np.array_equal(item.lengths, wanted.lengths)


def write_sidecar(folder: Path, archive: Path, sha256: str) -> Path:
    recipe = override(Recipe("tiny", str(archive)), FAST)
    folder.mkdir()
    (folder / "model.onnx").touch()
    seal(folder, description("model.onnx", recipe=to_dict(recipe), checkpoint={"sha256": sha256}))
    return folder


def test_a_bundle_brings_its_recipe_and_insists_on_its_checkpoint(tmp_path, capsys) -> None:
    archive = write_archive(tmp_path / "tiny.nemo")
    ours = write_sidecar(tmp_path / "ours", archive, sha256_file(archive))
    assert main([str(ours), "-o", str(tmp_path / "f.npz"), "--set", "calibration.batches=1"]) == 0
    assert "3 utterances, synthetic, 50 frames each" in capsys.readouterr().out
    other = write_sidecar(tmp_path / "other", archive, "0" * 64)
    assert main([str(other), "-o", str(tmp_path / "g.npz")]) == 2
    assert "compiled from another checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "g.npz").exists()


@pytest.mark.parametrize("arguments", [["no-such-model"], ["no.nemo"], ["no.toml"], ["x.nemo", "--set", "steps=1"]])
def test_bad_models_exit_2_with_a_repair(tmp_path, monkeypatch, capsys, arguments) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "-o", "f.npz"]) == 2
    assert "repair: " in capsys.readouterr().err


def test_polygraphy_loads_the_script_without_heavy_libraries(tmp_path) -> None:
    write_features(tmp_path / "f.npz", mixed(), "abc")
    code = f"""
import sys, trtasr.cli.polygraphy_loader as loader
print(len(loader.load_data()), [name for name in {HEAVY!r} if name in sys.modules])"""
    environment = os.environ | {VARIABLE: str(tmp_path / "f.npz")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "3 []"


def test_errors_are_safe_for_a_terminal(tmp_path, capsys):
    assert main(["\x1b[2J\udcff", "-o", str(tmp_path / "f.npz")]) == 2
    printed = capsys.readouterr().err
    assert "\\x1b[2J\\udcff" in printed
    assert "\x1b" not in printed
    assert main([str(tmp_path), "--set", "calibration.seed=\x9b", "-o", str(tmp_path / "f.npz")]) == 2
    assert "\x9b" not in capsys.readouterr().err
