"""Checkpoints of other toolkits: what they are and what converts them, told without reading what can run code."""

import json
import pickle
import shlex

import pytest
from whisper_folder import Bomb, refused, write_folder

from trtasr.cli import main

ZIP = b"PK\x03\x04" + bytes(60)
FILES = {  # name -> first bytes, what it is, what is advised
    "tiny.pt": (ZIP, "a pickled PyTorch file", "convert_openai_to_hf --checkpoint_path"),
    "large-v3-turbo.pt": (ZIP, "a pickled PyTorch file", "convert_openai_to_hf --checkpoint_path"),
    "model.pth": (ZIP, "a pickled PyTorch file", "save_to"),
    "last.ckpt": (ZIP, "a checkpoint of PyTorch Lightning", "load_from_checkpoint"),
    "tf_model.h5": (b"\x89HDF\r\n\x1a\n", "TensorFlow", "from_tf=True"),
    "flax_model.msgpack": (b"\x81\xa5", "Flax", "from_flax=True"),
    "whisper.gguf": (b"GGUF\x03\0\0\0", "a GGUF file", "openai/whisper-tiny"),
    "renamed": (b"GGUF\x03\0\0\0", "a GGUF file", "openai/whisper-tiny"),
    "ggml-tiny.bin": (b"lmgg" + bytes(40), "a GGML file", "openai/whisper-tiny"),
    "model.bin": (b"\x06\0\0\0\x0c\0WhisperSpec\0", "a CTranslate2 model", "openai/whisper-tiny"),
    "encoder_model.onnx": (b"\x08\x07", "an ONNX graph", "openai/whisper-tiny"),
    "encoder.plan": (b"ptrt", "a TensorRT plan", "openai/whisper-tiny"),
    "whisper.tflite": (b"\x1c\0\0\0TFL3", "a TensorFlow Lite model", "openai/whisper-tiny"),
    "weights.npz": (ZIP, "MLX", "openai/whisper-tiny"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_toolkit_is_named_with_its_converter(tmp_path, name):
    content, words, advice = FILES[name]
    (tmp_path / name).write_bytes(content)
    error = refused(tmp_path / name, words)
    assert advice in error.repair


@pytest.mark.parametrize("name", [name for name in FILES if name != "renamed"])
@pytest.mark.parametrize("config", [None, {"alignment_heads": [[1, 0]], "lang_ids": [50259]}])
def test_so_is_a_folder_that_holds_one(tmp_path, name, config):
    """With a ``config.json`` of its own, as CTranslate2 and MLX have, or without."""
    content, words, advice = FILES[name]
    if config:
        (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / name).write_bytes(content)
    error = refused(tmp_path, words if not name.endswith((".pt", ".pth")) else "pickled only")
    assert name in error.problem
    assert advice in error.repair


@pytest.mark.parametrize(
    ("name", "option"), [("tf_model.h5", "from_tf=True"), ("flax_model.msgpack", "from_flax=True")]
)
def test_weights_of_other_frameworks_come_with_the_command_that_converts_them(tmp_path, name, option):
    folder = write_folder(tmp_path / "it's here", {})
    (folder / name).write_bytes(FILES[name][0])
    error = refused(folder, name)
    program, flag, code = shlex.split(error.repair.partition("installed: ")[2])
    assert (program, flag) == ("python", "-c")
    compile(code, "command", "exec")
    assert f"Model.from_pretrained({str(folder.resolve())!r}, {option})" in code


@pytest.mark.parametrize("name", ["tiny.pt", "pytorch_model.bin", "last.ckpt", "ggml-tiny.bin"])
def test_nothing_pickled_is_read_to_find_out(tmp_path, name):
    target = tmp_path / "executed"
    folder = write_folder(tmp_path / "folder", {})
    (folder / name).write_bytes(pickle.dumps(Bomb(target)))
    refused(folder, name)
    refused(folder / name, name)
    assert not target.exists()


def test_pickled_weights_win_where_there_are_several(tmp_path):
    folder = write_folder(tmp_path, {})
    for name in ("tf_model.h5", "pytorch_model.bin", "flax_model.msgpack"):
        (folder / name).write_bytes(b"x")
    refused(folder, r"pickled only \(pytorch_model.bin\)")


@pytest.mark.parametrize("config", [None, {"model_type": "whisper"}])
def test_an_adapter_says_so_and_how_to_merge_it(tmp_path, config):
    folder = write_folder(
        tmp_path / "my lora",
        {},
        config=config,
        tokenizer=None,
        adapter_config={"base_model_name_or_path": "openai/whisper-small", "peft_type": "LORA"},
    )
    (folder / "adapter_model.safetensors").write_bytes(b"")
    error = refused(folder, r"an adapter \(PEFT, LoRA\) of openai/whisper-small")
    program, flag, code = shlex.split(error.repair.partition("installed: ")[2])
    assert (program, flag) == ("python", "-c")
    compile(code, "command", "exec")
    assert f"Model.from_pretrained('openai/whisper-small'), {str(folder.resolve())!r}).merge_and_unload()" in code


def test_an_adapter_of_an_unnamed_model(tmp_path):
    refused(write_folder(tmp_path, {}, config=None, adapter_config={"base_model_name_or_path": 3}), "an adapter")


@pytest.mark.parametrize("name", ["adapter_config.json", "tiny.pt", "model.bin"])
def test_the_command_line_says_so_too(tmp_path, capsys, name):
    """A folder without ``config.json`` used to be no folder at all."""
    (tmp_path / name).write_bytes(b"{}")
    assert main(["compile", str(tmp_path), "--dry-run"]) in (0, 2)
    assert main(["compile", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "no such recipe" not in error
    assert str(tmp_path) in error


def test_a_model_of_the_cache_names_its_snapshot(tmp_path):
    folder = write_folder(tmp_path / "models--openai--whisper-tiny" / "snapshots" / "169d4a4")
    assert refused(tmp_path / "models--openai--whisper-tiny", "without config.json").repair == f"give {folder}"


def test_safetensors_of_another_name_are_named(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    refused(folder, "no model.safetensors, only model.fp16.safetensors")
