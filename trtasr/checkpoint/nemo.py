"""NeMo archives read without NeMo: a tar (plain or gzip) of a YAML configuration and a PyTorch state dict.

An archive may come from anywhere, so nothing in it is trusted: members are read by name into memory and never
extracted, every size is bounded, and weights are unpickled with ``weights_only=True``, which runs no code.
"""

import gzip
import io
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from trtasr.audio.features import FrontendConfig
from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.checkpoint.frontend_buffers import restore
from trtasr.checkpoint.nemo_tokenizer import MAX_BYTES, SAVE_AGAIN, is_tokenizer_file, read_tokenizer
from trtasr.checkpoint.state_dict import WEIGHTS, read_weights
from trtasr.checkpoint.yaml_config import load_config, resolve
from trtasr.errors import CheckpointError
from trtasr.files.keep import sha256_file
from trtasr.files.look import is_file

CONFIG = "model_config.yaml"
SECTIONS = ("target", "sample_rate", "labels", "tokenizer", "preprocessor", "encoder", "decoder")
MAX_CONFIG_BYTES = 4 * 2**20
MAX_ARCHIVE_BYTES = 8 * 2**30
MAX_MEMBERS = 10_000
MAX_READ = 2**20
MAX_HEADER_BYTES = 16 * 2**20  # all headers of an archive together: tarfile keeps them, sparse maps included
MAX_EXPANSION = 32  # archive file -> weights; trained floats shrink by a tenth, a gzip bomb by 1000
# tarfile's own classes, and what its parsing of odd headers lets through (PAX numbers, chained headers)
UNREADABLE = (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, OverflowError, IndexError, RecursionError)
SUPPORTED = (
    "use a CTC model: QuartzNet or Jasper (ConvASREncoder), Conformer or FastConformer (ConformerEncoder), as "
    "EncDecCTCModel or EncDecCTCModelBPE with ConvASRDecoder"
)
HYBRID = (
    "make a CTC model of it with NeMo (python examples/asr/asr_hybrid_transducer_ctc/helpers/"
    f"convert_nemo_asr_hybrid_to_ctc.py -i HYBRID.nemo -o CTC.nemo -m ctc), or {SUPPORTED}"
)
CLASSES = ("EncDecCTCModel", "EncDecCTCModelBPE")
FAMILIES = {"ConvASREncoder": "jasper", "ConformerEncoder": "conformer"}


def read_nemo(path: Path) -> Checkpoint:
    """Read a ``.nemo`` archive.

    Raises:
        CheckpointError: missing, damaged, untrustworthy or unsupported; names the file, member or key.
    """
    if not is_file(path):
        raise CheckpointError(f"{path}: no such file", "give the path of a .nemo archive")
    members = read_members(path)
    try:
        config = read_config(members[CONFIG].getvalue())
        family = model_family(config)
        files = {name: members[name].getvalue() for name in members if is_tokenizer_file(name)}
        tokenizer = read_tokenizer(config, files)
        frontend, weights = read_frontend(config), read_weights(members[WEIGHTS])
        return Checkpoint(
            family=family,
            target=str(config["target"]),
            config={**config, "decoder": {**config["decoder"], "vocabulary": list(tokenizer.vocabulary)}},
            weights=weights,
            tokenizer=tokenizer,
            frontend=restore(frontend, weights),
            sha256=sha256_file(path),
            path=path,
        )
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.problem}", error.repair) from error


class GuardedReader:
    """A seekable stream that bounds what is read, so that no header of an archive can claim memory.

    Args:
        stream: the archive, decompressed.

    Attributes:
        budget: bytes that may still be read; raised for each member whose content is wanted.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.budget = MAX_HEADER_BYTES
        self.seek = stream.seek
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        """Read up to ``size`` bytes, at most 1 MiB."""
        if not 0 <= size <= MAX_READ:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        content = self.stream.read(size)
        self.budget -= len(content)
        if self.budget < 0:
            raise tarfile.ReadError(f"headers take more than {MAX_HEADER_BYTES >> 20} MiB")
        return content


def read_members(path: Path) -> dict[str, io.BytesIO]:
    """Configuration, weights and the tokenizer's files of an archive, in one pass over it; weights are held once.

    Raises:
        CheckpointError: not an archive, truncated, too large, unsafe members, or one of the first two is missing.
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            reader = GuardedReader(cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if zipped else raw)
            with tarfile.open(fileobj=cast(IO[bytes], reader), mode="r:") as archive:
                found = scan(archive, reader, MAX_EXPANSION * path.stat().st_size + MAX_READ)
    except CheckpointError as error:  # first: it is a ValueError too
        raise CheckpointError(f"{path}: {error.problem}", error.repair) from error
    except UNREADABLE as error:
        raise CheckpointError(f"{path}: not a readable NeMo archive, or truncated ({error})", SAVE_AGAIN) from error
    for name in (CONFIG, WEIGHTS):
        if name not in found:
            raise CheckpointError(f"{path}: the archive has no {name}", SAVE_AGAIN)
    return found


