"""Whatever ends a run, by a signal or by a disk: nothing half-written, nothing lost, and a sentence that says so."""

import ctypes
import errno
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from compiling import CHEAP, compiling, read, run
from refusals import FAST, names, refused
from tiny_archive import write_archive
from whisper_folder import write_folder

from trtasr.cli import main
from trtasr.pipeline import compile as pipeline


def test_interrupt_leaves_nothing(tmp_path, monkeypatch, capsys) -> None:
    model = write_archive(tmp_path / "model.nemo")
    before = names(tmp_path)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "measure", interrupted)
    assert main(["compile", str(model), "-o", str(tmp_path / "out"), *FAST]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert names(tmp_path) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_of_a_real_run_leaves_nothing(tmp_path, number) -> None:
    model = write_archive(tmp_path / "model.nemo")
    (tmp_path / "tmp").mkdir()
    before = names(tmp_path)  # the folder for temporary files too
    environment = {key: value for key, value in os.environ.items() if key != "TORCHINDUCTOR_CACHE_DIR"}
    environment["TMPDIR"] = str(tmp_path / "tmp")
    slow = ["--set", "calibration.batches=500", "--target", "cpu"]
    # A test run started in the background inherits an ignored SIGINT; the child takes it back.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from trtasr.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "compile", str(model), "-o", str(tmp_path / "out"), *slow]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if "synthetic batch 1" in line:
                assert names(tmp_path) != before  # it was in the middle: the staging folder is there
                run.send_signal(number)
                break
        try:
            _, errors = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == 130
    assert "interrupted: nothing was written" in errors
    assert names(tmp_path) == before


def limited_to(limit: int, arguments: list[str]) -> int:
    """Run with a limit on the size of files, as after `ulimit -f`."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, usual[1]))
    try:
        return main(arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


@pytest.mark.parametrize("limit", [10_000, 60_000])
def test_a_limit_on_file_sizes_is_the_environments_fault(tmp_path, capsys, limit) -> None:
    model = write_archive(tmp_path / "model.nemo")
    before = names(tmp_path)
    assert limited_to(limit, ["compile", str(model), "-o", str(tmp_path / "out"), *FAST]) == 4
    printed = capsys.readouterr().err
    assert f"files may have at most {limit} bytes" in printed
    assert "repair: raise that limit" in printed
    assert names(tmp_path) == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("where", ["export", "write_record"])
def test_a_disk_that_takes_no_more_is_the_environments_fault(tmp_path, monkeypatch, capsys, number, where) -> None:
    """Of temporary files (the export) and of the bundle (its records)."""

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    model = write_archive(tmp_path / "model.nemo")
    out = tmp_path / "out"
    assert main(["compile", str(model), "-o", str(out), *FAST]) == 0
    before, sealed = names(tmp_path), (out / "bundle.json").read_bytes()
    capsys.readouterr()
    monkeypatch.setattr(pipeline, where, full)
    assert main(["compile", str(model), "-o", str(out), *FAST]) == 4
    printed = capsys.readouterr().err
    assert os.strerror(number) in printed
    assert "repair:" in printed
    assert "MB are free" in printed or number not in (errno.ENOSPC, errno.EDQUOT)
    assert names(tmp_path) == before
    assert (out / "bundle.json").read_bytes() == sealed


def test_a_folder_of_somebody_else_with_a_bundle_json_is_refused_untouched(tmp_path, capsys) -> None:
    model, web = write_archive(tmp_path / "model.nemo"), tmp_path / "web"
    web.mkdir()
    (web / "bundle.json").write_text('{"name": "web", "format": 1, "files": []}', encoding="utf-8")
    (web / "thesis.txt").write_text("precious", encoding="utf-8")
    refused(tmp_path, ["compile", str(model), "-o", str(web), *FAST], 2, "not a bundle", capsys)
    assert (web / "thesis.txt").read_text(encoding="utf-8") == "precious"


def test_the_next_compile_keeps_what_a_user_put_into_a_bundle(tmp_path, caplog) -> None:
    model, out = write_archive(tmp_path / "model.nemo"), tmp_path / "out"
    assert main(["compile", str(model), "-o", str(out), *FAST]) == 0
    (out / "notes").mkdir()
    (out / "notes" / "mine.txt").write_text("precious", encoding="utf-8")
    (out / "layers.json").write_text("edited by hand", encoding="utf-8")
    assert main(["compile", str(model), "-o", str(out), *FAST]) == 0
    assert (out / "notes" / "mine.txt").read_text(encoding="utf-8") == "precious"
    assert (out / "layers.json.kept").read_text(encoding="utf-8") == "edited by hand"
    assert "kept what was not of the old bundle, or changed: layers.json.kept, notes/mine.txt" in caplog.text


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("nowhere")], ids=["fifo", "dangling"])
def test_an_output_that_is_no_folder_is_refused_and_stays(tmp_path, capsys, make) -> None:
    model, out = write_archive(tmp_path / "model.nemo"), tmp_path / "out"
    make(out)
    found = out.lstat().st_ino
    refused(tmp_path, ["compile", str(model), "-o", str(out), *FAST], 2, "out: is a", capsys)
    assert out.lstat().st_ino == found


@pytest.mark.parametrize("number", [errno.EIO, errno.EXDEV, errno.EACCES])
def test_a_rename_that_fails_leaves_the_old_bundle_and_a_sentence(tmp_path, monkeypatch, capsys, number) -> None:
    """Whichever way the bundle takes its place: by one exchange, or by renames."""
    model, out = write_archive(tmp_path / "model.nemo"), tmp_path / "out"
    assert main(["compile", str(model), "-o", str(out), *FAST]) == 0
    before, sealed, rename = names(tmp_path), (out / "bundle.json").read_bytes(), Path.rename

    def no_exchange(*_: object) -> int:
        ctypes.set_errno(errno.ENOSYS)
        return -1

    def broken(self: Path, target: Path) -> Path:
        if Path(target) == out and (self / "bundle.json").read_bytes() != sealed:
            raise OSError(number, os.strerror(number))
        return rename(self, target)

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace(renameat2=no_exchange))
    monkeypatch.setattr(Path, "rename", broken)
    assert main(["compile", str(model), "-o", str(out), *FAST]) == (4 if number == errno.EIO else 2)
    monkeypatch.undo()
    assert os.strerror(number) in capsys.readouterr().err
    assert (out / "bundle.json").read_bytes() == sealed
    assert names(tmp_path) == before


@pytest.mark.parametrize("verb", ["compile", "calibrate"])
def test_the_next_run_clears_what_kill_9_left(tmp_path, verb) -> None:
    """Beside the output and among the temporary files, whichever run comes next."""
    model = write_archive(tmp_path / "model.nemo")
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    command = [sys.executable, "-c", "import sys; from trtasr.cli import main; sys.exit(main())", "compile", str(model)]
    slow = [*command, "-o", str(tmp_path / "out"), "--set", "calibration.batches=500", "--target", "cpu"]
    before = names(tmp_path)
    with subprocess.Popen(slow, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if "synthetic batch 1" in line:
                run.kill()
                break
    assert len(names(tmp_path)) > len(before) + 1
    words = {"compile": ["-o", str(tmp_path / "out"), *FAST], "calibrate": ["--calib-dir", str(tmp_path), *FAST[:4]]}
    following = [*command[:3], verb, str(model), *words[verb]]
    subprocess.run(following, env=environment, check=True, capture_output=True)
    made = {"compile": {"out"}, "calibrate": {"model.json", "model.cache", "model.safetensors"}}[verb]
    assert {name.split("/")[0] for name in names(tmp_path) - before} == made


@pytest.mark.parametrize("flag", ["--saveEngine", "--exportLayerInfo"])
def test_a_file_in_a_folder_that_cannot_be_written_is_refused_before_anything_is_built(
    tmp_path, monkeypatch, capsys, flag
) -> None:
    """The system is asked by a stand-in: an administrator may write everywhere."""
    model = write_archive(tmp_path / "model.nemo")
    monkeypatch.setattr(os, "access", lambda *_: False)
    words = ["compile", str(model), "-o", str(tmp_path / "out"), flag, str(tmp_path / "file"), *FAST]
    refused(tmp_path, words, 2, "file: its folder cannot be written", capsys)


@pytest.mark.parametrize("flag", ["--saveEngine", "--exportLayerInfo", "--exportProfile", "--timingCacheFile"])
def test_an_output_that_is_a_folder_is_refused_before_anything_is_built(tmp_path, capsys, flag) -> None:
    model = write_archive(tmp_path / "model.nemo")
    words = ["compile", str(model), "-o", str(tmp_path / "out"), flag, str(tmp_path), *FAST]
    refused(tmp_path, words, 2, "is a folder", capsys)


@pytest.mark.parametrize("flag", ["--saveEngine", "--exportLayerInfo", "--timingCacheFile"])
def test_an_output_that_is_no_regular_file_is_refused_before_anything_is_built(tmp_path, capsys, flag) -> None:
    model, pipe = write_archive(tmp_path / "model.nemo"), tmp_path / "pipe"
    os.mkfifo(pipe)
    words = ["compile", str(model), "-o", str(tmp_path / "out"), flag, str(pipe), *FAST]
    refused(tmp_path, words, 2, "pipe: is no regular file, and is left alone", capsys)
    assert pipe.is_fifo()


@pytest.mark.parametrize("bundle", ["ctc_bundle", "pair_bundle"])
def test_a_saved_engine_is_a_file_of_each_part_in_trtexecs_spelling(request, bundle, tmp_path) -> None:
    made = request.getfixturevalue(bundle)
    saved, layers, out = tmp_path / "my.plan", tmp_path / "layers.json", tmp_path / "out"
    flags = "--target", "t4-rtx", "--saveEngine", saved, "--exportLayerInfo", layers
    assert compiling(made.checkpoint, out, *flags)[0] == 0
    for part in made.parts:
        file = saved if len(made.parts) == 1 else tmp_path / f"my.{part}.plan"
        assert file.read_bytes() == (out / "t4-rtx" / f"{part}.plan").read_bytes()
    assert json.loads(layers.read_text(encoding="utf-8"))["Layers"]


def test_a_folder_keeps_its_whole_name(tmp_path, monkeypatch) -> None:
    write_folder(tmp_path / "tiny.en")
    monkeypatch.chdir(tmp_path)
    assert run("compile", f"{tmp_path / 'tiny.en'}/", "--target", "cpu", *CHEAP)[0] == 0
    assert read(tmp_path / "engines" / "tiny.en", "bundle.json")["name"] == "tiny.en"


def test_an_engine_that_cannot_be_saved_whole_leaves_the_old_one(tmp_path, monkeypatch, capsys) -> None:
    def half(source: Path, to: Path, **_: object) -> None:
        Path(to).write_bytes(Path(source).read_bytes()[:1500])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    model, saved = write_archive(tmp_path / "model.nemo"), tmp_path / "saved.onnx"
    saved.write_bytes(b"old")
    monkeypatch.setattr("shutil.copyfile", half)
    words = ["compile", str(model), "-o", str(tmp_path / "out"), "--saveEngine", str(saved), *FAST]
    assert main(words) == 4
    assert f"{saved}: No space left on device" in capsys.readouterr().err
    assert saved.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"model.nemo", "out", "saved.onnx"}


def test_an_interrupt_after_the_bundle_is_in_place_says_that_it_is(tmp_path, monkeypatch, capsys) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    model = write_archive(tmp_path / "model.nemo")
    monkeypatch.setattr("trtasr.cli.verbs.write_extras", interrupted)
    assert main(["compile", str(model), "-o", str(tmp_path / "out"), *FAST]) == 130
    assert (tmp_path / "out" / "bundle.json").is_file()
    printed = capsys.readouterr().err
    assert "nothing was written" not in printed
    assert f"interrupted: written before: {tmp_path / 'out'}" in printed
