"""Names of engines, what a run may replace, shapes as trtexec writes them, and rehearsals."""

import json
import os
import unicodedata
from pathlib import Path

import pytest
import soundfile
from refusals import FAST
from tiny_archive import write_archive, write_manifest
from whisper_folder import write_folder

from trtasr.cli import main
from trtasr.cli.polygraphy_loader import find_model


def other(path: Path) -> Path:
    """Another archive."""
    path.parent.mkdir(exist_ok=True)
    return write_archive(path, {"comment": "another"})


def name_of(model: str) -> str:
    """The name of the engine of a model argument."""
    return find_model(model, [])[0].name


def built(capsys: pytest.CaptureFixture[str], *arguments: str) -> Path:
    """Bundle of a compile that passes or misses a gate."""
    code = main(["compile", *arguments, *FAST, "--json"])
    printed = capsys.readouterr()
    assert code in (0, 3), printed.err
    return Path(json.loads(printed.out)["bundle"])


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("модель.nemo", "модель"),
        ("сервис.nemo", "сервис"),
        ("my model.nemo", "my_model"),
        ("it's.v1.2.nemo", "it_s.v1.2"),
        ("हिन्दी.nemo", "हिन्दी"),
        ("語音.nemo", "語音"),
        (".hidden.nemo", "hidden"),
        ("....nemo", "model"),
        ("x" * 240 + ".nemo", None),
    ],
)
def test_an_engine_is_called_as_its_archive_in_letters_of_every_script(tmp_path, monkeypatch, file, name) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / file).touch()
    found = name_of(file)
    if name is None:
        assert len(found) == 100
        assert found != name_of("x" * 241 + ".nemo")
    else:
        assert found == unicodedata.normalize("NFC", name)


def test_composed_and_decomposed_file_names_are_one_engine() -> None:
    assert name_of("cafe\u0301.nemo") == name_of("caf\u00e9.nemo") == "caf\u00e9"


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("models--openai--whisper-tiny.en/snapshots/" + "0123456789" * 4, "whisper-tiny.en"),
        ("models--gpt2/snapshots/main", "gpt2"),
        ("whisper-ft", "whisper-ft"),
        ("run.v2/", "run.v2"),
    ],
)
def test_a_folder_or_snapshot_of_the_hub_gives_its_model_name(tmp_path, monkeypatch, folder, name) -> None:
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "config.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert name_of(folder) == name
    monkeypatch.chdir(tmp_path / folder)
    assert name_of(".") == name


def test_an_archive_in_the_hubs_cache_is_not_called_as_its_blob(tmp_path, monkeypatch) -> None:
    blob = tmp_path / "blobs" / ("ab" * 32)
    blob.parent.mkdir()
    blob.touch()
    (tmp_path / "stt_en.nemo").symlink_to(blob)
    monkeypatch.chdir(tmp_path)
    assert name_of("stt_en.nemo") == "stt_en"


@pytest.mark.parametrize("name", ["../../evil", "/nowhere/evil", ".", "", "..", "x" * 300])
def test_a_recipe_cannot_write_outside_engines(tmp_path, monkeypatch, capsys, name) -> None:
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path / "m.nemo")
    (tmp_path / "engines").mkdir()
    (tmp_path / "r.toml").write_text(f'name = "{name}"\ncheckpoint = "m.nemo"\n', encoding="utf-8")
    for arguments in (["r.toml"], ["m.nemo", "--set", f'name="{name}"']):
        assert main(["compile", *arguments, *FAST]) == 2
        assert "name = " in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engines", "m.nemo", "r.toml"]
    assert not list((tmp_path / "engines").iterdir())


def test_two_models_are_never_one_bundle_without_a_word(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path / "m.nemo")
    other(tmp_path / "b" / "m.nemo")
    assert built(capsys, "m.nemo") == Path("engines/m")
    before = (tmp_path / "engines/m/bundle.json").read_bytes()
    assert main(["compile", "b/m.nemo", *FAST]) == 2
    printed = capsys.readouterr().err
    assert "engines/m: holds an engine made from another checkpoint, m.nemo" in printed
    assert "--set name=NAME" in printed
    assert (tmp_path / "engines/m/bundle.json").read_bytes() == before
    assert built(capsys, "b/m.nemo", "--set", "name=n") == Path("engines/n")
    other(tmp_path / "m.nemo")  # trained again, in the same place
    assert built(capsys, "m.nemo") == Path("engines/m")
    write_archive(tmp_path / "b" / "m.nemo")
    assert built(capsys, "b/m.nemo", "-o", "engines/m") == Path("engines/m")  # the user named the folder


