"""What a pickle would build, found without building it."""

import io
import pickle
import zipfile
from collections import OrderedDict
from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trtasr.checkpoint.pickle_proof import MAX_BYTES, Machine, PickleError, TensorView

STATE = OrderedDict(a=torch.zeros(3, 4), b=torch.zeros(5, dtype=torch.int64), p=nn.Parameter(torch.ones(2)))


def program(state):
    """The pickle inside of what torch saves."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with zipfile.ZipFile(buffer) as file:
        (name,) = (name for name in file.namelist() if name.endswith("data.pkl"))
        return file.read(name)


WHOLE = program(STATE)


def followed(content):
    machine = Machine()
    return machine.run(io.BytesIO(content)), machine.storages


def test_a_state_dict_is_its_names_and_storages():
    found, storages = followed(WHOLE)
    assert list(found) == ["a", "b", "p"]
    assert all(isinstance(view, TensorView) for view in found.values())
    assert {view.storage for view in found.values()} == set(storages.values())
    assert [view.storage.nbytes for view in found.values()] == [48, 40, 8]


def test_tensors_that_share_memory_share_a_storage():
    tensor = torch.zeros(4, 4)
    found, storages = followed(program({"whole": tensor, "row": tensor[1], "turned": tensor.T}))
    assert len(storages) == 1
    assert len({view.storage for view in found.values()}) == 1


def test_the_attributes_that_torch_adds_do_not_matter():
    found, _ = followed(program(nn.Linear(2, 3).state_dict()))
    assert list(found) == ["weight", "bias"]


def test_the_stream_is_left_behind_the_pickle():
    stream = io.BytesIO(b"before" + WHOLE + b"behind")
    stream.seek(len(b"before"))
    Machine().run(stream)
    assert stream.read() == b"behind"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, "x", (1,), (1, 2), (1, 2, 3)], "b": {}}, [], 2**70, {}])
def test_plain_values_are_as_python_reads_them(value, protocol):
    assert followed(pickle.dumps(value, protocol))[0] == value


@pytest.mark.parametrize(
    "value",
    [print, io.BytesIO(b"x"), bytearray(5), {1, 2}, {1: "a key that is no string"}, Exception("x"), 1j],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_no_state_dict_holds_is_refused(value, protocol):
    with pytest.raises(PickleError):
        followed(pickle.dumps({"a": value}, protocol))


def test_a_pickle_is_bounded():
    with pytest.raises(PickleError, match="longer than 1 MiB"):
        followed(b"\x80\x02" + b"N" * (MAX_BYTES + 1))


@pytest.mark.parametrize("end", range(0, len(WHOLE) - 1, 7))
def test_a_pickle_that_is_cut_off_is_refused(end):
    with pytest.raises(PickleError):
        followed(WHOLE[:end])


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_pickle_is_followed_or_refused_and_nothing_else(changes):
    content = bytearray(WHOLE)
    for place, byte in changes:
        content[place] = byte
    try:
        _, storages = followed(bytes(content))
    except PickleError:
        return
    assert all(storage.nbytes >= 0 for storage in storages.values())


@given(st.binary(max_size=60))
def test_any_bytes_are_followed_or_refused(content):
    with suppress(PickleError):
        followed(b"\x80\x02" + content + b".")
