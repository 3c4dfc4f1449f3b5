"""The output folder: written aside and moved into place whole, described and sealed by ``bundle.json``."""

import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from msgspec import Meta

from trtasr.errors import BundleError, CheckpointError
from trtasr.files import replace
from trtasr.files.keep import entries, sha256_file, unchanged
from trtasr.files.look import SIDECAR
from trtasr.files.read import MIB, Source, decoded
from trtasr.files.write import write_bytes, write_json
from trtasr.text.generate import Generation
from trtasr.text.huggingface import HuggingFaceTokenizer
from trtasr.text.tokens import CharTokenizer, Kind, SentencePieceTokenizer, Tokenizer

FORMAT = 3  # 1: without a tokenizer; 2: one file per graph and engine
REPAIR = "compile the bundle again"
LARGEST_FILE = 16384 * MIB  # of what is hashed
SHOWN = 200  # characters of a list of names

Count = Annotated[int, Meta(ge=0, le=2**53)]
Positive = Annotated[int, Meta(ge=1, le=2**31)]


@dataclass(frozen=True)
class Head:
    """What tells one format of ``bundle.json`` from another."""

    format: int | None = None


@dataclass(frozen=True)
class Seal:
    """What a ``bundle.json`` of any format says about its files.

    Attributes:
        format: number of the format.
        name: of the recipe.
        files: name relative to the bundle -> sha256.
    """

    format: int
    name: str
    files: dict[str, str]


@dataclass(frozen=True)
class Origin:
    """The checkpoint that a bundle was compiled from.

    Attributes:
        sha256: of the archive or folder.
    """

    sha256: str


@dataclass(frozen=True)
class EngineFile:
    """One part of an engine.

    Attributes:
        path: relative to the bundle.
        size_bytes: of that file.
        unmasked: plan of the same part without masks, for one utterance without padding; None: there is none.
    """

    path: str
    size_bytes: Count
    unmasked: "EngineFile | None" = None


@dataclass(frozen=True)
class EngineFiles:
    """An engine of a bundle.

    Attributes:
        label: of its row in tables.
        precision: ``int8``; of a baseline of a T4 host ``fp16`` or ``fp32``.
        parts: in the order in which they run.
    """

    label: str
    precision: Literal["int8", "fp16", "fp32"]
    parts: Annotated[tuple[EngineFile, ...], Meta(min_length=1)]

    @property
    def paths(self) -> tuple[str, ...]:
        """The files of its parts, relative to the bundle."""
        return tuple(part.path for part in self.parts)

    @property
    def files(self) -> tuple[str, ...]:
        """All its files: behind those of its parts the plans without masks."""
        return (*self.paths, *(part.unmasked.path for part in self.parts if part.unmasked))


@dataclass(frozen=True)
class IntegerFiles:
    """The integer-only graph of a bundle.

    Attributes:
        graph: its file; reference: the Q/DQ graph with the same layers in INT8.
    """

    graph: str
    reference: str


@dataclass(frozen=True)
class TokenizerFile:
    """How token ids become text.

    Attributes:
        kind: of tokenizer, as `trtasr.text.tokens` names it.
        file: that it is made from, relative to the bundle; empty for characters, where the vocabulary suffices.
    """

    kind: Kind
    file: str = ""


@dataclass(frozen=True)
class Sidecar:
    """What running a bundle needs to know of ``bundle.json``; other keys are for people, and are ignored.

    Attributes:
        files: name relative to the bundle -> sha256.
        family: of models, which says how the graphs are wired.
        checkpoint: what it was compiled from.
        recipe: resolved, as `trtasr.recipe.from_dict` takes it.
        frontend: parameters, as `trtasr.audio.frontend.frontend_from_json` takes them.
        vocabulary: token strings in id order.
        tokenizer: what makes text of them.
        graphs: ``fp32`` and every target -> its ONNX graphs, one per part of the network.
        engines: target, or baseline of a T4 host -> engine.
        generation: rules of an encoder-decoder; None for CTC.
        most_frames: feature frames that the model has positions for; None where there is no end.
        integer: the integer-only graph; None where there is none.
        manifest: the recipe's evaluation manifests, relative to the bundle, in its order; older bundles name none, or
            one as a string.
    """

    files: dict[str, str]
    family: str
    checkpoint: Origin
    recipe: dict[str, Any]
    frontend: dict[str, Any]
    vocabulary: tuple[str, ...]
    tokenizer: TokenizerFile
    graphs: dict[str, Annotated[tuple[str, ...], Meta(min_length=1)]]
    engines: dict[str, EngineFiles]
    generation: Generation | None = None
    most_frames: Positive | None = None
    integer: IntegerFiles | None = None
    manifest: tuple[str, ...] | str = ()

    @property
    def manifests(self) -> tuple[str, ...]:
        """The same as a list."""
        return tuple(filter(None, [self.manifest])) if isinstance(self.manifest, str) else self.manifest

    @property
    def named(self) -> tuple[str, ...]:
        """The files that are run: graphs and engines."""
        graphs = (file for files in self.graphs.values() for file in files)
        engines = (path for engine in self.engines.values() for path in engine.files)
        return (*graphs, *engines, *((self.integer.graph, self.integer.reference) if self.integer else ()))