def test_a_bundled_scale_table_is_not_replaced_by_another_model(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path / "m.nemo")
    other(tmp_path / "my" / "m.nemo")
    cheap = FAST[:4]
    assert main(["calibrate", "m.nemo", *cheap]) == 0
    assert main(["calibrate", "m.nemo", *cheap, "--set", "calibration.seed=1"]) == 0  # its own table, made anew
    before = {path.name: path.read_bytes() for path in (tmp_path / "calib").iterdir()}
    assert main(["calibrate", "my/m.nemo", *cheap]) == 2
    assert "calib/m.json: is not a scale table of this checkpoint" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "calib").iterdir()} == before
    assert main(["calibrate", "my/m.nemo", *cheap, "--calib-dir", "mine"]) == 0
    assert main(["calibrate", "my/m.nemo", *cheap, "--calib-dir", "calib"]) == 0


def test_weights_of_a_user_in_the_folder_of_tables_stay(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path / "m.nemo")
    (tmp_path / "calib").mkdir()
    (tmp_path / "calib" / "m.safetensors").write_bytes(b"a user's")
    assert main(["calibrate", "m.nemo", *FAST[:4]]) == 2
    assert (tmp_path / "calib" / "m.safetensors").read_bytes() == b"a user's"


@pytest.mark.parametrize("flag", ["--minShapes", "--optShapes", "--maxShapes"])
def test_shapes_of_another_number_of_mel_rows_are_refused(tmp_path, capsys, flag) -> None:
    model = write_archive(tmp_path / "model.nemo")
    command = ["compile", str(model), "-o", str(tmp_path / "out"), *FAST, flag, "features:1x80x500"]
    for arguments in (command, [*command, "--dry-run"]):
        assert main(arguments) == 2
        printed = capsys.readouterr().err
        assert f"{flag}: 80 feature rows, but the model takes 64" in printed
        assert "features:1x64x500" in printed


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (["--maxShapes", "features:1x64x999999999"], "--maxShapes: max_seconds"),
        (["--maxShapes", "features:99999x64x100"], "--maxShapes: max_batch"),
        (["--maxShapes", "features:1x64x" + "9" * 400], "features:BATCHxMELxFRAMES"),
        (["--minShapes", "features:0x64x100"], "features:BATCHxMELxFRAMES"),
        (["--minShapes", "features:1x64x900", "--optShapes", "features:1x64x100"], "not min <= opt <= max"),
    ],
)
def test_shapes_that_no_engine_has_name_the_flag(tmp_path, capsys, shapes, words) -> None:
    model = write_archive(tmp_path / "model.nemo")
    assert main(["compile", str(model), "-o", str(tmp_path / "out"), *FAST, *shapes]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--correction", "no"], "--correction: correction = 'no'"),
        (["--min-sqnr", "nan"], "--min-sqnr: min_sqnr: nan"),
        (["--min-sqnr", "1e9"], "--min-sqnr: min_sqnr = 1000000000.0"),
        (["--max-wer-drop", "-1"], "--max-wer-drop: max_wer_increase = -1.0"),
        (["--compute-capability", "9.9"], "--compute-capability: compute_capability = '9.9'"),
        (["--manifest", "\udcff.json"], "--manifest: manifest = '\\udcff.json'"),
    ],
)
def test_a_fault_of_a_flag_names_the_flag(tmp_path, capsys, flags, words) -> None:
    model = write_archive(tmp_path / "model.nemo")
    assert main(["compile", str(model), "-o", str(tmp_path / "out"), *flags]) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert "--set" not in printed


