"""Questions about paths that raise nothing."""

import os

import pytest

from trtasr.files.look import is_file, is_folder, is_there


def answers(path):
    return is_file(path), is_folder(path), is_there(path)


def test_what_is_there_is_told(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert answers(tmp_path) == (False, True, True)
    assert answers(tmp_path / "file") == answers(tmp_path / "link") == (True, False, True)
    assert answers(tmp_path / "pipe") == (False, False, True)
    assert answers(tmp_path / "dangling") == (False, False, False)


@pytest.mark.parametrize("name", ["missing", "n" * 300, "n/" * 4000, "a\0b", "file/below"])
def test_names_that_lead_nowhere(tmp_path, name):
    (tmp_path / "file").touch()
    assert answers(tmp_path / name) == (False, False, False)


def test_a_closed_folder_leads_nowhere(tmp_path, monkeypatch):
    def closed(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "stat", closed)
    assert answers(tmp_path / "file") == (False, False, False)
