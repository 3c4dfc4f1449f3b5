"""Only what the tool wrote is replaced, in one step, and no file of a user is ever lost."""

import errno
import json
import os
from pathlib import Path

import pytest
from processes import killed
from sidecar import description

from trtasr.bundle import open_bundle, seal, staged
from trtasr.errors import TrtasrError, UsageError


def make(out: Path, text: str = "one") -> None:
    with staged(out) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file.txt").write_text(text, encoding="utf-8")
        (folder / "sub" / "always.txt").write_text("the same", encoding="utf-8")
        seal(folder, description("sub/file.txt"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder but the seal and what is always there, and what it holds."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("bundle.json", "always.txt")]
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in files}


def whole(out: Path, text: str) -> None:
    assert open_bundle(out).file("sub/file.txt").read_text(encoding="utf-8") == text


FOREIGN = {
    "no seal": {"name": "my-web-bundle", "files": ["src/index.js"]},
    "format alone": {"format": 1},
    "names without hashes that fit": {"format": 1, "name": "x", "files": {"thesis.txt": "0" * 64}},
    "no files": {"format": 1, "name": "x", "files": {}},
    "of another kind": [1, 2, 3],
}


@pytest.mark.parametrize("seal_like", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_project_with_a_bundle_json_is_refused_untouched(tmp_path: Path, seal_like: object) -> None:
    web = tmp_path / "web"
    (web / "src").mkdir(parents=True)
    (web / "thesis.txt").write_text("precious", encoding="utf-8")
    (web / "bundle.json").write_text(json.dumps(seal_like), encoding="utf-8")
    with pytest.raises(UsageError, match="not a bundle"):
        make(web)
    assert content(web) == {"thesis.txt": "precious"}
    assert json.loads((web / "bundle.json").read_text(encoding="utf-8")) == seal_like


def test_what_a_user_put_into_a_bundle_moves_on_into_the_next_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out)
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    (out / "sub" / "more").mkdir()
    (out / "sub" / "more" / "deep.txt").write_text("mine too", encoding="utf-8")
    (out / "empty").mkdir()
    (out / "elsewhere").symlink_to("/nowhere")
    (out / "sub" / "file.txt").write_text("edited by hand", encoding="utf-8")
    make(out, "two")
    make(out, "three")
    assert content(out) == {
        "notes.txt": "mine",
        "sub/more/deep.txt": "mine too",
        "sub/file.txt": "three",
        "sub/file.txt.kept": "edited by hand",
    }
    assert (out / "empty").is_dir()
    assert (out / "elsewhere").readlink() == Path("/nowhere")
    whole(out, "three")


def test_the_kept_files_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine", encoding="utf-8")
    make(tmp_path / "out", "two")
    assert "notes.txt" in caplog.text


def test_files_are_kept_where_the_disk_knows_no_second_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    make(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine", encoding="utf-8")
    monkeypatch.setattr(os, "link", no_links)
    make(tmp_path / "out", "two")
    assert content(tmp_path / "out") == {"notes.txt": "mine", "sub/file.txt": "two"}


@pytest.mark.parametrize("kind", ["fifo", "link to nowhere", "link to itself", "link to a file", "file", "socket"])
def test_what_is_no_folder_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    {
        "fifo": lambda: os.mkfifo(out),
        "link to nowhere": lambda: out.symlink_to(tmp_path / "nothing"),
        "link to a file": lambda: (tmp_path / "file").touch() or out.symlink_to(tmp_path / "file"),
        "link to itself": lambda: out.symlink_to(out),
        "file": out.touch,
        "socket": lambda: os.mknod(out, 0o140600),
    }[kind]()
    found, listed = out.lstat().st_ino, names(tmp_path)
    with pytest.raises(UsageError, match="out: is a"):
        make(out)
    assert out.lstat().st_ino == found
    assert names(tmp_path) == listed


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    make(tmp_path / "out")
    make(tmp_path / "out", "two")
    assert (tmp_path / "out").is_symlink()
    whole(tmp_path / "disk", "two")
    assert names(tmp_path) == ["disk", "out"]


def test_a_folder_around_the_current_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out" / "sub")
    with pytest.raises(UsageError, match="current folder"):
        make(Path(".."))
    whole(tmp_path / "out", "one")


def refuse(number: int, monkeypatch: pytest.MonkeyPatch, name: str = "renameat2") -> None:
    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"trtasr.files.replace.{name}", failing)


@pytest.mark.parametrize(("number", "code"), [(errno.EIO, 4), (errno.EXDEV, 2), (errno.EACCES, 2), (errno.ENOSPC, 4)])
def test_a_refused_exchange_leaves_the_old_bundle_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    make(tmp_path / "out")
    refuse(number, monkeypatch)
    with pytest.raises(TrtasrError, match=os.strerror(number)) as caught:
        make(tmp_path / "out", "two")
    assert caught.value.exit_code == code
    assert names(tmp_path) == ["out"]
    whole(tmp_path / "out", "one")


def test_without_an_exchange_two_renames_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine", encoding="utf-8")
    refuse(errno.EINVAL, monkeypatch)
    make(tmp_path / "out", "two")
    assert names(tmp_path) == ["out"]
    assert content(tmp_path / "out") == {"notes.txt": "mine", "sub/file.txt": "two"}


@pytest.mark.parametrize("number", [errno.EIO, errno.EXDEV, errno.EACCES])
def test_a_second_rename_that_fails_brings_the_old_bundle_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    make(tmp_path / "out")
    rename = Path.rename

    def broken(self: Path, target: Path) -> Path:
        if Path(target) == tmp_path / "out" and self.name != "out":
            raise OSError(number, os.strerror(number))
        return rename(self, target)

    refuse(errno.ENOSYS, monkeypatch)
    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(TrtasrError, match=os.strerror(number)):
        make(tmp_path / "out", "two")
    monkeypatch.undo()
    assert names(tmp_path) == ["out"]
    whole(tmp_path / "out", "one")


def die(*_: object) -> None:
    os.kill(os.getpid(), 9)


def test_the_next_run_brings_back_a_bundle_that_was_aside_when_its_process_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "out")
    rename = Path.rename

    def halfway(self: Path, target: Path) -> Path:
        return die() if Path(target) == tmp_path / "out" else rename(self, target)

    def task() -> None:
        refuse(errno.EINVAL, monkeypatch)
        monkeypatch.setattr(Path, "rename", halfway)
        make(tmp_path / "out", "two")

    killed(task)
    assert "out" not in names(tmp_path)
    make(tmp_path / "other")
    assert names(tmp_path) == ["other", "out"]
    whole(tmp_path / "out", "one")


