"""Readers of checkpoints: NeMo archives, and Hugging Face folders of Whisper and Moonshine."""

import io
import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import tiny_archive
import tokenizer_zoo
import torch
import whisper_folder
import yaml
from fuzz.mutate import Mutation, bytes_of_any_file, json_tree, message, one_member, tar_header, tree, yaml_text
from fuzz.target import Target
from golden import moonshine_configs, whisper_configs
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.checkpoint.read import read_checkpoint
from trtasr.models.moonshine import Moonshine
from trtasr.pipeline.job import model_of

PIECES = 300  # of the models that are made for a tokenizer


def read_model(path: Path) -> object:
    """A whole checkpoint, up to the module that holds its weights."""
    return model_of(read_checkpoint(path))


def read_spoken(path: Path) -> str:
    """A checkpoint, and the text of every token that it may say."""
    checkpoint: Checkpoint = read_checkpoint(path)
    return tokenizer_zoo.spoken(checkpoint, list(range(min(len(checkpoint.vocabulary), 2 * PIECES))))


# archives


@cache
def weights(conformer: bool = False, *, legacy: bool = False) -> bytes:
    """The tiny archive's weights as torch saves them, or saved them before 1.6, with buffers of a front-end."""
    state = tiny_archive.conformer_network().state_dict() if conformer else tiny_archive.state()
    buffer = io.BytesIO()
    torch.save(
        {**state, "preprocessor.featurizer.window": torch.hann_window(320)},
        buffer,
        _use_new_zipfile_serialization=not legacy,
    )
    return buffer.getvalue()


def archive_of(place: Path, config: bytes, state: bytes) -> Path:
    """An archive of two members, uncompressed."""
    return tiny_archive.write_raw(place / "model.nemo", {"model_config.yaml": config, "model_weights.ckpt": state})


def config_seeds(_: Path) -> list[bytes]:
    """Configurations of both encoders."""
    return [yaml.safe_dump(config).encode() for config in (tiny_archive.config(), tiny_archive.conformer_config())]


def config_tree(draw: random.Random, content: bytes) -> bytes:
    """A configuration with changed places."""
    return yaml.safe_dump(tree(draw, yaml.safe_load(content)), allow_unicode=True).encode("utf-8", "surrogatepass")


def read_config(content: bytes, place: Path) -> object:
    """A configuration in an archive with weights that fit the unspoiled one."""
    return read_model(archive_of(place, content, weights(b"n_heads" in content)))


def archive_seeds(place: Path) -> list[bytes]:
    """Archives, compressed and not."""
    plain = archive_of(place, config_seeds(place)[0], weights()).read_bytes()
    return [plain, tiny_archive.write_archive(place / "gzip.nemo").read_bytes()]


def read_archive_bytes(content: bytes, place: Path) -> object:
    """An archive from its bytes."""
    (place / "model.nemo").write_bytes(content)
    return read_model(place / "model.nemo")


def weights_pickle(draw: random.Random, content: bytes) -> bytes:
    """Weights whose pickle is spoiled inside a whole zip, or the file itself."""
    return one_member(draw, content, "data.pkl") if content[:2] == b"PK" else bytes_of_any_file(draw, content)


def read_weights(content: bytes, place: Path) -> object:
    """Weights in an archive with the configuration they belong to."""
    return read_model(archive_of(place, config_seeds(place)[0], content))


@cache
def piece_models() -> list[bytes]:
    """SentencePiece models of one size."""
    options: tuple[dict[str, Any], ...] = (
        {"byte_fallback": True},
        {"model_type": "unigram", "byte_fallback": True, "user_defined_symbols": "<|en|>", "control_symbols": "<x>"},
    )
    return [
        tokenizer_zoo.trained(vocab_size=PIECES, normalization_rule_name="identity", **option) for option in options
    ]


def read_pieces(content: bytes, place: Path) -> object:
    """A SentencePiece model in an archive."""
    listed = tokenizer_zoo.strings(piece_models()[b"<|en|>" in content])
    return read_spoken(tokenizer_zoo.nemo_bpe(place, content, listed))


# Hugging Face folders


def write_whisper(folder: Path) -> Path:
    """The tiny Whisper."""
    return whisper_folder.write_folder(folder)


