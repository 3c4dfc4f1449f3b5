"""Bad input: a clear message, the documented exit code, nothing half-written, nothing lost."""

import io
import json
import os
import pickle
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from refusals import FAST, names, refused
from tiny_archive import HYBRID, write_archive, write_conformer, write_manifest

from trtasr.cli import main
from trtasr.cli.verbs import VERBS, Summary, write_json


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def bomb() -> bytes:
    """Weights in torch's zip format whose pickle would create a file."""
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(1)}, buffer)
    found = io.BytesIO()
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(found, "w") as target:
        for name in source.namelist():
            target.writestr(name, pickle.dumps({"w": Bomb()}) if name.endswith("data.pkl") else source.read(name))
    return found.getvalue()


def truncated() -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(1000)}, buffer)
    return buffer.getvalue()[:900]


def escape(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("../escaped.txt")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p, "no such"),
        (lambda p: p.write_bytes(b"not a tar at all" * 100) and p, "archive"),
        (lambda p: write_archive(p, members={"model_config.yaml": b""}), "model_config.yaml"),
        (lambda p: write_archive(p, members={"model_weights.ckpt": truncated()}), "model_weights.ckpt"),
        (lambda p: write_archive(p, members={"model_weights.ckpt": bomb()}), "model_weights.ckpt"),
        (escape, "../escaped.txt"),
        (lambda p: write_archive(p, {"target": "nemo.collections.asr.models.EncDecRNNTModel"}), "EncDecRNNTModel"),
    ],
    ids=["missing", "not-archive", "no-config", "truncated", "bomb", "escape", "unknown-class"],
)
def test_bad_checkpoints(tmp_path, monkeypatch, capsys, make, words) -> None:
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path / "model.nemo")
    refused(tmp_path, ["compile", str(path), "-o", "out", *FAST], 2, words, capsys)
    assert not (tmp_path / "exploded").exists()
    assert not (tmp_path.parent / "escaped.txt").exists()


CTC_CLASSES = "Conformer or FastConformer (ConformerEncoder), as EncDecCTCModel or EncDecCTCModelBPE"
SQUEEZEFORMER = {"encoder": {"_target_": "nemo.collections.asr.modules.SqueezeformerEncoder", "feat_in": 64}}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda p: write_conformer(p, HYBRID),
            "target: EncDecHybridRNNTCTCBPEModel is a hybrid transducer and CTC model",
        ),
        (
            lambda p: write_conformer(p, {"target": "nemo.collections.asr.models.EncDecRNNTBPEModel"}),
            "target: EncDecRNNTBPEModel is a transducer (RNN-T)",
        ),
        (
            lambda p: write_conformer(p, {"target": "nemo.collections.asr.models.EncDecMultiTaskModel"}),
            "target: EncDecMultiTaskModel is an attention encoder-decoder",
        ),
        (lambda p: write_conformer(p, SQUEEZEFORMER), "encoder._target_: SqueezeformerEncoder is not supported"),
    ],
    ids=["hybrid", "transducer", "encoder-decoder", "squeezeformer"],
)
def test_other_kinds_of_model_are_named_beside_the_supported_ones(tmp_path, monkeypatch, capsys, make, words) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "other.nemo")
    before = names(tmp_path)
    assert main(["compile", "other.nemo", "-o", "out", *FAST]) == 2
    printed = capsys.readouterr()
    assert f"other.nemo: {words}" in printed.err
    assert CTC_CLASSES in printed.err.partition("repair:")[2]
    assert "FAILED | exit 2 | CheckpointError" in printed.err
    assert names(tmp_path) == before


def wrong_rate(folder: Path) -> Path:
    return write_manifest(folder, rate=2000)


def empty_audio(folder: Path) -> Path:
    path = write_manifest(folder)
    soundfile.write(folder / "1.wav", np.zeros(0, np.float32), 16000)
    return path


def no_text(folder: Path) -> Path:
    path = write_manifest(folder)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    del lines[1]["text"]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("make", "words"), [(wrong_rate, "sample rate"), (empty_audio, "1.wav"), (no_text, "line 2: no text")]
)
def test_bad_speech(tmp_path, capsys, make, words) -> None:
    model, manifest = write_archive(tmp_path / "model.nemo"), make(tmp_path)
    out = ["-o", str(tmp_path / "out")]
    refused(tmp_path, ["compile", str(model), "--manifest", str(manifest), *out, *FAST], 2, words, capsys)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--set", "calibration.stepz=3"], "did you mean 'steps'"),
        (["--set", "calibration.steps=x"], "--set 'calibration.steps=x': steps: expected an integer, got 'x'"),
        (["--target", "jetson"], "--target = 'jetson'"),
        (["--controls"], "--manifest"),
        (["--minShapes", "audio:1x2"], "features:BATCHxMELxFRAMES"),
    ],
)
def test_bad_flags(tmp_path, capsys, extra, words) -> None:
    model = write_archive(tmp_path / "model.nemo")
    refused(tmp_path, ["compile", str(model), "-o", str(tmp_path / "out"), *FAST, *extra], 2, words, capsys)


