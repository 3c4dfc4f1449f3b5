"""Files from anywhere: every fault is an error that names the file."""

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import pytest

from trtasr.errors import CheckpointError, RecipeError
from trtasr.files import read
from trtasr.files.read import MIB, Source


@dataclass(frozen=True)
class Point:
    x: int
    names: tuple[str, ...] = ()


def source(path, content=None, limit=MIB):
    if content is not None:
        path.write_bytes(content)
    return Source(path, CheckpointError, "write it again", limit)


def test_text_without_its_byte_order_mark(tmp_path):
    assert source(tmp_path / "a", b"\xef\xbb\xbfcaf\xc3\xa9").text() == "café"


def test_json_of_a_dataclass_ignores_keys_it_does_not_have(tmp_path):
    assert source(tmp_path / "a", b'{"x": 3, "names": ["a"], "more": 1}').json(Point) == Point(3, ("a",))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b'"\\ud800"', b"[" * 100_000, b"1" * 6000, b"1e999", b"NaN", b'{"x": 1} extra'],
)
def test_json_that_is_none(tmp_path, content):
    with pytest.raises(CheckpointError, match="not as expected"):
        source(tmp_path / "a", content).json(Any)


@pytest.mark.parametrize("content", [b'{"x": "3"}', b'{"x": 1.5}', b"{}", b"[]", b'{"x":1,"names":"a"}'])
def test_json_of_another_type_names_the_place(tmp_path, content):
    with pytest.raises(CheckpointError, match=r"Expected|missing required"):
        source(tmp_path / "a", content).json(Point)


@pytest.mark.parametrize("content", [b"a = ", b"\xff", b"a = " + b"9" * 6000, b"a = " + b"[" * 10_000, b"a = 1\na = 2"])
def test_toml_that_is_none(tmp_path, content):
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"a\.toml"):
        Source(path, RecipeError, "see engines/").toml()


def test_toml_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1")
    assert Source(path, RecipeError, "see engines/").toml() == {"a": 1}


def test_a_fifo_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="no regular file"):
        source(tmp_path / "pipe").content()


def test_an_endless_device_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="no regular file"):
        source(tmp_path / "link").content()


@pytest.mark.parametrize("name", ["missing", "a/b", "x" * 300, "nul\0", "."])
def test_names_that_are_no_file(tmp_path, name):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(CheckpointError):
        source(tmp_path / name).content()


def test_more_bytes_than_allowed(tmp_path):
    assert source(tmp_path / "a", b"12345678", 8).content() == b"12345678"
    with pytest.raises(CheckpointError, match="larger than"):
        source(tmp_path / "a", b"123456789", 8).content()


def hash_of(content):
    return hashlib.sha256(content).hexdigest()


def test_sha256_of_a_file_that_changes(tmp_path):
    found = source(tmp_path / "a", b"one")
    assert found.sha256() == hash_of(b"one")
    (tmp_path / "a").write_bytes(b"two")  # at once, of one size: times on disk may not tell
    assert found.sha256() == hash_of(b"two")


def test_a_file_that_lies_still_is_read_once(tmp_path, monkeypatch):
    found = source(tmp_path / "a", b"one")
    monkeypatch.setattr(read, "SETTLED", 0)
    read.known_sha256.cache_clear()
    assert found.sha256() == found.sha256() == hash_of(b"one")
    assert read.known_sha256.cache_info()[:2] == (1, 1)
    (tmp_path / "a").write_bytes(b"three")
    assert found.sha256() == hash_of(b"three")


@pytest.mark.parametrize("limit", [2, 1000])
def test_sha256_of_what_is_no_file_or_too_large(tmp_path, limit):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="no regular file"):
        source(tmp_path / "pipe").sha256()
    with pytest.raises(CheckpointError, match=r"larger than|No such file"):
        source(tmp_path / "a", b"one" if limit == 2 else None, limit).sha256()
