"""One file, or several that belong together: whole or not at all, whatever happens while they are written."""

import errno
import os
from pathlib import Path

import pytest
from processes import killed

from trtasr.errors import DiskError, TrtasrError, UsageError
from trtasr.files.write import copy_file, replacing, write_bytes, write_json, write_together


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_kill_9_while_writing_leaves_the_old_file_and_the_next_write_clears_up(tmp_path: Path) -> None:
    path = tmp_path / "layers.json"
    write_json(path, "old")

    def task() -> None:
        with replacing(path) as partial:
            partial.write_text("half")
            os.kill(os.getpid(), 9)

    killed(task)
    assert path.read_text() == '"old"\n'
    assert len(names(tmp_path)) == 2
    write_json(tmp_path / "other.json", 1)
    assert names(tmp_path) == ["layers.json", "other.json"]


def test_links_are_followed_and_permissions_stay(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "file", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o600)
    link.symlink_to(real)
    write_bytes(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert real.stat().st_mode & 0o777 == 0o600


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    write_bytes(tmp_path / "ours", b"")
    (tmp_path / "usual").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


NO_FILES = {
    "folder": Path.mkdir,
    "fifo": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/null"),
    "circle": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_regular_file_is_left_alone(tmp_path: Path, make) -> None:
    make(tmp_path / "x")
    before = (tmp_path / "x").lstat().st_ino
    with pytest.raises(UsageError, match="x: "):
        write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "x").lstat().st_ino == before
    assert names(tmp_path) == ["x"]


def test_a_file_in_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "engine").write_bytes(b"x")
    with pytest.raises(UsageError, match="cannot be written"):
        copy_file(tmp_path / "engine", tmp_path / "missing" / "engine")
    assert names(tmp_path) == ["engine"]


CODES = {errno.ENOSPC: 4, errno.EDQUOT: 4, errno.EROFS: 4, errno.EACCES: 2}


@pytest.mark.parametrize(("number", "code"), CODES.items())
def test_a_refused_write_says_where_and_how_much(tmp_path: Path, monkeypatch, number: int, code: int) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(TrtasrError, match=f"file.json: .*{os.strerror(number)}") as caught:
        write_bytes(tmp_path / "file.json", b"x" * 123_000)
    assert caught.value.exit_code == code
    assert names(tmp_path) == []


def test_a_full_disk_names_the_bytes_that_are_needed(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskError, match=r"needs 0\.123 MB, .* free"):
        write_bytes(tmp_path / "file.json", b"x" * 123_000)


def test_files_that_belong_together_are_finished_by_the_next_run(tmp_path: Path, monkeypatch) -> None:
    write_together(tmp_path, {"a": b"1", "b": b"1"})
    replace = Path.replace

    def dying(self: Path, target: Path) -> Path:
        return os.kill(os.getpid(), 9) if self.name == "b" else replace(self, target)

    def task() -> None:
        monkeypatch.setattr(Path, "replace", dying)
        write_together(tmp_path, {"a": b"2", "b": b"2"})

    killed(task)
    write_together(tmp_path, {"c": b"3"})
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == {"a": b"2", "b": b"2", "c": b"3"}
