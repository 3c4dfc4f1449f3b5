"""Whole and sharded weights, pickled ones, and files that are damaged or say too much."""

import json
import pickle
import shlex
import struct

import pytest
import torch
from safetensors.torch import save_file
from whisper_folder import Bomb, refused, weights, write_folder

from trtasr.checkpoint import safetensors_weights as module
from trtasr.checkpoint.read import read_checkpoint
from trtasr.errors import CheckpointError
from trtasr.models.load import build_model

EMBEDDING = "model.decoder.embed_tokens.weight"
INDEX = "model.safetensors.index"


def write_shards(path, change=None, **files):
    """The weights in two files and their index."""
    names = sorted(weights())
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    index = {"metadata": {}, "weight_map": {name: file for file, part in halves.items() for name in part}}
    write_folder(path, {}, **{INDEX: change(index) if change else index}, **files)
    for file, part in halves.items():
        save_file({name: weights()[name] for name in part}, path / file)
    return path


def test_shards_give_what_the_whole_gives(tmp_path):
    whole, shards = read_checkpoint(write_folder(tmp_path / "a")), read_checkpoint(write_shards(tmp_path / "b"))
    assert whole.weights.keys() == shards.weights.keys()
    assert all(torch.equal(whole.weights[name], shards.weights[name]) for name in whole.weights)
    assert whole.sha256 != shards.sha256


def changed(name, file):
    """An index that gives a tensor to another file."""
    return lambda index: {**index, "weight_map": {**index["weight_map"], name: file}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed(EMBEDDING, "../model.safetensors"), "no plain file name"),
        (changed(EMBEDDING, "/etc/passwd"), "no plain file name"),
        (changed(EMBEDDING, "none.safetensors"), "tensors differ from"),
        (changed("x", "a.safetensors"), "no file a.safetensors"),
        (changed("x", "config.json"), "config.json: .*damaged"),
        (changed("x", "model-00001-of-00002.safetensors"), "1 tensors .*: x"),
        (changed("x", 3), "weight_map is no mapping"),
        (lambda index: {**index, "weight_map": None}, "weight_map is no mapping"),
        (lambda index: {**index, "weight_map": {str(place): f"f{place}" for place in range(1001)}}, "more than 1000"),
    ],
)
def test_indices_that_lead_elsewhere_or_do_not_fit(tmp_path, change, words):
    refused(write_shards(tmp_path, change), words)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    folder = write_shards(tmp_path)
    save_file({name: weights()[name] for name in weights()}, folder / "model-00002-of-00002.safetensors")
    refused(folder, "model-00002-of-00002.safetensors: .* tensors differ")


