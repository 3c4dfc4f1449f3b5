"""Token ids -> text, by what a tokenizer is: characters, a SentencePiece model or a Hugging Face tokenizer.

Nothing here guesses from the look of tokens: readers of checkpoints say which kind it is, and a bundle notes it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from trtasr.errors import CheckpointError, said
from trtasr.text.punctuation import Punctuation

Kind = Literal["characters", "sentencepiece", "huggingface"]
WORD = "\u2581"  # SentencePiece writes it in front of every word
UNKNOWN = "<unk>"
CONTROL = ("<s>", "</s>", "<pad>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
AGAIN = "save the tokenizer again"


class Tokenizer(Protocol):
    """The one place where token ids become text."""

    @property
    def kind(self) -> Kind:
        """What it is."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Token strings in id order, as many as the model has outputs; for CTC without the blank."""

    @property
    def content(self) -> bytes:
        """The file that it is made from again; empty where the vocabulary suffices."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of a sequence of token ids (blanks already removed), without surrounding spaces."""


@dataclass(frozen=True)
class CharTokenizer:
    """Tokens that are written one after the other as they are, as in NeMo's character models (``EncDecCTCModel``).

    Attributes:
        vocabulary: token strings in id order, without the blank.
    """

    vocabulary: tuple[str, ...]
    kind: ClassVar[Kind] = "characters"
    content: ClassVar[bytes] = b""

    @cached_property
    def _punctuation(self) -> Punctuation:
        return Punctuation(self.vocabulary)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of a sequence of token ids (blanks already removed), without surrounding spaces."""
        return self._punctuation("".join(self.vocabulary[index] for index in ids)).strip()


@dataclass(frozen=True)
class SentencePieceTokenizer:
    """A SentencePiece model (Kudo and Richardson 2018, arXiv 1808.06226), as NeMo's BPE models have one.

    The library itself decodes: unknown pieces become ``\u2047``, control pieces nothing, user-defined ones themselves,
    byte pieces the characters that they spell.

    Attributes:
        content: the serialized model (``tokenizer.model``).

    Raises:
        CheckpointError: it is none.
    """

    content: bytes
    kind: ClassVar[Kind] = "sentencepiece"

    def __post_init__(self) -> None:
        if not self.content:  # the library takes it for no model yet
            raise CheckpointError("an empty file instead of a SentencePiece model", AGAIN)
        try:
            self.decode(range(len(self.vocabulary)))
        except (RuntimeError, ValueError) as error:  # the library has no class of its own; pieces may be no UTF-8
            raise CheckpointError(f"not a SentencePiece model ({said(error)})", AGAIN) from error
        if not self.vocabulary:
            raise CheckpointError("a SentencePiece model without pieces", AGAIN)

    @cached_property
    def _library(self) -> Any:
        return sentencepiece.SentencePieceProcessor(model_proto=self.content)

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Pieces in id order."""
        return tuple(self._library.id_to_piece(index) for index in range(len(self._library)))

    @cached_property
    def _punctuation(self) -> Punctuation:
        return Punctuation(self.vocabulary)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of a sequence of token ids (blanks already removed), without surrounding spaces."""
        return self._punctuation(str(self._library.decode(list(ids)))).strip()


def model_of(pieces: Iterable[str]) -> bytes:
    """A SentencePiece model of nothing but its list of pieces, for a checkpoint that lacks the model itself.

    ``<unk>`` is the unknown piece, ``<s>``, ``</s>`` and ``<pad>`` are control pieces, ``<0x00>`` to ``<0xFF>`` are
    bytes if all of them are there; all else is text.
    """
    listed = tuple(pieces)
    messages: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    types = messages.ModelProto.SentencePiece
    fallback = set(BYTES) <= set(listed)
    known = dict.fromkeys(CONTROL, types.CONTROL) | (dict.fromkeys(BYTES, types.BYTE) if fallback else {})
    known[UNKNOWN] = types.UNKNOWN
    model = messages.ModelProto()
    model.trainer_spec.byte_fallback = fallback
    for piece in listed:
        model.pieces.add(piece=piece, score=0.0, type=known.get(piece, types.NORMAL))
    return bytes(model.SerializeToString())
