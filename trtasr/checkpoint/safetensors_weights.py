"""Weights of a Hugging Face folder: safetensors only, whole or in shards, under our names.

The format holds a JSON header and plain numbers, so reading it runs nothing. Pickled weights are refused.
"""

from collections.abc import Mapping

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trtasr.checkpoint.folder import AGAIN, Folder
from trtasr.checkpoint.formats import refuse_weights
from trtasr.errors import CheckpointError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_BYTES = 8 * 2**30  # of all weights together
MAX_SHARDS = 1000
PREFIX = "model."
OUTPUT, EMBEDDING = "proj_out.weight", "decoder.embed_tokens.weight"
# what the library raises for damaged files and for kinds of numbers that torch does not have
UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)


def read_weights(folder: Folder) -> dict[str, Tensor]:
    """All tensors by our names: without the leading ``model.``, the output projection dropped.

    The output projection is the token embedding; a file that holds both must hold the same numbers.

    Raises:
        CheckpointError: no safetensors, damaged, too large, unsafe names, or an output projection of its own.
    """
    stored = read_shards(folder) if folder.has(INDEX) and not folder.has(WHOLE) else read_whole(folder)
    weights = {name.removeprefix(PREFIX): tensor for name, tensor in stored.items()}
    if len(weights) != len(stored):
        raise CheckpointError(f"{folder.path}: weights are there with and without {PREFIX!r} in front", AGAIN)
    output = weights.pop(OUTPUT, None)
    if output is not None and not same(weights.setdefault(EMBEDDING, output), output):
        raise CheckpointError(
            f"{folder.path}: {OUTPUT} differs from {EMBEDDING}",
            "use a model whose output projection is its token embedding",
        )
    return weights


def same(one: Tensor, other: Tensor) -> bool:
    """Equal type, shape and bytes: torch compares no numbers of eight bits or fewer."""
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def read_whole(folder: Folder) -> dict[str, Tensor]:
    """Tensors of ``model.safetensors``.

    Raises:
        CheckpointError: missing, or damaged; with weights of another format beside, how to convert them.
    """
    if not folder.has(WHOLE):
        names = folder.names()
        refuse_weights(folder.path, names)
        others = ", ".join(name for name in names if name.endswith(".safetensors"))[:200]
        raise CheckpointError(f"{folder.path}: no {WHOLE}{others and f', only {others}'}", AGAIN)
    return read_file(folder, WHOLE, MAX_BYTES)


def read_shards(folder: Folder) -> dict[str, Tensor]:
    """Tensors of all files that ``model.safetensors.index.json`` names.

    Raises:
        CheckpointError: a damaged index, or files that hold other tensors than it says.
    """
    listed = folder.json(INDEX).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise CheckpointError(f"{folder.path / INDEX}: weight_map is no mapping of names to files", AGAIN)
    files = sorted(set(listed.values()))
    if len(files) > MAX_SHARDS:
        raise CheckpointError(f"{folder.path / INDEX}: {len(files)} files, more than {MAX_SHARDS}", AGAIN)
    weights: dict[str, Tensor] = {}
    left = MAX_BYTES
    for file in files:
        found = read_file(folder, file, left)
        left -= sum(tensor.numel() * tensor.element_size() for tensor in found.values())
        check_shard(folder, file, set(found), listed)
        weights |= found
    return weights


def check_shard(folder: Folder, file: str, found: set[str], listed: Mapping[str, str]) -> None:
    """Compare a file's tensors with those that the index gives it.

    Raises:
        CheckpointError: naming one that is missing or too many.
    """
    odd = sorted(found ^ {name for name, place in listed.items() if place == file})
    if odd:
        raise CheckpointError(f"{folder.path / file}: {len(odd)} tensors differ from {INDEX}: {odd[0]:.80}", AGAIN)


def read_file(folder: Folder, name: str, limit: int) -> dict[str, Tensor]:
    """Tensors of one file.

    Raises:
        CheckpointError: as `Folder.file`, or damaged.
    """
    path = folder.file(name, limit)
    try:
        with safe_open(path, framework="pt") as content:
            return {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118 - no mapping
    except UNREADABLE as error:
        raise CheckpointError(f"{folder.path / name}: truncated or damaged ({error!s:.120})", AGAIN) from error
