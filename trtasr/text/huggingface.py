"""Hugging Face tokenizers: ``tokenizer.json``, decoded by the library ``tokenizers``."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import msgspec
import tokenizers

from trtasr.errors import CheckpointError, said
from trtasr.text.tokens import AGAIN, Kind

TIMESTAMP = re.compile(r"<\|\d+\.\d+\|>")  # Whisper's, in seconds; transformers leaves them out of texts
BYTE_LEVEL = "ByteLevel"
PLAIN_DECODERS = (BYTE_LEVEL, "ByteFallback", "Fuse", "Metaspace")
SUPPORTED = "use byte-level BPE, or the decoder of SentencePiece: Replace, ByteFallback, Fuse, Strip at the start"
SPELLING = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


class Added(msgspec.Struct):
    """One of the tokens that a file adds to its model."""

    id: int
    content: str
    special: bool = False


class Model(msgspec.Struct):
    """What is checked of a file's model."""

    vocab: dict[str, int] | list[Any]


class File(msgspec.Struct):
    """What of ``tokenizer.json`` has a part in decoding.

    The rest (normalizer, pre-tokenizer ...) is left out: the library would run it on the added tokens, and a file from
    anywhere could keep it busy for ever.
    """

    model: msgspec.Raw
    added_tokens: msgspec.Raw = msgspec.Raw(b"[]")
    decoder: msgspec.Raw = msgspec.Raw(b"null")
    version: msgspec.Raw = msgspec.Raw(b'"1.0"')


@dataclass(frozen=True)
class HuggingFaceTokenizer:
    """The tokenizer of a Hugging Face folder; decodes as transformers does with ``skip_special_tokens``.

    Special added tokens and timestamps become nothing, other added tokens are text. In one thing the library is not
    followed: its byte-level decoder takes the letters of an added ``caf\u00e9`` for bytes (its issue 1392).

    Attributes:
        content: ``tokenizer.json``.
        outputs: of the model.

    Raises:
        CheckpointError: no tokenizer that the library can read, or one whose decoder is not safe to run.
    """

    content: bytes
    outputs: int
    kind: ClassVar[Kind] = "huggingface"

    def __post_init__(self) -> None:
        check_model(parsed(self._file.model, Model))
        library = self._library
        for added in self._added:
            found = library.token_to_id(added.content)
            if found != added.id:
                raise CheckpointError(
                    f"the added token {added.content!r:.80} has the id {added.id}, the library reads {found}", AGAIN
                )

    @cached_property
    def _file(self) -> File:
        found: File = parsed(self.content, File)
        return found

    @cached_property
    def _added(self) -> list[Added]:
        found: list[Added] = parsed(self._file.added_tokens, list[Added])
        return found

    @cached_property
    def _decoder(self) -> dict[str, Any]:
        found = parsed(self._file.decoder, dict[str, Any] | None) or {}
        check_decoder(found)
        return found

    @cached_property
    def _library(self) -> tokenizers.Tokenizer:
        assert self._decoder is not None  # checked before anything runs
        try:
            return tokenizers.Tokenizer.from_str(msgspec.json.encode(self._file).decode())
        except Exception as error:  # the library raises this class itself
            raise unreadable(error) from error

    @cached_property
    def strings(self) -> dict[int, str]:
        """Token -> string, as far as the outputs have one."""
        found = ((token, self._library.id_to_token(token)) for token in range(self.outputs))
        return {token: text for token, text in found if text is not None}

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Token strings in id order; ids without one are ``<|unused ID|>``."""
        return tuple(self.strings.get(token, f"<|unused {token}|>") for token in range(self.outputs))

    @cached_property
    def _given(self) -> dict[int, str]:
        """What the library's decoder is given for each token that is not silent."""
        special = {added.content for added in self._added if added.special}
        plain = {added.content for added in self._added if self._library.model.token_to_id(added.content) is None}
        plain = plain if self._decoder.get("type") == BYTE_LEVEL else set()
        return {
            token: spelled(text) if text in plain else text
            for token, text in self.strings.items()
            if text not in special
        }

    @cached_property
    def _has_timestamps(self) -> bool:
        return any(TIMESTAMP.fullmatch(added.content) for added in self._added)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of a sequence of token ids, without surrounding spaces."""
        given = [self._given[token] for token in ids if token in self._given]
        decoder = self._library.decoder
        text = decoder.decode(given) if decoder else " ".join(given)
        return (TIMESTAMP.sub("", text) if self._has_timestamps else text).strip()


def parsed(content: bytes | msgspec.Raw, kind: Any) -> Any:
    """JSON of one type.

    Raises:
        CheckpointError: something else.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(error) from error


def unreadable(error: Exception) -> CheckpointError:
    """The error of a file that is no tokenizer."""
    return CheckpointError(f"not a tokenizer ({said(error)})", AGAIN)


def spelled(text: str) -> str:
    """An added token in the alphabet that a byte-level decoder reads as this text."""
    return "".join(part for part, _ in SPELLING.pre_tokenize_str(text))


def check_model(model: Model) -> None:
    """Refuse a list of scored pieces (Unigram): the library needs gigabytes for long ones.

    Raises:
        CheckpointError: it is one.
    """
    if isinstance(model.vocab, list):
        raise CheckpointError("a Unigram model is not supported", "use a BPE tokenizer, as Whisper and Moonshine have")


def check_decoder(decoder: dict[str, Any]) -> None:
    """Refuse decoders by which a file from anywhere could take all time or memory, or stop the library.

    Those are regular expressions, replacements that lengthen the text, cuts at the end (the library panics where a
    token is shorter), and kinds that no supported model has.

    Raises:
        CheckpointError: naming the part.
    """
    kind, parts = decoder.get("type"), decoder.get("decoders")
    if kind == "Sequence" and isinstance(parts, list) and all(isinstance(part, dict) for part in parts):
        for part in parts:
            check_decoder(part)
    elif not (
        not decoder
        or kind in PLAIN_DECODERS
        or (kind == "Strip" and decoder.get("stop") == 0)
        or (kind == "Replace" and shortens(decoder))
    ):
        raise CheckpointError(f"decoder {decoder!r:.120} is not supported", SUPPORTED)


def shortens(decoder: dict[str, Any]) -> bool:
    """True for a replacement of a string, not of an expression, by none that is longer."""
    pattern, content = decoder.get("pattern"), decoder.get("content")
    found = pattern.get("String") if isinstance(pattern, dict) else None
    return isinstance(found, str) and isinstance(content, str) and 0 < len(found) >= len(content)
