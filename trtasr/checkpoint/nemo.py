"""NeMo archives read without NeMo: a tar (plain or gzip) of a YAML configuration and a PyTorch state dict.

An archive may come from anywhere, so nothing in it is trusted: members are read by name into memory and never
extracted, every size is bounded, and weights are unpickled with ``weights_only=True``, which runs no code.
"""

import gzip
import hashlib
import io
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import torch
from torch import Tensor

from trtasr.audio.features import FrontendConfig
from trtasr.checkpoint.yaml_config import load_config, resolve
from trtasr.errors import CheckpointError

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
SECTIONS = ("target", "sample_rate", "labels", "preprocessor", "encoder", "decoder")
MAX_CONFIG_BYTES = 4 * 2**20
MAX_ARCHIVE_BYTES = 8 * 2**30
MAX_MEMBERS = 10_000
MAX_READ = 2**20
SAVE_AGAIN = "save the model again with NeMo's save_to, or download the archive again"
SUPPORTED = "use a QuartzNet or Jasper archive: EncDecCTCModel with ConvASREncoder and ConvASRDecoder"


@dataclass(frozen=True)
class Checkpoint:
    """A trained acoustic model, independent of the toolkit that saved it.

    Attributes:
        family: which module of `trtasr.models` computes it, for instance ``jasper``.
        target: NeMo class it was saved from.
        config: the configuration sections in use, interpolations resolved.
        weights: state dict on the CPU, as stored.
        vocabulary: tokens in id order, without the blank (which is the last class).
        frontend: parameters of the log-mel front-end.
        sha256: of the archive file, hexadecimal.
        path: of the archive file.
    """

    family: str
    target: str
    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    vocabulary: tuple[str, ...]
    frontend: FrontendConfig
    sha256: str
    path: Path


def read_nemo(path: Path) -> Checkpoint:
    """Read a ``.nemo`` archive.

    Raises:
        CheckpointError: missing, damaged, untrustworthy or unsupported; names the file, member or key.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file", "give the path of a .nemo archive")
    members = read_members(path)
    try:
        config = read_config(members[CONFIG])
        return Checkpoint(
            family=model_family(config),
            target=str(config["target"]),
            config=config,
            weights=read_weights(members[WEIGHTS]),
            vocabulary=read_vocabulary(config),
            frontend=read_frontend(config),
            sha256=file_sha256(path),
            path=path,
        )
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.problem}", error.repair) from error


class GuardedReader:
    """A seekable stream that refuses large single reads, so that no header of an archive can claim memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.seek = stream.seek
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        """Read up to ``size`` bytes, at most 1 MiB."""
        if not 0 <= size <= MAX_READ:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        return self.stream.read(size)


def read_members(path: Path) -> dict[str, bytes]:
    """The configuration and the weights of an archive, in one pass over it.

    Raises:
        CheckpointError: not an archive, truncated, too large, unsafe members, or one of the two is missing.
    """
    found: dict[str, bytes] = {}
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream = cast(IO[bytes], GuardedReader(cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if zipped else raw))
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                scan(archive, found)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise CheckpointError(f"{path}: not a readable NeMo archive, or truncated ({error})", SAVE_AGAIN) from error
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.problem}", error.repair) from error
    for name in (CONFIG, WEIGHTS):
        if name not in found:
            raise CheckpointError(f"{path}: the archive has no {name}", SAVE_AGAIN)
    return found


def scan(archive: tarfile.TarFile, found: dict[str, bytes]) -> None:
    """Walk the members once, keep the two that are needed in ``found``.

    Raises:
        CheckpointError: an unsafe or duplicate member, or a bound is exceeded.
    """
    total = 0
    for count, member in enumerate(archive, start=1):
        name = member_name(member)
        total += member.size
        if member.size < 0:
            raise CheckpointError(f"member {member.name!r} has a negative size", "do not use this archive")
        if count > MAX_MEMBERS or total > MAX_ARCHIVE_BYTES:
            raise CheckpointError(f"more than {MAX_MEMBERS} members or {MAX_ARCHIVE_BYTES >> 30} GiB", SAVE_AGAIN)
        if name not in (CONFIG, WEIGHTS):
            continue
        if name in found or not member.isfile():
            raise CheckpointError(f"{name} is there twice or is no file", SAVE_AGAIN)
        if name == CONFIG and member.size > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{name} has {member.size} bytes, more than {MAX_CONFIG_BYTES >> 20} MiB", SAVE_AGAIN)
        found[name] = member_bytes(archive, member)


