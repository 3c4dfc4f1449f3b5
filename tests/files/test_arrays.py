"""Arrays in files from anywhere."""

import io
import zipfile

import numpy as np
import pytest

from trtasr.errors import UsageError
from trtasr.files.arrays import read_arrays
from trtasr.files.read import MIB, Source


def read(path):
    return read_arrays(Source(path, UsageError, "make it again", MIB))


def npy(header, content=b"", version=b"\x01\x00"):
    """An ``.npy`` file with a header of one's own."""
    text = header.encode("latin-1").ljust(118) + b"\n"
    size = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + size + text + content


def zipped(path, content, **changes):
    with zipfile.ZipFile(path, "w", **changes) as archive:
        archive.writestr("a.npy", content)
    return path


def test_arrays_come_back_as_they_were_written(tmp_path):
    wanted = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.asfortranarray(np.eye(3)),
        "c": np.array("text"),
        "d": np.zeros((0, 4), np.int64),
        "e": np.array(3),
    }
    np.savez(tmp_path / "f.npz", **wanted)
    found = read(tmp_path / "f.npz")
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -3), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True,), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
        "{'descr': 'nope', 'fortran_order': False, 'shape': (6,), }",
        "{'descr': '|V24', 'fortran_order': False, 'shape': (), }",
        "{'descr': [('a', '<U6')], 'fortran_order': False, 'shape': (), }",
        "{'descr': '|V0', 'fortran_order': False, 'shape': (6,), }",
        "{'descr': [('a', '<f4', 10**9)], 'fortran_order': False, 'shape': (6,), }",
        "{'shape': (6,)}",
        "{",
        "",
        "(" * 110,
        "'\x00'",
        "9" * 118,
        "[6]",
    ],
)
def test_headers_that_lie(tmp_path, header):
    path = zipped(tmp_path / "f.npz", npy(header, bytes(24)))
    with pytest.raises(UsageError, match=r"f\.npz: .*damaged"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x07\x00", npy("{}", b"", b"\x02\x00")[:14]])
def test_arrays_without_a_header(tmp_path, content):
    with pytest.raises(UsageError, match="damaged"):
        read(zipped(tmp_path / "f.npz", content))


def test_a_bomb_is_not_unpacked(tmp_path):
    content = io.BytesIO()
    np.save(content, np.zeros(2**24))
    path = zipped(tmp_path / "f.npz", content.getvalue(), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < MIB / 2
    with pytest.raises(UsageError, match="compressed"):
        read(path)


def test_every_cut_and_every_flipped_byte_is_an_array_or_an_error(tmp_path):
    np.savez(tmp_path / "f.npz", a=np.arange(3), b=np.array("x"))
    whole = (tmp_path / "f.npz").read_bytes()
    path = tmp_path / "g.npz"
    for place in range(len(whole)):
        for content in (whole[:place], whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]):
            path.write_bytes(content)
            try:
                assert len(read(path)) <= 2
            except UsageError as error:
                assert "g.npz" in error.problem  # noqa: PT017 - both endings are right


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("code", [0x110000, 2**32 - 1, 0xD800, 0xDFFF])
def test_text_that_no_string_can_hold(tmp_path, code, order):
    header = f"{{'descr': '{order}U2', 'fortran_order': False, 'shape': (), }}"
    path = zipped(tmp_path / "f.npz", npy(header, np.array([0x61, code], f"{order}u4").tobytes()))
    with pytest.raises(UsageError, match=r"f\.npz: .*no characters"):
        read(path)


@pytest.mark.parametrize("order", "<>")
def test_text_of_every_plane(tmp_path, order):
    np.savez(tmp_path / "f.npz", text=np.array("a\u20ac\U0010ffff").astype(f"{order}U3"))
    assert str(read(tmp_path / "f.npz")["text"]) == "a\u20ac\U0010ffff"
