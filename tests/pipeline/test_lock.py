"""The scale table as a lock file: which table is reused, and what its file of corrected weights may hold."""

import contextlib
import errno
import hashlib
import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from stored_table import read_table
from tiny_archive import write_archive

from trtasr.checkpoint.nemo import read_nemo
from trtasr.engine.cache import cache_text
from trtasr.errors import RecipeError, TrtasrError, UsageError
from trtasr.pipeline.lock import (
    calibration_settings,
    committed_table,
    keep_other_table,
    locked,
    write_table,
)
from trtasr.quant.stored import arrays_of
from trtasr.recipe import Calibration, Quantization, Recipe, load_recipe
from trtasr.values import ScaleTable, TensorScale, WeightScale

ROOT = Path(__file__).parents[2]
SETTINGS = {"format": 1, "checkpoint_sha256": "a"}
SCALES = np.array([0.5, 0.25], np.float32)
CODES = np.array([[[1], [-2], [3]], [[127], [0], [-127]]], np.int8)
BIAS = np.array([0.1, -0.2], np.float32)
ARRAYS = {"bias": BIAS, "weight": CODES}
BROKEN = {
    "codes that the table lacks": {"weight": CODES, "bias": BIAS.astype(np.int8)},
    "weight in float": {"weight": CODES.astype(np.float32), "bias": BIAS},
    "weight of more channels": {"weight": np.zeros((3, 3, 1), np.int8), "bias": BIAS},
    "weight without channels": {"weight": np.array(3, np.int8), "bias": BIAS},
    "bias in float64": {"weight": CODES, "bias": BIAS.astype(np.float64)},
    "bias of two axes": {"weight": CODES, "bias": BIAS[None]},
    "bias not a number": {"weight": CODES, "bias": np.array([0.1, np.nan], np.float32)},
    "bias infinite": {"weight": CODES, "bias": np.array([0.1, np.inf], np.float32)},
    "one missing": {"weight": CODES},
    "one too many": {"weight": CODES, "bias": BIAS, "other": BIAS},
}


@pytest.fixture
def table() -> ScaleTable:
    return corrected(1.0)


def corrected(bias: float, **weights: float) -> ScaleTable:
    """A corrected table of one layer; ``weights`` are further biases."""
    changed = {"weight": CODES * SCALES[:, None, None], "bias": np.array([bias, 0], np.float32)}
    changed |= {name: np.array([value], np.float32) for name, value in weights.items()}
    return ScaleTable(
        {"x": TensorScale(1.0, "max")}, {"weight": WeightScale(SCALES, 0)}, settings=SETTINGS, corrected=changed
    )


