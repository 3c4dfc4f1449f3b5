"""Archives that are damaged or not to be trusted: refused without running, inflating or writing anything."""

import gzip
import io
import os
import pickle
import tarfile
import tracemalloc
from contextlib import contextmanager

import pytest
import torch
from nemo_archive import archive, config, member, refused, saved, weights

from trtasr.checkpoint import nemo
from trtasr.checkpoint.nemo import read_members


def test_missing_file(tmp_path):
    refused(tmp_path / "none.nemo", "no such file")
    refused(tmp_path, "no such file")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b garbage", b"PK\x03\x04" + b"0" * 2000, b"\0" * 512])
def test_not_an_archive(tmp_path, content):
    path = tmp_path / "model.nemo"
    path.write_bytes(content)
    refused(path, "not a readable NeMo archive|no model_config.yaml")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("kept", [0.02, 0.1, 0.5, 0.9])
def test_truncated_archive(tmp_path, mode, kept):
    path = archive(tmp_path, mode=mode, extra=[member("./a.bin", os.urandom(20_000))])
    content = path.read_bytes()
    length = len(content.rstrip(b"\0")) if mode == "w" else len(content)
    path.write_bytes(content[: int(length * kept)])
    refused(path, "truncated|has no")


def test_archive_without_config_or_weights(tmp_path):
    for present, missing in (("model_config.yaml", "model_weights.ckpt"), ("model_weights.ckpt", "model_config.yaml")):
        path = tmp_path / "half.nemo"
        with tarfile.open(path, "w") as tar:
            info, data = member(present, b"a: 1")
            tar.addfile(info, io.BytesIO(data))
        refused(path, f"no {missing}")


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil", "a/../../evil", "..\\evil", ".."])
def test_member_that_leaves_the_archive(tmp_path, name):
    path = archive(tmp_path, extra=[member(name, b"1")])
    refused(path, "outside the archive")
    assert not (tmp_path.parent / "evil.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(tmp_path, kind):
    refused(archive(tmp_path, extra=[member("x", kind=kind, link="model_config.yaml")]), "link, a device")


def test_duplicate_member(tmp_path):
    refused(archive(tmp_path, extra=[member("model_config.yaml", b"a: 1")]), "twice")


def test_large_config(tmp_path):
    refused(archive(tmp_path, b"a: " + b"x" * nemo.MAX_CONFIG_BYTES), "more than 4 MiB")


def test_too_many_members_and_bytes(tmp_path, monkeypatch):
    path = archive(tmp_path, extra=[member(f"f{index}", b"12345") for index in range(20)])
    monkeypatch.setattr(nemo, "MAX_MEMBERS", 10)
    refused(path, "more than 10 members")
    monkeypatch.setattr(nemo, "MAX_MEMBERS", 100)
    monkeypatch.setattr(nemo, "MAX_ARCHIVE_BYTES", 64)
    refused(path, "GiB")


def test_gzip_bomb_in_a_header_is_not_inflated(tmp_path):
    """A long-name header may claim any size, and tarfile would read it whole."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**36
    path = tmp_path / "model.nemo"
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 2**20))
    refused(path, "claims 68719476736 bytes")


def test_member_larger_than_the_archive_bound(tmp_path):
    info = tarfile.TarInfo("model_weights.ckpt")
    info.size = 2**36
    path = tmp_path / "model.nemo"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    refused(path, "8 GiB")


@pytest.mark.parametrize(
    "headers",
    [
        {"GNU.sparse.map": "a,b"},
        {"GNU.sparse.map": "0,1,2"},
        {"GNU.sparse.size": "abc"},
        {"GNU.sparse.realsize": "abc"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
        {"size": "-5"},
        {"size": "9" * 5000},
        {"mtime": "never", "uid": "x"},
        {"path": "a\0b"},
    ],
)
@pytest.mark.parametrize("name", ["model_config.yaml", "x"])
def test_odd_pax_headers(tmp_path, headers, name):
    path = tmp_path / "model.nemo"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info, data = member(name, b"a: 1\n" * 300)
        info.pax_headers = headers
        tar.addfile(info, io.BytesIO(data))
    refused(path, "not a readable NeMo archive|sparse file|negative size|has no|has [0-9]+ bytes")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_chained_headers(tmp_path, kind):
    info, _ = member("x", kind=kind)
    path = tmp_path / "model.nemo"
    path.write_bytes(info.tobuf(tarfile.PAX_FORMAT) * 3000 + b"\0" * 1024)
    refused(path, "not a readable NeMo archive")


def test_headers_are_bounded_together(tmp_path, monkeypatch):
    monkeypatch.setattr(nemo, "MAX_HEADER_BYTES", 2**16)
    refused(archive(tmp_path, extra=[member(f"f{index}") for index in range(200)]), "headers take more than")


@contextmanager
def peak_below(size):
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size


def test_weights_that_expand_are_not_held(tmp_path):
    bomb = b"\0" * (3 * nemo.MAX_READ)
    path = archive(tmp_path, state=bomb, mode="w:gz")
    assert path.stat().st_size * nemo.MAX_EXPANSION < len(bomb)
    with peak_below(len(bomb) // 2):
        refused(path, "32 times the archive file")


def test_weights_are_held_once(tmp_path):
    content = os.urandom(8 * nemo.MAX_READ)
    path = archive(tmp_path, state=content)
    with peak_below(1.5 * len(content)):
        members = read_members(path)
    assert members["model_weights.ckpt"].getvalue() == content


def test_tensors_that_repeat_memory(tmp_path):
    state = {"a": torch.zeros(1).expand(2**30)}
    refused(archive(tmp_path, state=state), "inflates")


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("save", [saved, lambda state: pickle.dumps(state, protocol=2)])
def test_pickle_bomb_is_refused_and_not_run(tmp_path, save):
    target = tmp_path / "executed"
    state = {"encoder.weight": Bomb(target)}
    error = refused(archive(tmp_path, state=save(state)), "contains code or objects")
    assert "nothing in it was run" in error.problem
    assert not target.exists()


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_truncated_weights(tmp_path, kept):
    content = saved(weights())
    refused(archive(tmp_path, state=content[: int(len(content) * kept)]), "truncated or damaged")


@pytest.mark.parametrize("state", [b"", b"not weights at all"])
def test_weights_that_are_no_weights(tmp_path, state):
    refused(archive(tmp_path, state=state), "truncated or damaged|is damaged")


@pytest.mark.parametrize(
    "state",
    [
        [torch.zeros(2)],
        {},
        {"epoch": 3},
        {"a": torch.zeros(2, device="meta")},
        {"a": torch.zeros(2, 2).to_sparse()},
        {1: torch.zeros(2)},
    ],
)
def test_weights_that_are_no_state_dict(tmp_path, state):
    refused(archive(tmp_path, state=saved(state)), "not a state dict|no plain CPU tensor|damaged")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"a: [1, 2", "not valid YAML"),
        (b"- 1\n- 2", "not a mapping"),
        (b"", "not a mapping"),
        (b"a: !!python/object/apply:os.mkdir [evil]", "not valid YAML"),
        (b"\xff\xfe\xff", "not valid YAML"),
        (b"[" * 5000, "not valid YAML"),
        (b"target: EncDecCTCModel", "no key 'preprocessor'"),
    ],
)
def test_bad_yaml(tmp_path, text, words):
    refused(archive(tmp_path, text), words)


@pytest.mark.parametrize("section", [None, "encoder", "decoder", "preprocessor"])
def test_class_names_that_no_terminal_should_see(tmp_path, section):
    cfg = config()
    (cfg[section] if section else cfg)["_target_" if section else "target"] = "a.\x1b[31m" + "x" * 10_000
    assert len(refused(archive(tmp_path, cfg), r"\\x1b\[31mx+").problem) < 400