def member_name(member: tarfile.TarInfo) -> str:
    """Name of a member without ``./``.

    Raises:
        CheckpointError: the name leaves the archive, or the member is a link, a device or a sparse file.
    """
    pure = PurePosixPath(member.name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts:
        raise CheckpointError(f"member {member.name!r} points outside the archive", "do not use this archive")
    if not (member.isfile() or member.isdir()) or member.issparse():
        raise CheckpointError(f"member {member.name!r} is a link, a device or a sparse file", "do not use this archive")
    return str(pure)


def member_bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Content of a regular member, read in bounded steps."""
    source = cast(IO[bytes], archive.extractfile(member))
    content = bytearray()
    while step := source.read(MAX_READ):
        content += step
    return bytes(content)


def read_config(content: bytes) -> dict[str, Any]:
    """The sections in use, interpolations resolved, in the ``_target_`` form.

    Raises:
        CheckpointError: no YAML mapping, an unresolvable reference, or a section is missing.
    """
    root = load_config(content, CONFIG)
    config = {key: resolve(root, key) for key in SECTIONS if key in root}
    for key in ("target", "preprocessor", "encoder", "decoder"):
        if not config.get(key):
            raise CheckpointError(f"{CONFIG} has no key {key!r}", SAVE_AGAIN)
    for key in ("preprocessor", "encoder", "decoder"):
        if not isinstance(config[key], dict):
            raise CheckpointError(f"{CONFIG}: {key} is not a mapping", SAVE_AGAIN)
        config[key] = modern_section(config[key])
    return config


def modern_section(section: dict[str, Any]) -> dict[str, Any]:
    """A section of NeMo before 1.0 (``cls`` and ``params``) in today's form (``_target_`` and flat keys)."""
    if "cls" in section and isinstance(section.get("params"), dict):
        return {"_target_": section["cls"], **section["params"]}
    return section


def model_family(config: Mapping[str, Any]) -> str:
    """Family of a supported model class.

    Raises:
        CheckpointError: saying what the model is and what is supported.
    """
    model, encoder, decoder, preprocessor = (
        str(name).rpartition(".")[2]
        for name in (config["target"], *(config[key].get("_target_") for key in ("encoder", "decoder", "preprocessor")))
    )
    if model != "EncDecCTCModel":
        raise CheckpointError(f"target: {model} is {describe(model)}, which is not supported", SUPPORTED)
    for key, name, known in (("encoder", encoder, "ConvASREncoder"), ("decoder", decoder, "ConvASRDecoder"),
                             ("preprocessor", preprocessor, "AudioToMelSpectrogramPreprocessor")):  # fmt: skip
        if name != known:
            raise CheckpointError(f"{key}._target_: {name} is not supported", f"{SUPPORTED} (here {known})")
    return "jasper"


def describe(model: str) -> str:
    """What a NeMo class is, in words."""
    kinds = (("Hybrid", "a hybrid transducer and CTC model"), ("RNNT", "a transducer (RNN-T)"),
             ("CTCModelBPE", "a CTC model over SentencePiece tokens"),
             ("MultiTask", "an attention encoder-decoder"))  # fmt: skip
    return next((words for part, words in kinds if part in model), "another kind of model")


def read_vocabulary(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Tokens in id order, from ``decoder.vocabulary`` or, failing that, ``labels``.

    Raises:
        CheckpointError: there is none, it is no list of strings, or its size is not ``decoder.num_classes``.
    """
    key = "decoder.vocabulary" if config["decoder"].get("vocabulary") else "labels"
    vocabulary = config["decoder"].get("vocabulary") or config.get("labels")
    if not isinstance(vocabulary, list) or not vocabulary or not all(isinstance(token, str) for token in vocabulary):
        raise CheckpointError("decoder.vocabulary (or labels) is not a list of strings", SAVE_AGAIN)
    classes = config["decoder"].get("num_classes", -1)
    if isinstance(classes, int) and 0 < classes != len(vocabulary):
        raise CheckpointError(f"{key} has {len(vocabulary)} tokens, decoder.num_classes is {classes}",
                              "make them equal (the blank is not counted)")  # fmt: skip
    return tuple(vocabulary)


def read_frontend(config: Mapping[str, Any]) -> FrontendConfig:
    """Front-end parameters, checked against the model.

    Raises:
        CheckpointError: an unusable key, or the sample rate or feature count differs from the model's.
    """
    frontend = FrontendConfig.from_mapping(config["preprocessor"])
    rate = config.get("sample_rate") or frontend.sample_rate
    if rate != frontend.sample_rate:
        raise CheckpointError(f"sample_rate is {rate} but preprocessor.sample_rate is {frontend.sample_rate}",
                              "correct the one that is wrong in model_config.yaml")  # fmt: skip
    encoder = config["encoder"]
    expected = encoder.get("feat_in", 0) * encoder.get("frame_splicing", 1)
    if expected != frontend.features * frontend.frame_splicing:
        given = f"preprocessor.features gives {frontend.features * frontend.frame_splicing}"
        raise CheckpointError(f"encoder.feat_in asks for {expected} features, {given}",
                              "correct the one that is wrong in model_config.yaml")  # fmt: skip
    return frontend


def read_weights(content: bytes) -> dict[str, Tensor]:
    """Unpickle a state dict without running anything in it.

    Raises:
        CheckpointError: damaged, or something other than a mapping of names to plain tensors.
    """
    check_zip(content)
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{WEIGHTS} contains code or objects, or is damaged; nothing in it was run",
                              "use an archive you trust, whose weights are plain tensors") from error  # fmt: skip
    except Exception as error:  # torch.load has no common error class: RuntimeError, EOFError, KeyError, IndexError ...
        raise CheckpointError(f"{WEIGHTS} is truncated or damaged ({type(error).__name__})", SAVE_AGAIN) from error
    if not isinstance(loaded, dict) or not loaded:
        raise CheckpointError(f"{WEIGHTS} holds a {type(loaded).__name__}, not a state dict", SAVE_AGAIN)
    for name, tensor in loaded.items():
        if not isinstance(name, str) or not is_plain(tensor):
            raise CheckpointError(f"{WEIGHTS}: {name!r} is no plain CPU tensor", SAVE_AGAIN)
    return loaded


def check_zip(content: bytes) -> None:
    """Refuse a state dict whose zip records would inflate beyond the archive bound."""
    if not content.startswith(b"PK"):
        return
    try:
        size = sum(record.file_size for record in zipfile.ZipFile(io.BytesIO(content)).infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{WEIGHTS} is truncated or damaged ({error})", SAVE_AGAIN) from error
    if size > 2 * len(content) + MAX_READ:
        raise CheckpointError(f"{WEIGHTS} inflates from {len(content)} to {size} bytes", "do not use this archive")


def is_plain(value: object) -> bool:
    """True for a dense, unquantized tensor with storage on the CPU."""
    return (isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
            and not value.is_quantized)  # fmt: skip


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
