"""What of an old folder moves on into the new one: all that we did not write, and nothing that we did."""

import errno
import os
from pathlib import Path

import pytest

from trtasr.errors import UsageError
from trtasr.files.keep import entries, foreign, keep, same, sha256_file


@pytest.fixture
def folders(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    return old, new


def tree(folder: Path) -> dict[str, str | None]:
    """Name -> text of a file, target of a link, None of a folder."""
    return {
        path.relative_to(folder).as_posix(): str(path.readlink())
        if path.is_symlink()
        else path.read_text()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


def test_the_sum_is_that_of_the_content(tmp_path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_file(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_files_links_and_empty_folders_are_listed_and_links_not_followed(folders) -> None:
    old, _ = folders
    (old / "a" / "b").mkdir(parents=True)
    (old / "a" / "x").touch()
    (old / "loop").symlink_to(old)
    assert [path.relative_to(old).as_posix() for path in entries(old)] == ["a/b", "a/x", "loop"]


def test_only_what_we_wrote_and_nobody_changed_is_ours(folders) -> None:
    old, _ = folders
    for name in ("plan", "edited", "notes", "log"):
        (old / name).write_text(name)
    ours = {"plan": sha256_file(old / "plan"), "edited": "0" * 64, "log": None, "gone": None}
    assert [path.name for path in foreign(old, ours)] == ["edited", "notes"]
    (old / "plan").unlink()
    (old / "plan").symlink_to("edited")  # a link is not what we wrote, whatever it leads to
    assert "plan" in [path.name for path in foreign(old, {**ours, "plan": sha256_file(old / "edited")})]


def test_a_name_that_is_taken_gets_another_and_equal_files_are_left_out(folders) -> None:
    old, new = folders
    for folder, text in ((old, "mine"), (new, "new")):
        (folder / "x").write_text(text)
        (folder / "equal").write_text("same")
    (new / "x.kept").write_text("kept before")
    (old / "deep" / "er").mkdir(parents=True)
    (old / "link").symlink_to("nowhere")
    assert keep(old, new, {}) == ["deep/er", "link", "x.kept.kept"]
    assert tree(new) == {
        "deep": None,
        "deep/er": None,
        "equal": "same",
        "link": "nowhere",
        "x": "new",
        "x.kept": "kept before",
        "x.kept.kept": "mine",
    }
    assert keep(old, new, {}) == []  # a second time there is nothing to add


def test_where_the_disk_knows_no_second_names_files_are_copied_and_others_refused(folders, monkeypatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    old, new = folders
    (old / "x").write_text("mine")
    (old / "y").symlink_to("x")
    keep(old, new, {})
    assert tree(new) == {"x": "mine", "y": "x"}
    os.mkfifo(old / "pipe")
    with pytest.raises(UsageError, match="pipe"):
        keep(old, new, {})


def test_what_counts_as_the_same(folders) -> None:
    old, new = folders
    for folder in folders:
        (folder / "file").write_text("x")
        (folder / "link").symlink_to("file")
        (folder / "folder").mkdir()
        os.mkfifo(folder / "pipe")
    assert [same(old / name, new / name) for name in ("file", "link", "folder", "pipe")] == [True, True, True, False]
    assert not same(old / "link", new / "file")
    os.link(old / "pipe", new / "second")
    assert same(old / "pipe", new / "second")