@dataclass(frozen=True)
class Bundle:
    """A finished bundle on disk.

    Attributes:
        path: its folder.
        sidecar: the content of ``bundle.json``.
    """

    path: Path
    sidecar: Sidecar

    def file(self, name: str) -> Path:
        """Path of one of its files, after its sha256 was compared with the sidecar's.

        Raises:
            BundleError: not part of the bundle, missing, no regular file, outside of it, or changed since it was
                written.
        """
        known = self.sidecar.files
        if name not in known:
            raise BundleError(f"{self.path}: has no {name:.80}", f"compile again; it holds {listed(known)}")
        path = self.path / name
        if not os.path.lexists(path):
            raise BundleError(f"{path}: missing", REPAIR)
        if not inside(path, self.path):
            raise BundleError(f"{path}: a link that leads out of the bundle", REPAIR)
        found = Source(path, BundleError, REPAIR, LARGEST_FILE).sha256()
        if found != known[name]:
            raise BundleError(
                f"{path}: sha256 {found[:12]} does not match {known[name][:12]} in {SIDECAR}",
                "the file changed after the build; compile the bundle again",
            )
        return path


def staged(out: Path) -> AbstractContextManager[Path]:
    """A folder aside that takes the place of ``out`` when the block ends well, and vanishes otherwise.

    Files in an old bundle there that are not the bundle's, or changed, move on into the new one.

    Raises:
        UsageError: ``out`` cannot be written, or is neither a bundle nor free. DiskError: the disk takes no more.
    """
    return replace.replaced(out, written_files)


def check_replaceable(out: Path) -> None:
    """Refuse to overwrite what is not a bundle.

    Raises:
        UsageError: ``out`` is no folder, is in use as the current one, or has content and is no bundle of ours.
    """
    replace.check_replaceable(out, written_files)


def written_files(folder: Path) -> Mapping[str, str | None] | None:
    """The files that we wrote into a folder and their hashes; None when it is no bundle of ours.

    That it holds a ``bundle.json`` proves nothing, other programs write files of that name: it must be a seal, and at
    least one of the files it names must be there as it was sealed.
    """
    try:
        found = Source(folder / SIDECAR, BundleError, REPAIR).json(Seal)
    except BundleError:
        return None
    if found.format not in range(1, FORMAT + 1) or not all(map(is_plain, found.files)):
        return None
    names = (path.relative_to(folder).as_posix() for path in entries(folder))
    if not any(name in found.files and unchanged(folder / name, found.files[name]) for name in names):
        return None
    return {**found.files, SIDECAR: None}


def seal(folder: Path, description: Mapping[str, Any]) -> None:
    """Write ``bundle.json``: the description, the format number and the sha256 of every file in the folder."""
    files = {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != SIDECAR
    }
    write_json(folder / SIDECAR, {"format": FORMAT, **description, "files": files})


def open_bundle(path: Path) -> Bundle:
    """Read a bundle's sidecar; files are checked when they are asked for.

    Raises:
        BundleError: no bundle there, or a sidecar of another format, with a value of the wrong type, or with names that
            are no files of the bundle.
    """
    if not os.path.lexists(path / SIDECAR):
        raise BundleError(f"{path}: no bundle here", "build it: `make engine MODEL=...` or `trtasr compile`")
    source = Source(path / SIDECAR, BundleError, REPAIR)
    content = source.content()
    if decoded(content, Head, source).format != FORMAT:
        raise BundleError(f"{source.path}: not a bundle of format {FORMAT}", f"{REPAIR} with this version")
    sidecar = decoded(content, Sidecar, source)
    check_names(sidecar, source.path)
    return Bundle(path, sidecar)


