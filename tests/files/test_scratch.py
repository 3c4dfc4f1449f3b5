"""Temporary files of a run lie in one folder, which vanishes with it."""

import os
import tempfile
from pathlib import Path

import pytest

from trtasr.errors import DiskError
from trtasr.files.scratch import TORCH_CACHES, scratch


def test_the_folder_lies_among_the_temporary_files_and_vanishes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch() as first, scratch() as second:
        assert first != second
        assert first.parent == second.parent == tmp_path
        (first / "half").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_an_error_clears_it_too(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(FileNotFoundError), scratch() as folder:
        (folder / "half").rename(folder / "none" / "half")
    assert list(tmp_path.iterdir()) == []


def test_no_folder_for_temporary_files_is_a_sentence(monkeypatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(2, "found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(DiskError, match=r"found in \['/tmp'\]"), scratch():
        pass


def test_torch_makes_its_folder_inside(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv(TORCH_CACHES, raising=False)
    with scratch() as folder:
        assert Path(os.environ[TORCH_CACHES]).parent == folder
    assert TORCH_CACHES not in os.environ
    monkeypatch.setenv(TORCH_CACHES, "/mine")
    with scratch():
        assert os.environ[TORCH_CACHES] == "/mine"
