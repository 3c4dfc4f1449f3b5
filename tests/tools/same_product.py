"""Proves that two bundles hold the same product, whatever version of the package wrote them.

    python tests/tools/same_product.py OLD_BUNDLE NEW_BUNDLE [--renamed OLD=NEW ...]

Compared are graphs (with their external data), plans and other binary files by sha256, every number and name of
``scales.json``, and the transcripts of ``wer.json``; nothing that depends on the clock or on a folder's name. Prints a
line for each thing: its name, ``same`` or ``differs``, a hash; ends with 0 when all are the same, else with 1.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import Message

BINARY = ("*.onnx", "*.plan", "calibration.cache", "frontend.safetensors", "tokenizer.*")
SHORT = 12  # hexadecimal digits of a hash that are printed
MISSING = "missing"

Contents = dict[str, Any]  # name of a thing -> what is compared of it, JSON types only


def contents(bundle: Path) -> Contents:
    """Everything of a bundle that makes the product.

    Raises:
        FileNotFoundError: the folder has neither graphs nor plans, so that two such bundles would be the same.
    """
    paths = sorted(path for pattern in BINARY for path in bundle.rglob(pattern))
    if not paths:
        raise FileNotFoundError(f"{bundle}: no bundle")
    files = {path.relative_to(bundle).as_posix(): digest(path) for path in paths}
    return files | sections(bundle / "scales.json") | transcripts(bundle / "wer.json")


def digest(path: Path) -> str:
    """The sha256 of a file; of a graph with external data that of its values too, wherever they lie."""
    if path.suffix == ".onnx":
        model = onnx.load(path, load_external_data=False)
        external = [tensor for tensor in tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
        if external:
            return graph_digest(model, external, path.parent)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def graph_digest(model: onnx.ModelProto, external: list[onnx.TensorProto], folder: Path) -> str:
    """The sha256 of external values, in the graph's order, and of the graph without the names of their files."""
    found = hashlib.sha256()
    for tensor in external:
        onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        found.update(tensor.raw_data)
        for field in ("raw_data", "external_data", "data_location"):
            tensor.ClearField(field)
    found.update(model.SerializeToString(deterministic=True))
    return found.hexdigest()


def tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor in a graph: initializers, attributes and those of subgraphs and functions."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in [value] if isinstance(value, Message) else value:
                yield from tensors(part)


def sections(path: Path) -> Contents:
    """Scales, offsets, settings, decisions: each key of a scale table by itself."""
    if not path.is_file():
        return {}
    return {f"{path.name} {key}": value for key, value in json.loads(path.read_text("utf-8")).items()}


def transcripts(path: Path) -> Contents:
    """Engine -> the text of every utterance, by the file's name, in order."""
    if not path.is_file():
        return {}
    engines = json.loads(path.read_text("utf-8"))
    return {
        f"{path.name} {name}": [{Path(each["audio_filepath"]).name: each["pred_text"]} for each in engine["utterances"]]
        for name, engine in engines.items()
    }


def canonical(value: object) -> str:
    """One spelling of a JSON value, so that two are equal exactly when their numbers and names are."""
    return json.dumps(value, sort_keys=True)


def differing(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """Each key at which two JSON values differ, with both of its values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from differing(old.get(name, MISSING), new.get(name, MISSING), f"{key}[{name}]")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from differing(*pair, f"{key}[{index}]")
    elif canonical(old) != canonical(new):
        yield f"{key} {brief(old)} -> {brief(new)}".strip()


def brief(value: object) -> str:
    """A value in few characters; a list by its length."""
    return f"{len(value)} values" if isinstance(value, list | dict) else str(value)[:40]


def short(value: object) -> str:
    """The first digits of a thing's hash; a hash is its own."""
    text = value if isinstance(value, str) else hashlib.sha256(canonical(value).encode()).hexdigest()
    return text[:SHORT]


def line(name: str, old: object, new: object) -> tuple[bool, str]:
    """Whether a thing is the same, and the line that says so."""
    if canonical(old) == canonical(new):
        return True, f"{name}  same  {short(old)}"
    hashes = f"{name}  differs  {short(old)} -> {short(new)}"
    keys = list(differing(old, new)) if MISSING not in (old, new) and not isinstance(old, str) else []
    more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
    return False, f"{hashes}  {keys[0]}{more}" if keys else hashes


def compared(old: Contents, new: Contents, renamed: Mapping[str, str]) -> list[tuple[bool, str]]:
    """Whether each thing is the same, and a line about it; what one bundle lacks differs."""
    moved = {renamed.get(name, name): name for name in old}
    result = []
    for name in sorted(moved.keys() | new.keys()):
        before = moved.get(name, name)
        label = name if before == name else f"{before} = {name}"
        result.append(line(label, old.get(before, MISSING), new.get(name, MISSING)))
    return result


def main(arguments: list[str] | None = None) -> int:
    """Compare, print, judge."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    top.add_argument("old", type=Path, metavar="OLD_BUNDLE")
    top.add_argument("new", type=Path, metavar="NEW_BUNDLE")
    top.add_argument("--renamed", action="append", default=[], metavar="OLD=NEW", help="a file that was renamed")
    given = top.parse_args(arguments)
    renamed = dict(pair.split("=", 1) for pair in given.renamed)
    lines = compared(contents(given.old), contents(given.new), renamed)
    print(*(text for _, text in lines), sep="\n")
    wrong = sum(not same for same, _ in lines)
    print(f"DIFFERENT: {wrong} of {len(lines)}" if wrong else "SAME PRODUCT")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