def write_moonshine(folder: Path) -> Path:
    """A tiny Moonshine whose README.md names its language."""
    config = moonshine_configs.config(vocab_size=PIECES) | {"architectures": ["MoonshineForConditionalGeneration"]}
    torch.manual_seed(0)
    state = {f"model.{name}": tensor for name, tensor in Moonshine(config).state_dict().items()}
    whisper_folder.write_folder(
        folder,
        state,
        config=config,
        generation_config={"_from_model_config": True},
        tokenizer=tokenizer_zoo.like_moonshine(),
        preprocessor_config={"do_normalize": False, "sampling_rate": 16000, "padding_value": 0.0},
    )
    (folder / "README.md").write_text("---\nlanguage:\n- ko\nlicense: mit\n---\n# A model\n", encoding="utf-8")
    return folder


def write_older(folder: Path) -> Path:
    """A Whisper with the tokenizer's older files."""
    pieces = whisper_configs.vocabulary()
    added = {piece: token for token, piece in enumerate(pieces) if piece.startswith("<|")}
    end = {"content": pieces[-1], "special": True, "lstrip": False}
    return whisper_folder.write_folder(
        folder,
        tokenizer=None,
        vocab={piece: token for token, piece in enumerate(pieces) if piece not in added},
        added_tokens=added,
        special_tokens_map={"eos_token": end, "additional_special_tokens": list(added)},
        tokenizer_config={"added_tokens_decoder": {str(token): {"content": text} for text, token in added.items()}},
    )


def write_shards(folder: Path) -> Path:
    """A Whisper whose weights have an index."""
    write_whisper(folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(whisper_folder.weights(), "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def folder_file(kind: str, write: Callable[[Path], Path], name: str, share: int, *, spoken: bool = False) -> Target:
    """One file of a folder."""

    def seeds(place: Path) -> list[bytes]:
        return [(write(place / "model") / name).read_bytes()]

    def read(content: bytes, place: Path) -> object:
        (place / "model" / name).write_bytes(content)
        return (read_spoken if spoken else read_model)(place / "model")

    spoil: dict[str, Mutation] = {".json": json_tree, ".safetensors": safetensors}
    return Target(
        f"{kind} {name.partition('.json')[0]}",
        seeds,
        read,
        spoil.get(Path(name).suffix, bytes_of_any_file),
        share,
    )


def safetensors(draw: random.Random, content: bytes) -> bytes:
    """Safetensors with a changed header, or with changed bytes."""
    if draw.random() < 0.3:
        return bytes_of_any_file(draw, content)
    size = int.from_bytes(content[:8], "little")
    header = json_tree(draw, content[8 : 8 + size])
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


CHECKPOINTS = (
    Target("yaml text", config_seeds, read_config, yaml_text, 80),
    Target("yaml tree", config_seeds, read_config, config_tree, 80),
    Target("archive", archive_seeds, read_archive_bytes, tar_header, 80),
    Target("weights zip", lambda place: [weights()], read_weights, weights_pickle, 80),
    Target("weights legacy", lambda place: [weights(legacy=True)], read_weights, weights_pickle, 60),
    Target("tokenizer.model", lambda place: piece_models(), read_pieces, message(ModelProto), 30),
    folder_file("whisper", write_whisper, "config.json", 15),
    folder_file("whisper", write_whisper, "generation_config.json", 15),
    folder_file("whisper", write_whisper, "preprocessor_config.json", 15),
    folder_file("whisper", write_whisper, "tokenizer.json", 25, spoken=True),
    folder_file("whisper", write_whisper, "model.safetensors", 30),
    folder_file("whisper", write_shards, "model.safetensors.index.json", 10),
    *(
        folder_file("older whisper", write_older, f"{name}.json", 10, spoken=True)
        for name in ("vocab", "added_tokens", "special_tokens_map", "tokenizer_config")
    ),
    folder_file("moonshine", write_moonshine, "config.json", 15),
    folder_file("moonshine", write_moonshine, "generation_config.json", 10),
    folder_file("moonshine", write_moonshine, "preprocessor_config.json", 10),
    folder_file("moonshine", write_moonshine, "tokenizer.json", 20, spoken=True),
    folder_file("moonshine", write_moonshine, "README.md", 10),
)