def replace_weights(folder: Path, content: bytes) -> Path:
    """Another file of weights, which the table vouches for."""
    (folder / "m.safetensors").write_bytes(content)
    path = folder / "m.json"
    data = json.loads(path.read_text(encoding="utf-8")) | {"corrected_sha256": hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_a_table_of_other_settings_is_not_asked_for_its_weights(table, tmp_path, caplog):
    write_table(tmp_path, "m", table)
    caplog.set_level(logging.INFO)
    (tmp_path / "m.safetensors").write_bytes(b"of another table")
    assert committed_table(tmp_path, "m", {**SETTINGS, "checkpoint_sha256": "b"}) is None
    (tmp_path / "m.safetensors").unlink()
    assert committed_table(tmp_path, "m", {**SETTINGS, "format": 2}) is None
    assert caplog.text.count("calibrating anew") == 2
    with pytest.raises(UsageError, match=r"m\.safetensors: missing, or not the weights of m\.json"):
        committed_table(tmp_path, "m", SETTINGS)


def test_a_table_of_the_same_settings_comes_with_its_weights(table, tmp_path):
    write_table(tmp_path, "m", table)
    found = committed_table(tmp_path, "m", SETTINGS)
    assert found.corrected.keys() == table.corrected.keys()
    for name, values in table.corrected.items():
        assert found.corrected[name].dtype == np.float32
        np.testing.assert_array_equal(found.corrected[name], values)


class Maker:
    """Makes a table and notes what for."""

    def __init__(self):
        self.asked = []

    def __call__(self, method, settings):
        self.asked.append((method, settings))
        return corrected(len(self.asked) * 10.0)


def test_a_committed_table_is_used_in_place_of_a_new_one(table, tmp_path):
    write_table(tmp_path, "m", table)
    make = Maker()
    found = locked(Recipe("m", "m.nemo"), SETTINGS, tmp_path, False, make)
    assert make.asked == []
    assert list(found) == ["synthetic"]
    assert found["synthetic"].settings == SETTINGS


def test_other_settings_another_name_or_no_folder_make_one(table, tmp_path):
    write_table(tmp_path, "m", table)
    for recipe, settings, folder in (
        (Recipe("m", "m.nemo"), SETTINGS | {"format": 2}, tmp_path),
        (Recipe("n", "m.nemo"), SETTINGS, tmp_path),
        (Recipe("m", "m.nemo"), SETTINGS, None),
    ):
        make = Maker()
        assert list(locked(recipe, settings, folder, False, make)) == ["synthetic"]
        assert make.asked == [("synthetic", settings)]


def test_controls_have_tables_of_their_own_which_no_settings_name(table, tmp_path):
    write_table(tmp_path, "m", table)
    make = Maker()
    recipe = Recipe("m", "m.nemo", calibration=Calibration(method="audio"))
    found = locked(recipe, SETTINGS, tmp_path, True, make)
    assert list(found) == ["noise", "synthetic", "audio"]
    assert make.asked == [("noise", {}), ("synthetic", {})]
    assert found["audio"].corrected["bias"][0] == 1.0


def test_the_table_of_another_checkpoint_is_kept(table, tmp_path):
    checkpoint = read_nemo(write_archive(tmp_path / "tiny.nemo"))
    keep_other_table(tmp_path, "m", checkpoint)  # nothing there
    write_table(tmp_path, "m", replace(table, settings=SETTINGS | {"checkpoint_sha256": checkpoint.sha256}))
    keep_other_table(tmp_path, "m", checkpoint)
    write_table(tmp_path, "m", table)
    with pytest.raises(UsageError, match=r"m\.json: is not a scale table of this checkpoint") as caught:
        keep_other_table(tmp_path, "m", checkpoint)
    assert f"--calib-dir {tmp_path}" in caught.value.repair
    (tmp_path / "m.json").unlink()
    with pytest.raises(UsageError, match="is not a scale table"):  # what belongs to it is somebody's too
        keep_other_table(tmp_path, "m", checkpoint)


@pytest.mark.parametrize("correction", ["none", "fade"])
def test_settings_are_found_again_in_the_file(table, tmp_path, correction):
    """As `make calib` writes them and a compile looks for them, with excluded layers too."""
    checkpoint = read_nemo(write_archive(tmp_path / "tiny.nemo"))
    recipe = Recipe("m", "tiny.nemo", quantization=Quantization(correction=correction, exclude=("/a/*",)))
    settings = calibration_settings(recipe, checkpoint)
    write_table(tmp_path, "m", replace(table, settings=settings))
    assert committed_table(tmp_path, "m", calibration_settings(recipe, checkpoint)) is not None
    other = replace(recipe, quantization=Quantization(correction=correction, headroom=1.1))
    assert committed_table(tmp_path, "m", calibration_settings(other, checkpoint)) is None


@pytest.mark.parametrize("name", ["quartznet", "jasper", "conformer"])
def test_committed_tables_are_of_the_settings_of_their_recipes(name):
    """A key that the recipe gets later, as `weight_only`, must not make them stale."""
    recipe = load_recipe(ROOT / "engines" / f"{name}.toml")
    settings = calibration_settings(recipe, read_nemo(Path(recipe.checkpoint)))
    assert committed_table(ROOT / "calib", name, settings) is not None
    assert not {"weight_only", "weight_group"} & settings["quantization"].keys()


def test_weights_alone_make_no_engine(tmp_path):
    checkpoint = read_nemo(write_archive(tmp_path / "tiny.nemo"))
    recipe = Recipe("m", "tiny.nemo", quantization=Quantization(weight_only=True))
    with pytest.raises(RecipeError, match=r"weight_only = true.*trtasr ablation.*\n.*leave out"):
        calibration_settings(recipe, checkpoint)


def test_a_table_that_names_no_file_of_weights_says_so(table, tmp_path):
    path, _ = write_table(tmp_path, "m", table)
    data = json.loads(path.read_text(encoding="utf-8"))
    del data["corrected_sha256"]  # as in scales.json of a bundle
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UsageError, match=r"m\.json: names corrected weights, but no file .*\n.*remake both"):
        read_table(path)


