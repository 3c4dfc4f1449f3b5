"""Files of a folder that may come from anywhere: plain names, bounded sizes, no way out of the folder."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtasr.errors import CheckpointError

PLAIN = re.compile(r"\w[\w.+-]{0,199}", re.ASCII)
MAX_JSON_BYTES = 32 * 2**20
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
        return (self.path / name).is_file()

    def file(self, name: str, limit: int) -> Path:
        """Path of a regular file inside the folder, of at most ``limit`` bytes.

        A link may lead to another file of the folder, or, as in the cache of the Hugging Face Hub
        (``snapshots/REVISION/NAME``), to ``blobs/`` beside ``snapshots/``.

        Raises:
            CheckpointError: no plain name, missing, no regular file, elsewhere, or too large.
        """
        path = self.path / name
        if not PLAIN.fullmatch(name):
            raise CheckpointError(f"{self.path}: {name!r:.80} is no plain file name", "do not use this folder")
        if not path.is_file():
            raise CheckpointError(f"{self.path}: no file {name}", AGAIN)
        folder, found = self.path.resolve(), path.resolve()
        blobs = [folder.parents[1] / "blobs"] if folder.parent.name == "snapshots" else []
        if found.parent not in (folder, *blobs):
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
        content = self.file(name, limit).read_bytes()
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.path / name}: not valid JSON ({error!s:.80})", AGAIN) from error
        if not isinstance(found, dict):
            raise CheckpointError(f"{self.path / name}: not a JSON object", AGAIN)
        return found

    def optional(self, name: str) -> dict[str, Any] | None:
        """Content of a JSON file, or None where there is no such file."""
        return self.json(name) if self.has(name) else None

    def sha256(self) -> str:
        """SHA-256 over names and hashes of the files that were asked for, by name: the order of reading is no part."""
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(self.hashes.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


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