def scan(archive: tarfile.TarFile, reader: GuardedReader, largest: int) -> dict[str, io.BytesIO]:
    """Walk the members once and keep those that are needed.

    Args:
        archive: opened on ``reader``.
        reader: its budget is raised by the size of each kept member.
        largest: bytes that the weights may take.

    Raises:
        CheckpointError: an unsafe or duplicate member, or a bound is exceeded.
    """
    found: dict[str, io.BytesIO] = {}
    bounds = {CONFIG: MAX_CONFIG_BYTES, WEIGHTS: largest}
    total, spare = 0, MAX_BYTES
    for count, member in enumerate(archive, start=1):
        name = member_name(member)
        total += member.size
        if member.size < 0:
            raise CheckpointError(f"member {member.name!r} has a negative size", "do not use this archive")
        if count > MAX_MEMBERS or total > MAX_ARCHIVE_BYTES:
            raise CheckpointError(f"more than {MAX_MEMBERS} members or {MAX_ARCHIVE_BYTES >> 30} GiB", SAVE_AGAIN)
        if is_tokenizer_file(name) and member.isfile():
            bounds.setdefault(name, spare)
            spare -= member.size
        if name not in bounds:
            continue
        if name in found or not member.isfile():
            raise CheckpointError(f"{name} is there twice or is no file", SAVE_AGAIN)
        if member.size > bounds[name]:
            raise CheckpointError(
                f"{name} has {member.size} bytes, more than {bounds[name] / 2**20:.0f} MiB "
                f"({MAX_CONFIG_BYTES >> 20} MiB for a configuration, {MAX_BYTES >> 20} MiB for "
                f"tokenizers, {MAX_EXPANSION} times the archive file else)",
                SAVE_AGAIN,
            )
        reader.budget += member.size
        found[name] = member_content(archive, member)
    return found


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


def member_content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> io.BytesIO:
    """Content of a regular member, read in bounded steps."""
    source = cast(IO[bytes], archive.extractfile(member))
    content = io.BytesIO()
    content.seek(max(member.size - 1, 0))
    content.write(b"\0"[: member.size])  # reserves the whole: a buffer that grows is copied
    content.seek(0)
    while step := source.read(MAX_READ):
        content.write(step)
    content.seek(0)
    return content


def read_config(content: bytes) -> dict[str, Any]:
    """The sections in use, interpolations resolved, in the ``_target_`` form.

    Raises:
        CheckpointError: no YAML mapping, an unresolvable reference, or a section is missing.
    """
    root = load_config(content, CONFIG)
    config = {key: resolve(root, key) for key in SECTIONS if key in root}
    if config.get("target"):
        check_class(str(config["target"]))  # before all else: other classes have other sections
    for key in ("target", "preprocessor", "encoder", "decoder"):
        if not config.get(key):
            raise CheckpointError(f"{CONFIG} has no key {key!r}", SAVE_AGAIN)
    for key in ("preprocessor", "encoder", "decoder"):
        if not isinstance(config[key], dict):
            raise CheckpointError(f"{CONFIG}: {key} is not a mapping", SAVE_AGAIN)
        if "cls" in config[key] and isinstance(config[key].get("params"), dict):  # NeMo before 1.0
            config[key] = {"_target_": config[key]["cls"], **config[key]["params"]}
    return config


def model_family(config: Mapping[str, Any]) -> str:
    """Family of a supported model class.

    Raises:
        CheckpointError: saying what the model is and what is supported.
    """
    encoder, decoder, preprocessor = (
        class_name(config[key].get("_target_")) for key in ("encoder", "decoder", "preprocessor")
    )
    for key, name, known in (
        ("encoder", encoder, tuple(FAMILIES)),
        ("decoder", decoder, ("ConvASRDecoder",)),
        ("preprocessor", preprocessor, ("AudioToMelSpectrogramPreprocessor",)),
    ):
        if name not in known:
            raise CheckpointError(
                f"{key}._target_: {name} is not supported", f"{SUPPORTED} (here {' or '.join(known)})"
            )
    return FAMILIES[encoder]


def class_name(target: object) -> str:
    """Last part of a dotted name, short and without anything that a terminal would obey."""
    name = str(target).rpartition(".")[2][:80]
    return name if name.isprintable() else ascii(name)


def check_class(target: str) -> None:
    """Refuse model classes that are no CTC model.

    Raises:
        CheckpointError: saying what the model is and what is supported.
    """
    model = class_name(target)
    if model not in CLASSES:
        repair = HYBRID if "Hybrid" in model else SUPPORTED
        raise CheckpointError(f"target: {model} is {describe(model)}, which is not supported", repair)


def describe(model: str) -> str:
    """What a NeMo class is, in words."""
    kinds = (
        ("Hybrid", "a hybrid transducer and CTC model"),
        ("RNNT", "a transducer (RNN-T)"),
        ("MultiTask", "an attention encoder-decoder"),
    )
    return next((words for part, words in kinds if part in model), "another kind of model")


def read_frontend(config: Mapping[str, Any]) -> FrontendConfig:
    """Front-end parameters, checked against the model.

    Raises:
        CheckpointError: an unusable key, or the sample rate or feature count differs from the model's.
    """
    frontend = FrontendConfig.from_mapping(config["preprocessor"])
    rate = config.get("sample_rate") or frontend.sample_rate
    if rate != frontend.sample_rate:
        raise CheckpointError(
            f"sample_rate is {rate} but preprocessor.sample_rate is {frontend.sample_rate}",
            "correct the one that is wrong in model_config.yaml",
        )
    sizes = {"feat_in": config["encoder"].get("feat_in"), "frame_splicing": config["encoder"].get("frame_splicing", 1)}
    for key, value in sizes.items():
        if type(value) is not int:
            raise CheckpointError(f"encoder.{key}: {value!r:.80}", "use a positive integer")
    expected = sizes["feat_in"] * sizes["frame_splicing"]
    if expected != frontend.features * frontend.frame_splicing:
        given = f"preprocessor.features gives {frontend.features * frontend.frame_splicing}"
        raise CheckpointError(
            f"encoder.feat_in asks for {expected} features, {given}",
            "correct the one that is wrong in model_config.yaml",
        )
    return frontend
