"""A small Hugging Face folder of Whisper, whole or with any part replaced, and how a refusal is checked."""

import json
import os
from functools import cache

import pytest
import torch
from golden import whisper_configs
from safetensors.torch import save_file

from trtasr.checkpoint.read import read_checkpoint
from trtasr.errors import CheckpointError
from trtasr.models.whisper import Whisper

PREPROCESSOR = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 16,
    "sampling_rate": 1000,
    "n_fft": 40,
    "hop_length": 25,
    "chunk_length": 2,
    "padding_value": 0.0,
    "dither": 0.0,
}

FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


@cache
def weights():
    """State dict with Hugging Face's names."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Whisper(whisper_configs.config()).state_dict().items()}
    return {f"model.{name}": torch.from_numpy(whisper_configs.weight(name, shape)) for name, shape in shapes.items()}


def tokenizer_json():
    """``tokenizer.json``: byte-level words in the model, what is special beside it."""
    pieces = whisper_configs.vocabulary()
    plain = [piece for piece in pieces if not piece.startswith("<|")]
    added = [
        {"id": len(plain) + index, "content": piece, "special": True}
        for index, piece in enumerate(pieces[len(plain) :])
    ]
    model = {"type": "BPE", "vocab": {piece: index for index, piece in enumerate(plain)}, "merges": []}
    return {"version": "1.0", "added_tokens": [FLAGS | token for token in added], "model": model, "decoder": DECODER}


def write_folder(path, state=None, **files):
    """Write the folder; ``files`` replace one by name (without ``.json``), None leaves it out.

    Args:
        path: of the folder.
        state: tensors of ``model.safetensors``; empty: no such file.
        files: JSON content, or bytes.
    """
    path.mkdir(parents=True, exist_ok=True)
    content = {
        "config": whisper_configs.config(),
        "generation_config": whisper_configs.GENERATIONS["named"],
        "preprocessor_config": PREPROCESSOR,
        "tokenizer": tokenizer_json(),
        **files,
    }
    for name, value in content.items():
        if value is not None:
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            (path / f"{name}.json").write_bytes(data)
    if state is None or state:
        save_file(weights() if state is None else state, path / "model.safetensors", metadata={"format": "pt"})
    return path


def refused(path, words):
    """The error of a folder that is refused with certain words."""
    with pytest.raises(CheckpointError, match=words) as caught:
        read_checkpoint(path)
    assert str(path) in caught.value.problem
    assert caught.value.repair
    return caught.value


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)