def test_unknown_model_name_lists_the_bundled_ones(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    assert main(["compile", "quartznett"]) == 2
    assert "quartznet" in capsys.readouterr().err


def test_unwritable_output(tmp_path, capsys) -> None:
    model = write_archive(tmp_path / "model.nemo")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    out = ["-o", str(tmp_path / "file" / "out")]
    refused(tmp_path, ["compile", str(model), *out, *FAST], 2, "cannot be written", capsys)


def test_target_t4_is_an_environment_error(tmp_path, capsys) -> None:
    model = write_archive(tmp_path / "model.nemo")
    refused(tmp_path, ["compile", str(model), "-o", str(tmp_path / "out"), "--target", "t4"], 4, "T4 host", capsys)
    assert main(["compile", str(model), "-o", str(tmp_path / "out"), "--target", "t4"]) == 4
    printed = capsys.readouterr().err
    assert "TensorRT is not installed" in printed or "pycuda" in printed
    assert "use TARGET=t4-rtx" in printed


def test_acceptance_without_a_t4_host_is_an_environment_error(tmp_path, capsys) -> None:
    model = write_archive(tmp_path / "model.nemo")
    assert main(["acceptance", str(model), "-o", str(tmp_path / "all")]) == 4
    assert "T4 host" in capsys.readouterr().err
    assert not (tmp_path / "all").exists()


def test_verbs_on_a_folder_that_is_no_bundle(tmp_path, capsys) -> None:
    for verb in (["inspect"], ["bench"], ["compare"]):
        assert main([*verb, str(tmp_path)]) == 2
        assert "no bundle here" in capsys.readouterr().err


def test_dry_run_prints_recipe_and_stages_and_builds_nothing(tmp_path, capsys) -> None:
    model = write_archive(tmp_path / "model.nemo")
    before = names(tmp_path)
    flags = ["--dry-run", "--maxShapes", "features:4x64x3000"]
    assert main(["compile", str(model), "-o", str(tmp_path / "out"), *flags]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["recipe"]["engine"]["max_batch"] == 4
    assert plan["recipe"]["engine"]["max_seconds"] == 30.0
    assert plan["targets"] == ["t4-rtx", "cpu"]
    assert any("calibrate" in stage for stage in plan["stages"])
    assert names(tmp_path) == before


def test_doctor_names_what_is_missing(capsys) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "ONNX Runtime" in printed
    assert "TensorRT" in printed


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (["bench", "."], "BundleError", "no bundle here"),
        (["bench"], "UsageError", "required: bundle"),
        (["bench", ".", "--batch", "x"], "UsageError", "--batch: invalid int value: 'x'"),
    ],
    ids=["bundle", "missing", "flag"],
)
def test_a_failure_is_json_too(tmp_path, monkeypatch, capsys, arguments, kind, words) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--json"]) == 2
    printed = capsys.readouterr()
    error = json.loads(printed.out)["error"]
    assert (error["class"], error["exit_code"]) == (kind, 2)
    assert words in error["problem"]
    assert error["repair"]
    assert f"repair: {error['repair']}" in printed.err


def test_a_bug_is_json_and_a_traceback(monkeypatch, capsys) -> None:
    monkeypatch.setitem(VERBS, "doctor", lambda _: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main(["doctor", "--json"])
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 1


def test_an_interrupt_is_json_too(monkeypatch, capsys) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(VERBS, "doctor", interrupted)
    assert main(["doctor", "--json"]) == 130
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["exit_code"] == 130
    assert printed.err == "interrupted: nothing was written\n"


def test_an_interrupt_names_what_was_written_before(tmp_path, monkeypatch, capsys) -> None:
    def interrupted(_: object) -> None:
        write_json(tmp_path / "layers.json", [])
        raise KeyboardInterrupt

    monkeypatch.setitem(VERBS, "doctor", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == f"interrupted: written before: {tmp_path / 'layers.json'}\n"


@pytest.mark.parametrize(
    "flag", ["--int8", "--fp16", "--onnx=model.onnx", "--calib=model.cache", "--best", "--memPoolSize=workspace:1024"]
)
def test_what_trtexec_would_take_is_explained(tmp_path, capsys, flag) -> None:
    model = write_archive(tmp_path / "model.nemo")
    refused(tmp_path, ["compile", str(model), flag, "-o", str(tmp_path / "out")], 2, flag.partition("=")[0], capsys)
    assert main(["compile", str(model), flag]) == 2
    assert "unrecognized" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "x\0y", "\x1b[2J\u202e", "\udcff"])
@pytest.mark.parametrize("verb", [["compile"], ["bench"], ["transcribe", "."], ["inspect"]])
def test_names_that_no_file_has_are_refused_in_printable_words(tmp_path, monkeypatch, capsys, verb, name) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*verb, name]) == 2
    printed = capsys.readouterr().err
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", printed)
    assert len(printed) < 5000


def test_results_reach_the_terminal_printable_and_json_keeps_them(monkeypatch, capsys) -> None:
    said = "a\x1b]0;owned\x07\u202eb\n"
    monkeypatch.setitem(VERBS, "doctor", lambda _: Summary(said, {"pred_text": said}))
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out == "a\\x1b]0;owned\\x07\\u202eb\n\n"
    assert main(["doctor", "--json"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"pred_text": said}
    assert printed.isprintable() or set(printed) - set(map(chr, range(32, 127))) == {"\n"}


def test_log_lines_are_printable_and_short(tmp_path) -> None:
    code = (
        "import sys\nfrom trtasr.cli import verbs\nfrom trtasr.cli import main\n"
        "import logging\ndef doctor(_):\n"
        "    logging.getLogger('trtasr').warning('unknown keys: %s', '\\x1b[2J' * 10**6)\n"
        "    return verbs.Summary('done')\nverbs.VERBS['doctor'] = doctor\nsys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stderr.startswith("[W] unknown keys: \\x1b[2J")
    assert "\x1b" not in done.stderr
    assert len(done.stderr) < 20_000
