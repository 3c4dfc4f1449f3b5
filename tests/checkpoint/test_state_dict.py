"""State dicts from anywhere: what they would build is known before anything is built."""

import io
import pickle
import time
import tracemalloc
import zipfile

import pytest
import torch
from nemo_archive import archive, refused, saved, weights

from trtasr.checkpoint.nemo import read_nemo

DICT = b"ccollections\nOrderedDict\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def storage(kind: str = "FloatStorage", count: int = 4, key: str = "0") -> bytes:
    number = b"J" + count.to_bytes(4, "little")
    return b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + number + b"tQ"


def tensor(
    data: bytes = storage(), size: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85", more: bytes = b""
) -> bytes:
    return REBUILD + b"(" + data + b"K\x00" + size + stride + b"\x89" + DICT + b")R" + more + b"tR"


def entry(value: bytes) -> bytes:
    """A pickle of ``{"a": value}``."""
    return b"\x80\x02}" + text("a") + value + b"s."


def zipped(program: bytes, method: int = zipfile.ZIP_STORED, **records: bytes) -> bytes:
    """A state dict as torch writes it, with a pickle of our own and a storage of 16 bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        parts = {"data.pkl": program, "byteorder": b"little", "data/0": bytes(16), "version": b"3\n"} | records
        for name, data in parts.items():
            file.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def refuse_quickly(tmp_path, content: bytes, words: str):
    """Refused within seconds and 32 MiB, whatever was asked for."""
    path = archive(tmp_path, state=content)
    tracemalloc.start()
    try:
        start = time.process_time()
        error = refused(path, words)
        seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seconds < 10
    assert peak < 2**25
    return error


def test_a_right_pickle_gets_as_far_as_the_configuration(tmp_path):
    """What the others change one thing of."""
    assert read_nemo(archive(tmp_path, state=zipped(entry(tensor())))).weights["a"].tolist() == [0.0] * 4


@pytest.mark.parametrize(
    "value",
    [
        b"c__builtin__\nbytearray\nJ\x00\x00\x00\x10\x85R",  # 256 MiB: harmless to run, but not small
        b"cbuiltins\nset\n)R",
        DICT + b"}\x85R",  # a copy of a dict, of a dict, ...
        DICT + b")R}" + b"".join(text(f"k{index}") + b"N" + b"s" for index in range(20)) + b"b",
        b"ctorch\nSize\n)R",
        b"c_codecs\nencode\n" + text("x") + text("latin1") + b"\x86R",
        b"cos\nsystem\n" + text("true") + b"\x85R",
    ],
    ids=["bytearray", "set", "copy", "attributes", "size", "codecs", "system"],
)
def test_calls_that_no_state_dict_needs(tmp_path, value):
    error = refuse_quickly(tmp_path, zipped(entry(value)), "contains code or objects.*nothing in it was run")
    assert "plain tensors" in error.repair


@pytest.mark.parametrize(
    "value",
    [
        tensor(storage(count=5)),
        tensor(storage(key="1")),
        tensor(size=b"K\x05\x85"),
        tensor(size=b"K\x02\x85", stride=b"K\x04\x85"),
        tensor(size=b"K\x04\x85", stride=b"K\x01K\x01\x86"),
        tensor(size=b"J\xff\xff\xff\xff\x85"),
        tensor(storage("ComplexFloatStorage")),
        tensor(storage("QInt8Storage")),
        tensor(b"}"),
        tensor(more=b"}"),
        tensor().replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3"),
        tensor(storage() + b"0" + storage("DoubleStorage", 2)),
        b"N" + b"(" * 3,
        b"h\x07",
    ],
)
def test_tensors_that_are_not_there_or_of_other_kinds(tmp_path, value):
    refuse_quickly(tmp_path, zipped(entry(value)), "contains code or objects, or is damaged")


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(4, dtype=torch.float8_e4m3fn),
        lambda: torch.zeros(4, dtype=torch.complex64),
        lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        lambda: torch.zeros(4, device="meta"),
        lambda: torch.zeros(2, 2).to_sparse(),
        lambda: torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8),
        lambda: torch.zeros(4, dtype=torch.uint16),
        lambda: torch.zeros(2, dtype=torch.complex64).conj(),
    ],
    ids=["float8", "complex", "nested", "meta", "sparse", "quantized", "uint16", "conjugated"],
)
@pytest.mark.filterwarnings("ignore")
def test_odd_tensors_are_refused_by_their_kind(tmp_path, make):
    error = refused(archive(tmp_path, state=weights() | {"a": make()}), "contains code or objects")
    assert "real numbers" in error.repair


def test_records_that_inflate(tmp_path):
    content = zipped(entry(tensor(storage(count=2**22))), zipfile.ZIP_DEFLATED, **{"data/0": bytes(2**24)})
    refuse_quickly(tmp_path, content, "inflates")


@pytest.mark.parametrize("filler", [b"N", b"(", b"}", b"]", b")", b"K\x00", b"N\x85"])
def test_pickles_without_end(tmp_path, filler):
    """Neither the list of what was pushed nor the depth of what was nested takes the machine down."""
    path = archive(tmp_path, state=zipped(b"\x80\x02}" + filler * (2**19 // len(filler)) + b"."))
    start = time.process_time()
    refused(path, "damaged|not a state dict")
    assert time.process_time() - start < 10
    refused(archive(tmp_path, state=zipped(b"\x80\x02" + filler * 2**20 + b".")), "damaged")


def test_a_value_within_itself_many_times(tmp_path):
    """t = (t, t), forty times: 2 ** 40 leaves for whoever prints or hashes it."""
    doubled = b"K\x00" + b"".join(b"q" + bytes([index]) + b"h" + bytes([index]) + b"\x86" for index in range(40))
    for value in (doubled, tensor(b"(" + doubled + b"NNNNtQ"), DICT + doubled + b"R"):
        refuse_quickly(tmp_path, zipped(entry(value)), "damaged|no plain CPU tensor")
    refuse_quickly(tmp_path, zipped(b"\x80\x02}" + doubled + b"Ns."), "a key that is no string")


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
@pytest.mark.parametrize("new", [True, False])
def test_plain_tensors_of_both_formats_are_read(tmp_path, kind, new):
    buffer, given = io.BytesIO(), torch.arange(12).reshape(3, 4).to(kind)
    state = weights() | {"x": given, "t": given.T, "p": torch.nn.Parameter(torch.ones(2)), "s": torch.tensor(3)}
    torch.save(state, buffer, _use_new_zipfile_serialization=new)
    found = read_nemo(archive(tmp_path, state=buffer.getvalue())).weights
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_storages_of_the_old_format_larger_than_the_file(tmp_path):
    buffer = io.BytesIO()
    torch.save(weights(), buffer, _use_new_zipfile_serialization=False)
    content = bytearray(buffer.getvalue())
    place = content.index(b"cpu") + content[content.index(b"cpu") :].index(b"M")
    content[place : place + 3] = b"J\xff\xff\xff"  # a count of two bytes becomes one of four
    refuse_quickly(tmp_path, bytes(content), "damaged")


@pytest.mark.parametrize("name", ["\ud800", "a\x1b[31m", "a\n"])
def test_names_that_no_terminal_should_see(tmp_path, name):
    refused(archive(tmp_path, state=weights() | {name: torch.zeros(1)}), "no plain CPU tensor|damaged")


def test_protocol_4_is_followed_too(tmp_path):
    content = pickle.dumps({"a": bytearray(100)}, protocol=4)
    refuse_quickly(tmp_path, zipped(content), "contains code or objects")
    assert read_nemo(archive(tmp_path, state=saved(weights()))).weights