@pytest.mark.parametrize(
    "text", ["{", "\xff", json.dumps({"activations": {}, "weights": {}, "offsets": {}, "settings": []})]
)
def test_what_is_no_table_is_named(tmp_path, text):
    (tmp_path / "m.json").write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=r"m\.json: not a scale table"):
        committed_table(tmp_path, "m", SETTINGS)


SCALE = {"amax": 127.0, "scale": 1.0, "method": "max", "non_negative": False, "sqnr_db": None}
WEIGHT = {"axis": 0, "scales": [1.0], "sqnr_db": None, "floored": []}
WRONG = {
    "activations": {"activations": []},
    "missing": {"weights": None},
    "scale": {"activations": {"x": SCALE | {"scale": "1"}}},
    "zero": {"activations": {"x": SCALE | {"amax": 0, "scale": 0}}},
    "negative": {"activations": {"x": SCALE | {"amax": -127.0, "scale": -1.0}}},
    "huge": {"activations": {"x": SCALE | {"amax": 1e300, "scale": 1e298}}},
    "method": {"activations": {"x": SCALE | {"method": 3}}},
    "sqnr": {"activations": {"x": SCALE | {"sqnr_db": []}}},
    "disagreeing": {"activations": {"x": SCALE | {"scale": 2.0}}},
    "axis": {"weights": {"w": WEIGHT | {"axis": "0"}}},
    "negative axis": {"weights": {"w": WEIGHT | {"axis": -1}}},
    "channels": {"weights": {"w": WEIGHT | {"scales": 1.0}}},
    "zero channel": {"weights": {"w": WEIGHT | {"scales": [0.0]}}},
    "underflow": {"weights": {"w": WEIGHT | {"scales": [1e-300]}}},
    "floored": {"weights": {"w": WEIGHT | {"floored": [0.5]}}},
    "offsets": {"offsets": {"x": "abc"}},
    "offset": {"offsets": {"x": [1e308]}},
    "alphas": {"alphas": {"x": "strong"}},
    "corrected": {"corrected": [3]},
    "hash": {"corrected_sha256": 3},
}


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG)
def test_values_that_no_table_has_are_named(tmp_path, changes):
    whole = {"activations": {"x": SCALE}, "weights": {"w": WEIGHT}, "offsets": {}, "settings": SETTINGS}
    path = tmp_path / "m.json"
    path.write_text(json.dumps(whole), encoding="utf-8")
    assert committed_table(tmp_path, "m", SETTINGS) is not None
    path.write_text(json.dumps(whole | changes), encoding="utf-8")
    with pytest.raises(UsageError, match=r"m\.json: not a scale table \(.*\n.*make calib"):
        committed_table(tmp_path, "m", SETTINGS)


