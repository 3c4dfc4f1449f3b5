"""Files of a folder that may come from anywhere: plain names, bounded sizes, no way out of the folder."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trtasr.errors import CheckpointError
from trtasr.files.look import is_file
from trtasr.files.read import Source

PLAIN = re.compile(r"\w[\w.+-]{0,199}", re.ASCII)
MAX_JSON_BYTES = 32 * 2**20
MAX_DEPTH = 32  # of nested JSON: published files have less than 10, and what walks or prints a value recurses
AGAIN = "download the folder again, or save it again with save_pretrained"


class Folder:
    """Reads files by name and remembers the hash of each.

    Args:
        path: of the folder.

    Attributes:
        hashes: name -> SHA-256 of the content, hexadecimal, of every file that was asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hashes: dict[str, str] = {}

    def has(self, name: str) -> bool:
        """Whether a file of this name is there."""
        return is_file(self.path / name)

    def names(self) -> list[str]:
        """Names of all its files, sorted.

        Raises:
            CheckpointError: the folder cannot be read.
        """
        try:
            return sorted(path.name for path in self.path.iterdir() if is_file(path))
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read ({error.strerror})", "check its permissions") from error

    def file(self, name: str, limit: int) -> Path:
        """Path of a regular file inside the folder, of at most ``limit`` bytes.

        A link may lead to another file of the folder, or, as in the cache of the Hugging Face Hub, to another file of
        the cache (`holders`).

        Raises:
            CheckpointError: no plain name, missing, no regular file, elsewhere, or too large.
        """
        path = self.path / name
        if not PLAIN.fullmatch(name):
            raise CheckpointError(f"{self.path}: {name!r:.80} is no plain file name", "do not use this folder")
        if not is_file(path):
            raise CheckpointError(f"{self.path}: no file {name}", AGAIN)
        found = path.resolve()
        if not any(found.is_relative_to(place) for place in holders(self.path.resolve())):
            raise CheckpointError(f"{path}: a link that leads out of the folder", "do not use this folder")
        if found.stat().st_size > limit:
            raise CheckpointError(f"{path}: {found.stat().st_size} bytes, more than {limit >> 20} MiB", AGAIN)
        with found.open("rb") as stream:
            self.hashes[name] = hashlib.file_digest(stream, "sha256").hexdigest()
        return found

    def json(self, name: str, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
        """Content of a JSON file that holds an object.

        Raises:
            CheckpointError: as `file`, or no JSON object.
        """
        self.file(name, limit)
        found = Source(self.path / name, CheckpointError, AGAIN, limit).json(dict[str, Any])
        if depth(found) > MAX_DEPTH:
            raise CheckpointError(f"{self.path / name}: nested more than {MAX_DEPTH} deep", AGAIN)
        return found

    def optional(self, name: str) -> dict[str, Any] | None:
        """Content of a JSON file, or None where there is no such file."""
        return self.json(name) if self.has(name) else None

    def sha256(self) -> str:
        """SHA-256 over names and hashes of the files that were asked for, by name: the order of reading is no part."""
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(self.hashes.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


def holders(folder: Path) -> list[Path]:
    """Folders that a folder's files may lie in: itself, and for a snapshot what the Hugging Face Hub's cache has.

    That is ``models--ORG--NAME/snapshots/REVISION/FILE -> ../../blobs/ETAG``, and since the store that all models share
    ``models--ORG--NAME/blobs/ETAG -> ../../blobs/XX/HASH`` (huggingface_hub, pull requests 4498 and 4600): the root of
    the cache holds them all.

    Args:
        folder: resolved.
    """
    if folder.parent.name != "snapshots":
        return [folder]
    model = folder.parents[1]
    return [folder, model.parent if model.name.startswith("models--") else model / "blobs"]


def depth(value: Any) -> int:
    """How deep objects and lists are nested, counted without recursion."""
    levels, level = 0, [value]
    while level := [item for holder in level for item in children(holder)]:
        levels += 1
    return levels


def children(value: Any) -> Iterable[Any]:
    """What an object or a list holds; of anything else nothing."""
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def section(source: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """An object inside a configuration; empty where it is missing or null.

    Raises:
        CheckpointError: something else.
    """
    found = source.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise CheckpointError(f"{where}: {key} is {found!r:.80}", "use an object, or null")
    return found


def integer(source: Mapping[str, Any], key: str, where: str, bounds: tuple[int, int]) -> int:
    """An integer of a configuration within bounds, both included.

    Raises:
        CheckpointError: missing, another type, or out of bounds.
    """
    value = source.get(key)
    if type(value) is not int or not bounds[0] <= value <= bounds[1]:
        raise CheckpointError(f"{where}: {key} = {value!r:.80}", f"use an integer from {bounds[0]} to {bounds[1]}")
    return value
