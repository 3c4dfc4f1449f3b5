"""Folders of a process that lives are left alone; those of a dead one go, and nothing else does."""

import errno
import os
import signal
from pathlib import Path

import pytest

from trtasr.errors import DiskError
from trtasr.files import workspace as module
from trtasr.files.workspace import MARK, claimed, sweep, workspace

LOOKALIKE = ".trtasr-abcdefgh"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_workspace_of_a_living_process_stays(tmp_path: Path) -> None:
    with workspace(tmp_path, "") as mine:
        (mine / "file").touch()
        sweep(tmp_path)
        pid = os.fork()
        if pid == 0:
            try:
                sweep(tmp_path)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert (mine / "file").is_file()
    assert names(tmp_path) == []


def left(folder: Path) -> Path:
    """A workspace as a killed process leaves it."""
    path, lock = claimed(folder)
    (path / "half").write_text("x")
    os.close(lock)
    return path


def test_a_workspace_of_a_dead_process_goes(tmp_path: Path) -> None:
    left(tmp_path)
    with workspace(tmp_path, "") as mine:
        assert names(tmp_path) == [mine.name]


def test_folders_that_only_look_like_workspaces_stay(tmp_path: Path) -> None:
    (tmp_path / LOOKALIKE).mkdir(0o700)
    (tmp_path / LOOKALIKE / "thesis.txt").write_text("precious")
    (tmp_path / ".trtasr-notes").mkdir(0o700)
    (tmp_path / ".trtasr-linked00").symlink_to(tmp_path / LOOKALIKE)
    opened = left(tmp_path)
    opened.chmod(0o755)  # as it comes out of an archive
    before = names(tmp_path)
    sweep(tmp_path)
    assert names(tmp_path) == before
    assert (tmp_path / LOOKALIKE / "thesis.txt").read_text() == "precious"


def test_of_another_boot_only_what_is_long_past_goes(tmp_path: Path) -> None:
    """On a disk that machines share, locks may not be seen by the other one."""
    path = left(tmp_path)
    (path / MARK).write_text("of another machine")
    sweep(tmp_path)
    assert path.is_dir()
    os.utime(path / MARK, (0, 0))
    sweep(tmp_path)
    assert names(tmp_path) == []


def test_a_disk_without_room_for_the_mark_is_left_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object, **__: object) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(DiskError, match="No space left"), workspace(tmp_path, ""):
        pass
    assert names(tmp_path) == []


def test_a_workspace_that_was_never_marked_goes_when_it_is_empty(tmp_path: Path) -> None:
    for name, files in ((".trtasr-empty000", []), (".trtasr-halfmade", [MARK]), (".trtasr-another0", [MARK, "thesis"])):
        (tmp_path / name).mkdir(0o700)
        for file in files:
            (tmp_path / name / file).touch()
    sweep(tmp_path)
    assert names(tmp_path) == [".trtasr-another0"]
    assert (tmp_path / ".trtasr-another0" / "thesis").is_file()


def test_without_locks_nothing_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "locked", lambda _: None)
    path = left(tmp_path)
    sweep(tmp_path)
    assert path.is_dir()


def test_a_signal_while_a_workspace_is_cleared_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clear = module.clear

    def interrupted(folder: Path) -> None:
        signal.raise_signal(signal.SIGINT)
        clear(folder)

    def work() -> None:
        with workspace(tmp_path, ""):
            monkeypatch.setattr(module, "clear", interrupted)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
    assert names(tmp_path) == []