def test_shards_are_bounded_together(tmp_path, monkeypatch):
    folder = write_shards(tmp_path)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    monkeypatch.setattr(module, "MAX_BYTES", size // 2 + 4000)
    refused(folder, "more than")
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    refused(write_folder(tmp_path / "whole"), "model.safetensors: .* more than")


def test_the_output_projection_is_the_embedding(tmp_path):
    state = {**weights(), "proj_out.weight": weights()[EMBEDDING].clone()}
    assert read_checkpoint(write_folder(tmp_path / "both", state)).weights.keys() == {
        name.removeprefix("model.") for name in weights()
    }
    moved = {name: tensor for name, tensor in state.items() if name != EMBEDDING}
    found = read_checkpoint(write_folder(tmp_path / "one", moved)).weights
    assert torch.equal(found["decoder.embed_tokens.weight"], weights()[EMBEDDING])
    for other in (state["proj_out.weight"] + 1, state["proj_out.weight"][:-1], state["proj_out.weight"].half()):
        own = {**state, "proj_out.weight": other.contiguous()}
        refused(write_folder(tmp_path / "own", own), "proj_out.weight differs from decoder.embed_tokens.weight")


def test_names_without_the_prefix_and_with_both(tmp_path):
    bare = {name.removeprefix("model."): tensor for name, tensor in weights().items()}
    checkpoint = read_checkpoint(write_folder(tmp_path / "bare", bare))
    build_model("whisper", checkpoint.config, checkpoint.weights)
    both = {**weights(), "decoder.layer_norm.bias": torch.zeros(32)}
    refused(write_folder(tmp_path / "both", both), "with and without 'model.'")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a'b $(x).bin"])
def test_pickled_weights_are_refused_with_the_command_that_converts_them(tmp_path, name):
    folder = write_folder(tmp_path / "it's here", {})
    target = tmp_path / "executed"
    (folder / name).write_bytes(pickle.dumps(Bomb(target)))
    error = refused(folder, "weights are pickled only")
    assert not target.exists()
    program, option, code = shlex.split(error.repair.partition("installed: ")[2])
    assert (program, option) == ("python", "-c")
    compile(code, "command", "exec")
    source = str(folder.resolve())
    assert f"from_pretrained({source!r}).save_pretrained({source + '-safetensors'!r}, safe_serialization=True)" in code


def test_pickled_weights_beside_safetensors_are_left_alone(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert read_checkpoint(folder).family == "whisper"


def test_a_folder_without_weights(tmp_path):
    refused(write_folder(tmp_path, {}), "no model.safetensors")


def header(content, data=b""):
    text = json.dumps(content).encode() if isinstance(content, dict) else content
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        b"\xff" * 100,
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 2**20) + b"{}",
        header(b"[]"),
        header(b"{"),
        header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}, b"1234"),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}}, b"1234"),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"1234"),
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
        header({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
        header({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in "ab"}, b"1234"),
    ],
)
def test_files_that_are_no_safetensors(tmp_path, content):
    folder = write_folder(tmp_path)
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, "model.safetensors: truncated or damaged")


@pytest.mark.parametrize("kept", [0.001, 0.5, 0.999])
def test_truncated_files(tmp_path, kept):
    folder = write_folder(tmp_path)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: int(kept * len(content))])
    refused(folder, "truncated or damaged")


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "F32", "shape": [[1]], "data_offsets": [0, 4]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [[0], 4]},
        {"a": {"dtype": "F32"}},
        [],
        None,
        1,
        "F32",
        {},
        {"dtype": "F32", "shape": [1] * 10_000, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [10**30], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]},
        {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]},
        {"dtype": "C64", "shape": [1], "data_offsets": [0, 4]},
    ],
)
@pytest.mark.parametrize(
    "name", ["proj_out.weight", "x" * 100_000, "\x1b[2J", "__metadata__"], ids=["known", "long", "escape", "metadata"]
)
def test_headers_of_wrong_types_and_strange_tensors(tmp_path, change, name):
    folder = write_folder(tmp_path)
    (folder / "model.safetensors").write_bytes(header({name: change}, b"1234"))
    error = refused(folder, "model.safetensors|config.json")
    assert len(error.problem) < 1000


def test_headers_nested_without_end(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "model.safetensors").write_bytes(header(b'{"a":' * 100_000 + b"1" + b"}" * 100_000))
    refused(folder, "model.safetensors: truncated or damaged")


@pytest.mark.parametrize(
    "kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.int64]
)
@pytest.mark.parametrize(
    "names", [(EMBEDDING,), (EMBEDDING, "proj_out.weight"), ("proj_out.weight",), ("model.encoder.conv1.weight",)]
)
def test_numbers_that_are_not_real(tmp_path, kind, names):
    """Of eight bits, whole, complex: none may become a weight, and comparing two of them is no error."""
    state = {**weights(), **{name: weights().get(name, weights()[EMBEDDING]).to(kind) for name in names}}
    if names == ("proj_out.weight",):
        del state[EMBEDDING]
    checkpoint = read_checkpoint(write_folder(tmp_path, state))
    with pytest.raises(CheckpointError, match=r"not of real numbers \(1\)"):
        build_model(checkpoint.family, checkpoint.config, checkpoint.weights)


def test_names_of_tensors_are_shortened(tmp_path):
    checkpoint = read_checkpoint(write_folder(tmp_path, {**weights(), "n" * 100_000: torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=r"extra \(1\): n+\.\.\.") as caught:
        build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    assert len(caught.value.problem) < 400