def test_the_next_run_removes_the_staging_folder_of_a_killed_one(tmp_path: Path) -> None:
    make(tmp_path / "out")

    def task() -> None:
        with staged(tmp_path / "out") as folder:
            (folder / "half").write_text("x" * 100, encoding="utf-8")
            die()

    killed(task)
    assert len(names(tmp_path)) == 2
    make(tmp_path / "other")
    assert names(tmp_path) == ["other", "out"]
    whole(tmp_path / "out", "one")


def test_of_two_runs_into_one_bundle_the_last_one_wins_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    with staged(out) as slow:
        make(out, "fast")
        whole(out, "fast")
        (slow / "sub").mkdir()
        (slow / "sub" / "file.txt").write_text("slow", encoding="utf-8")
        seal(slow, description("sub/file.txt"))
    whole(out, "slow")
    assert names(tmp_path) == ["out"]
    assert "another run wrote it" in caplog.text


@pytest.mark.parametrize("exchange", [True, False])
def test_many_runs_at_once_leave_one_whole_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        refuse(errno.EINVAL, monkeypatch)
    children = []
    for index in range(4):
        children.append(os.fork())
        if children[-1] == 0:
            status = 1
            try:
                for turn in range(5):
                    make(tmp_path / "out", f"{index}.{turn}")
                status = 0
            finally:
                os._exit(status)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert names(tmp_path) == ["out"]
    assert open_bundle(tmp_path / "out").file("sub/file.txt").read_text(encoding="utf-8").endswith(".4")


def test_an_output_below_a_name_that_no_folder_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        make(tmp_path / ("x" * 300) / "out")
    assert names(tmp_path) == []


def test_folders_made_for_an_output_that_failed_are_removed_again(tmp_path: Path) -> None:
    def failing() -> None:
        with staged(tmp_path / "a" / "b" / "out"):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert names(tmp_path) == []
