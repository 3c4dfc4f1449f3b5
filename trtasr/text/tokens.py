"""Token ids -> text."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

WORD = "\u2581"  # SentencePiece writes it in front of every word
UNKNOWN, UNKNOWN_TEXT = "<unk>", " \u2047 "
CONTROL = ("<s>", "</s>", "<pad>")
CONTINUED = "##"
STRAY = re.compile("[\udc80-\udcff]")  # a byte that is part of no character, as surrogateescape writes it
BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class SentencePieceTokenizer:
    """Subword pieces in which ``\u2581`` stands for the space in front of a word.

    Decodes as SentencePiece does (Kudo and Richardson 2018, arXiv 1808.06226): pieces are written one after the other;
    an unknown piece becomes ``\u2047`` between spaces, byte pieces (``<0xE2>``) become the characters that they spell,
    each byte that belongs to no character becomes U+FFFD, control pieces (``<s>``, ``</s>``) become nothing.

    Attributes:
        vocabulary: pieces in id order, without the blank.
    """

    vocabulary: tuple[str, ...]

    @property
    def blank(self) -> int:
        """Id of the CTC blank: the class after the last token."""
        return len(self.vocabulary)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of a sequence of token ids (blanks already removed), without surrounding spaces."""
        content = b"".join(piece_bytes(self.vocabulary[index]) for index in ids)
        return STRAY.sub("\ufffd", content.decode("utf-8", errors="surrogateescape")).strip()


@dataclass(frozen=True)
class CharTokenizer:
    """Tokens that are written one after the other, as in character models.

    Attributes:
        vocabulary: token strings in id order, without the blank.
    """

    vocabulary: tuple[str, ...]

    @property
    def blank(self) -> int:
        """Id of the CTC blank: the class after the last token."""
        return len(self.vocabulary)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of a sequence of token ids (blanks already removed), without surrounding spaces."""
        return "".join(self.vocabulary[index] for index in ids).strip()


def piece_bytes(piece: str) -> bytes:
    """UTF-8 text of one piece."""
    if byte := BYTE.fullmatch(piece):
        return bytes([int(byte[1], 16)])
    if piece in CONTROL:
        return b""
    return (UNKNOWN_TEXT if piece == UNKNOWN else piece.replace(WORD, " ")).encode()


def tokenizer(vocabulary: tuple[str, ...]) -> CharTokenizer | SentencePieceTokenizer:
    """The tokenizer a vocabulary belongs to: some pieces begin with ``\u2581``, characters do not.

    Archives of NeMo 1.0 and before list SentencePiece pieces in WordPiece's spelling, ``the`` and ``##s``.
    """
    if any(token.startswith(WORD) for token in vocabulary):
        return SentencePieceTokenizer(vocabulary)
    if any(token.startswith(CONTINUED) and token != CONTINUED for token in vocabulary):
        return SentencePieceTokenizer(tuple(map(modern_piece, vocabulary)))
    return CharTokenizer(vocabulary)


def modern_piece(token: str) -> str:
    """A piece in WordPiece's spelling (``##s`` goes on with a word) in SentencePiece's."""
    if token.startswith(CONTINUED):
        return token.removeprefix(CONTINUED)
    return token if token in (UNKNOWN, *CONTROL) or BYTE.fullmatch(token) else WORD + token.removeprefix(WORD)