@pytest.mark.parametrize("content", [b'{"activations": ' + b"[" * 100_000, b'{"weights": ' + b"1" * 6000, b"NaN", b""])
def test_a_table_without_bounds_is_refused(tmp_path, content):
    (tmp_path / "m.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"m\.json: not a scale table"):
        committed_table(tmp_path, "m", SETTINGS)


@pytest.mark.parametrize("arrays", BROKEN.values(), ids=BROKEN)
def test_weights_that_do_not_fit_the_table_are_refused(table, tmp_path, arrays):
    write_table(tmp_path, "m", table)
    with pytest.raises(UsageError, match=r"m\.safetensors: .*\n.*remake both with `make calib`"):
        read_table(replace_weights(tmp_path, save(arrays)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no such file",
        save(ARRAYS)[:-3],
        save(ARRAYS).replace(b"F32", b"F99"),
        save(ARRAYS).replace(b'"shape":[2]', b'"shape":[9]'),
        (2**40).to_bytes(8, "little") + save(ARRAYS)[8:],
    ],
)
def test_damaged_or_inflated_files_are_refused(table, tmp_path, content):
    write_table(tmp_path, "m", table)
    with pytest.raises(UsageError, match=r"m\.safetensors: not a file of corrected weights .*\n.*remake both"):
        read_table(replace_weights(tmp_path, content))


def test_bytes_of_weights_depend_on_their_values_alone(table, monkeypatch):
    first = save(arrays_of(table))
    turned = {name: np.asarray(values, order="F") for name, values in reversed(table.corrected.items())}
    monkeypatch.setattr("time.time", lambda: 2e9)  # the year 2033
    assert save(arrays_of(replace(table, corrected=turned))) == first


def stop_at(monkeypatch, operation, stop, halt):
    """Have the process halt when it does an operation on a path once more than ``stop`` times."""
    done, calls = getattr(Path, operation), []

    def stopping(path, *arguments, **options):
        calls.append(path)
        if len(calls) > stop:
            halt()
        return done(path, *arguments, **options)

    monkeypatch.setattr(Path, operation, stopping)


def killed_while_writing(folder, table, arrange):
    """Write a table in a process of its own, which `arrange` may have killed; True when it was."""
    pid = os.fork()
    if pid == 0:
        try:
            arrange()
            write_table(folder, "m", table)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def whole_old_or_new(folder, after):
    """The table that the next run reads, its weights and its cache are all old, or all new."""
    found = committed_table(folder, "m", SETTINGS)
    assert found is not None
    expected = corrected(1.0) if found.activations["x"].amax == 1.0 else after
    assert found.corrected.keys() == expected.corrected.keys()
    assert not found.corrected or found.corrected["bias"][0] == expected.corrected["bias"][0]
    assert (folder / "m.cache").read_text() == cache_text(found)
    assert [entry.name for entry in folder.iterdir() if entry.name.startswith(".")] == []


AFTER = [
    replace(corrected(2.0), activations={"x": TensorScale(2.0, "max")}, corrected=changed)
    for changed in (corrected(2.0).corrected, {})
]


@pytest.mark.parametrize("operation", ["replace", "unlink", "rename"])
@pytest.mark.parametrize("stop", range(4))
@pytest.mark.parametrize("after", AFTER, ids=["corrected", "plain"])
def test_kill_9_while_writing_leaves_the_old_table_or_the_new_one(tmp_path, monkeypatch, operation, stop, after):
    write_table(tmp_path, "m", corrected(1.0))
    killed_while_writing(
        tmp_path, after, lambda: stop_at(monkeypatch, operation, stop, lambda: os.kill(os.getpid(), 9))
    )
    whole_old_or_new(tmp_path, after)


@pytest.mark.parametrize("operation", ["replace", "unlink", "rename"])
@pytest.mark.parametrize("stop", range(4))
@pytest.mark.parametrize("after", AFTER, ids=["corrected", "plain"])
def test_a_failure_while_writing_leaves_the_old_table_or_the_new_one(tmp_path, monkeypatch, operation, stop, after):
    def fail():
        raise OSError(errno.EIO, "Input/output error")

    write_table(tmp_path, "m", corrected(1.0))
    with monkeypatch.context() as patched, contextlib.suppress(OSError, TrtasrError):
        stop_at(patched, operation, stop, fail)
        write_table(tmp_path, "m", after)
    whole_old_or_new(tmp_path, after)


def test_a_cache_that_holds_other_scales_than_its_table_is_named(tmp_path, caplog):
    write_table(tmp_path, "m", corrected(1.0))
    (tmp_path / "m.cache").write_text("TRT-101601-EntropyCalibration2\nx: 3c000000\n")
    committed_table(tmp_path, "m", SETTINGS)
    assert "m.cache: does not hold the scales of m.json" in caplog.text
    caplog.clear()
    (tmp_path / "m.cache").write_bytes(b"\xff")
    assert committed_table(tmp_path, "m", SETTINGS) is not None
    assert "m.cache: does not hold the scales of m.json" in caplog.text
