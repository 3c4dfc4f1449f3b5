"""Tokenizers in bundles: a file where they have one, hashed like every other, else the vocabulary alone."""

from collections.abc import Mapping
from pathlib import Path

from trtasr.bundle import REPAIR, SIDECAR, Bundle, TokenizerFile
from trtasr.errors import BundleError, CheckpointError
from trtasr.files.read import Source
from trtasr.files.write import write_bytes
from trtasr.text.huggingface import HuggingFaceTokenizer
from trtasr.text.tokens import CharTokenizer, Kind, SentencePieceTokenizer, Tokenizer

FILES: Mapping[Kind, str] = {"characters": "", "sentencepiece": "tokenizer.model", "huggingface": "tokenizer.json"}


def file_of(tokenizer: Tokenizer) -> TokenizerFile:
    """How ``bundle.json`` notes a tokenizer."""
    return TokenizerFile(tokenizer.kind, FILES[tokenizer.kind])


def store(tokenizer: Tokenizer, folder: Path) -> None:
    """Write a tokenizer's file, if it has one, into a bundle that is being made."""
    if name := file_of(tokenizer).file:
        write_bytes(folder / name, tokenizer.content)


def restore(bundle: Bundle) -> Tokenizer:
    """The tokenizer of a bundle.

    Raises:
        BundleError: its file is missing, changed or none, or it has another vocabulary than the bundle.
    """
    known, noted = bundle.sidecar.vocabulary, bundle.sidecar.tokenizer
    try:
        found = opened(bundle, noted)
    except CheckpointError as error:
        raise BundleError(f"{bundle.path / noted.file}: {error.problem}", REPAIR) from error
    if found.vocabulary != known:
        raise BundleError(f"{bundle.path / SIDECAR}: its vocabulary is not that of {noted.file}", REPAIR)
    return found


def opened(bundle: Bundle, noted: TokenizerFile) -> Tokenizer:
    """A tokenizer by its kind."""
    if noted.kind == "characters":
        return CharTokenizer(bundle.sidecar.vocabulary)
    content = Source(bundle.file(noted.file), BundleError, REPAIR).content()
    if noted.kind == "sentencepiece":
        return SentencePieceTokenizer(content)
    return HuggingFaceTokenizer(content, len(bundle.sidecar.vocabulary))