@pytest.mark.parametrize("verb", ["compile", "bench", "compare"])
@pytest.mark.parametrize(
    ("given", "words"), [("a.json,,b.json", "'' is no path"), ("a," + "x" * 300, "longer than a path")]
)
def test_every_manifest_of_a_list_is_a_path(tmp_path, capsys, verb, given, words) -> None:
    assert main([verb, str(tmp_path / "any"), "--manifest", given]) == 2
    printed = capsys.readouterr().err
    assert "--manifest" in printed
    assert words in printed


def broken_header(folder: Path) -> None:
    (folder / "1.wav").write_bytes(b"RIFF")


def missing_audio(folder: Path) -> None:
    (folder / "1.wav").unlink()


def no_weights(folder: Path) -> None:
    write_archive(folder / "model.nemo", members={"model_weights.ckpt": b"x"})


def a_file_as_output(folder: Path) -> None:
    (folder / "out").write_text("mine", encoding="utf-8")


@pytest.mark.parametrize("damage", [broken_header, missing_audio, no_weights, a_file_as_output])
def test_a_rehearsal_refuses_what_a_compile_refuses(tmp_path, capsys, damage) -> None:
    model, manifest = write_archive(tmp_path / "model.nemo"), write_manifest(tmp_path)
    command = ["compile", str(model), "--manifest", str(manifest), "-o", str(tmp_path / "out"), *FAST]
    assert main([*command, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["utterances"] == 3
    damage(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main([*command, "--dry-run"]) == 2
    rehearsed = capsys.readouterr().err
    assert main(command) == 2
    assert capsys.readouterr().err == rehearsed
    assert sorted(tmp_path.rglob("*")) == before


def test_a_rehearsal_knows_what_an_encoder_decoder_hears(tmp_path, capsys) -> None:
    model = write_folder(tmp_path / "tiny")
    soundfile.write(tmp_path / "long.wav", [0.0] * 16000 * 40, 16000)
    line = {"audio_filepath": "long.wav", "text": "one"}
    (tmp_path / "m.json").write_text(json.dumps(line) + "\n", encoding="utf-8")
    command = ["compile", str(model), "-o", str(tmp_path / "out"), "--manifest", str(tmp_path / "m.json"), *FAST]
    assert main([*command, "--dry-run"]) == 2
    assert "but the model hears at most" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["compile"], ["calibrate"], ["bench"], ["inspect"], ["transcribe", "closed"]])
@pytest.mark.parametrize("model", ["closed", "closed/model.nemo", "closed/recipe.toml", "x" * 255])
def test_models_in_folders_that_are_closed_to_us_are_refused(tmp_path, monkeypatch, capsys, verb, model) -> None:
    """The system is asked by a stand-in: to an administrator no folder is closed."""
    ask = os.stat

    def closed(path, *arguments, **options):
        if "closed" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return ask(path, *arguments, **options)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "stat", closed)
    assert main([*verb, model]) == 2
    assert "repair:" in capsys.readouterr().err


def test_a_bundle_is_found_by_the_model_it_was_made_from(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path / "my model.nemo")
    assert built(capsys, "my model.nemo") == Path("engines/my_model")
    for model in ("my model.nemo", "engines/my_model", "engines/my_model/"):
        assert main(["inspect", model]) == 0
        assert "layers INT8" in capsys.readouterr().out
    assert main(["compile", "engines/my_model"]) == 2
    assert "a finished bundle" in capsys.readouterr().err
    assert main(["inspect", "other.nemo"]) == 2
    assert "other.nemo: no bundle here" in capsys.readouterr().err


@pytest.mark.parametrize("held", ['{"model": "other"}', "{}", "[" * 5000, ""])
def test_findings_of_another_model_are_not_replaced(tmp_path, monkeypatch, capsys, held) -> None:
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path / "m.nemo")
    file = tmp_path / "engines" / "t4-acceptance" / "t4-acceptance.json"
    file.parent.mkdir(parents=True)
    file.write_text(held, encoding="utf-8")
    assert main(["acceptance", "m.nemo"]) == 2
    assert "-o engines/t4-acceptance replaces it" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == held
    assert main(["acceptance", "m.nemo", "-o", "engines/t4-acceptance"]) == 4  # as far as it gets without a T4
