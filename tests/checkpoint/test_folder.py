"""Files that lead elsewhere, are too large or are no JSON objects."""

import hashlib
import os

import pytest
from whisper_folder import refused, write_folder

from trtasr.checkpoint import folder as module
from trtasr.checkpoint.folder import Folder, integer, section
from trtasr.checkpoint.read import read_checkpoint
from trtasr.errors import CheckpointError


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", "..", ".", "", ".hidden", "x\n", "a\0b", "x" * 300, "\u00e9"]
)
def test_only_plain_names(tmp_path, name):
    with pytest.raises(CheckpointError, match="no plain file name"):
        Folder(tmp_path).file(name, 10)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "generation_config.json"])
def test_links_that_leave_the_folder(tmp_path, name):
    folder = write_folder(tmp_path / "folder")
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    refused(folder, "a link that leads out of the folder")


def test_links_inside_the_folder(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "config.json").rename(folder / "real.json")
    (folder / "config.json").symlink_to("real.json")
    assert read_checkpoint(folder).family == "whisper"


def test_the_cache_of_the_hub_has_its_files_in_blobs(tmp_path):
    folder = write_folder(tmp_path / "models--openai--whisper-tiny" / "snapshots" / "169d4a4")
    blobs = folder.parents[1] / "blobs"
    blobs.mkdir()
    expected = read_checkpoint(folder).sha256
    for index, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(index))
        path.symlink_to(f"../../blobs/{index}")
    assert read_checkpoint(folder).sha256 == expected


def cached(tmp_path, name="models--openai--whisper-tiny"):
    """A snapshot in today's cache of the hub: links to the model's blobs, from there to the store that all share.

    Returns:
        the snapshot and the root of the cache.
    """
    root = tmp_path / "hub"
    folder = write_folder(root / name / "snapshots" / "169d4a4")
    blobs = folder.parents[1] / "blobs"
    blobs.mkdir()
    for index, path in enumerate(sorted(folder.iterdir())):
        store = root / "blobs" / f"{index:02x}"
        store.mkdir(parents=True)
        path.rename(store / f"{index:064x}")
        (blobs / str(index)).symlink_to(f"../../blobs/{index:02x}/{index:064x}")
        path.symlink_to(f"../../blobs/{index}")
    return folder, root


def test_the_cache_of_the_hub_shares_blobs_of_all_models(tmp_path):
    folder, _ = cached(tmp_path)
    assert (folder / "config.json").resolve().parents[2] == tmp_path / "hub"
    assert read_checkpoint(folder).sha256 == read_checkpoint(write_folder(tmp_path / "plain")).sha256


@pytest.mark.parametrize("place", ["outside", "beside"])
@pytest.mark.parametrize("link", ["snapshot", "blob"])
def test_links_out_of_the_cache(tmp_path, place, link):
    folder, root = cached(tmp_path)
    target = (tmp_path if place == "outside" else tmp_path / "hub-2") / "config.json"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes((folder / "config.json").read_bytes())
    moved = folder / "config.json" if link == "snapshot" else root / folder.parents[1].name / "blobs" / "0"
    moved.unlink()
    moved.symlink_to(target)
    refused(folder, "a link that leads out of the folder")


def test_only_a_cache_has_its_files_elsewhere(tmp_path):
    """A folder named ``snapshots`` makes no cache: of what lies above it only ``blobs`` beside it counts."""
    folder, root = cached(tmp_path, "whisper")
    refused(folder, "a link that leads out of the folder")
    (folder / "config.json").unlink()
    (root / "config.json").write_text("{}")
    (folder / "config.json").symlink_to(root / "config.json")
    refused(folder, "a link that leads out of the folder")


def test_devices_and_broken_links(tmp_path):
    folder = write_folder(tmp_path, tokenizer=None)
    os.mkfifo(folder / "tokenizer.json")
    refused(folder, "no tokenizer.json")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("nowhere")
    refused(folder, "no tokenizer.json")


def test_large_files_are_not_read(tmp_path):
    folder = write_folder(tmp_path)
    with (folder / "tokenizer.json").open("r+b") as stream:
        stream.truncate(module.MAX_JSON_BYTES + 1)
    refused(folder, "tokenizer.json: 33554433 bytes, more than 16 MiB")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1]",
        b"null",
        b"{",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
@pytest.mark.parametrize("name", ["config", "generation_config"])
def test_json_that_is_none(tmp_path, name, content):
    refused(write_folder(tmp_path, **{name: content}), f"{name}.json: not")


def test_the_hash_of_a_folder(tmp_path):
    (tmp_path / "b.json").write_bytes(b'{"x": 1}')
    (tmp_path / "a.json").write_bytes(b"{}")
    made = Folder(tmp_path)
    assert made.json("b.json") == {"x": 1}
    assert made.optional("a.json") == {}
    assert made.optional("c.json") is None
    lines = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in (("a.json", b"{}"), ("b.json", b'{"x": 1}'))
    )
    assert made.sha256() == hashlib.sha256(lines.encode()).hexdigest()


def test_values(tmp_path):
    assert section({"a": None}, "a", "f") == section({}, "a", "f") == {}
    assert integer({"a": 3}, "a", "f", (3, 3)) == 3
    with pytest.raises(CheckpointError, match=r"f: a is \[\]"):
        section({"a": []}, "a", "f")
    for value in (True, 3.0, "3", 4, None):
        with pytest.raises(CheckpointError, match=r"f: a = .*\n.*from 1 to 3"):
            integer({"a": value}, "a", "f", (1, 3))