def check_names(sidecar: Sidecar, where: Path) -> None:
    """Refuse a sidecar whose files could lie elsewhere, or whose engines are none of its files.

    Raises:
        BundleError: naming the file.
    """
    for name in sidecar.files:
        if not is_plain(name):
            raise BundleError(f"{where}: {name!r:.80} is no file inside the bundle", REPAIR)
    for name in sidecar.named:
        if name not in sidecar.files:
            raise BundleError(f"{where}: {name!r:.80} is to be run, but is none of its files", REPAIR)
    if "fp32" not in sidecar.graphs or len(sidecar.graphs) == 1:
        raise BundleError(f"{where}: needs the FP32 graph and that of an engine, has {listed(sidecar.graphs)}", REPAIR)
    counts = {len(files) for files in (*sidecar.graphs.values(), *(item.parts for item in sidecar.engines.values()))}
    if len(counts) > 1:
        raise BundleError(f"{where}: graphs and engines of {listed(map(str, counts))} parts", REPAIR)
    if unbuilt := sorted(set(sidecar.graphs) - {"fp32", *sidecar.engines}):
        raise BundleError(f"{where}: a graph, but no engine for {listed(unbuilt)}", REPAIR)
    check_plans(sidecar, where)


def check_plans(sidecar: Sidecar, where: Path) -> None:
    """Refuse plans among graphs, and engines of plans and graphs: what a file is run by is told by its name.

    Raises:
        BundleError: naming the file or the engine.
    """
    integer = (sidecar.integer.graph, sidecar.integer.reference) if sidecar.integer else ()
    graphs = (*integer, *(name for files in sidecar.graphs.values() for name in files))
    if plans := list(filter(is_plan, graphs)):
        raise BundleError(f"{where}: {listed(plans)}: a plan, and to be run as a graph", REPAIR)
    for target, engine in sidecar.engines.items():
        if len(set(map(is_plan, engine.files))) > 1:
            raise BundleError(f"{where}: engine {target:.80} has plans and graphs", REPAIR)
        if engine.files != engine.paths and (len(engine.paths) > 1 or not is_plan(engine.files[-1])):
            raise BundleError(f"{where}: {engine.files[-1]:.80}: only the one plan of a network has another", REPAIR)


def is_plan(name: str) -> bool:
    """True for a plan, which runs on a GPU; all else is an ONNX graph."""
    return name.endswith(".plan")


def is_plain(name: str) -> bool:
    """True for a relative name without ``.`` and ``..``, as `seal` writes it."""
    parts = PurePosixPath(name).parts
    return bool(parts) and name == "/".join(parts) and parts[0] != "/" and ".." not in parts and "\0" not in name


def inside(path: Path, folder: Path) -> bool:
    """True when a path, its links followed, leads to somewhere below the folder."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def listed(names: Iterable[str]) -> str:
    """Names in order, a line at most."""
    return ", ".join(sorted(names))[:SHOWN]


TOKENIZER_FILES: Mapping[Kind, str] = {
    "characters": "",
    "sentencepiece": "tokenizer.model",
    "huggingface": "tokenizer.json",
}


def tokenizer_file(tokenizer: Tokenizer) -> TokenizerFile:
    """How ``bundle.json`` notes a tokenizer."""
    return TokenizerFile(tokenizer.kind, TOKENIZER_FILES[tokenizer.kind])


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write a tokenizer's file, if it has one, into a bundle that is being made."""
    if name := tokenizer_file(tokenizer).file:
        write_bytes(folder / name, tokenizer.content)


def restore_tokenizer(bundle: Bundle) -> Tokenizer:
    """The tokenizer of a bundle.

    Raises:
        BundleError: its file is missing, changed or none, or it has another vocabulary than the bundle.
    """
    known, noted = bundle.sidecar.vocabulary, bundle.sidecar.tokenizer
    try:
        found = opened_tokenizer(bundle, noted)
    except CheckpointError as error:
        raise BundleError(f"{bundle.path / noted.file}: {error.problem}", REPAIR) from error
    if found.vocabulary != known:
        raise BundleError(f"{bundle.path / SIDECAR}: its vocabulary is not that of {noted.file}", REPAIR)
    return found


def opened_tokenizer(bundle: Bundle, noted: TokenizerFile) -> Tokenizer:
    """A tokenizer by its kind."""
    if noted.kind == "characters":
        return CharTokenizer(bundle.sidecar.vocabulary)
    content = Source(bundle.file(noted.file), BundleError, REPAIR).content()
    if noted.kind == "sentencepiece":
        return SentencePieceTokenizer(content)
    return HuggingFaceTokenizer(content, len(bundle.sidecar.vocabulary))
