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
SPECIAL = re.compile(r"<\|.*\|>|<<\w+>>", re.DOTALL)  # as in Whisper (``<|en|>``) and Moonshine (``<<ST_1>>``)
BYTE_SPACE = "\u0120"  # the space of the byte alphabet


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


@dataclass(frozen=True)
class ByteLevelTokenizer:
    """Pieces of bytes, each byte written as one printable character (byte-level BPE of GPT-2, Whisper's).

    Decodes as the library ``tokenizers`` does with its ``ByteLevel`` decoder and special tokens skipped: the bytes of
    all pieces are UTF-8 text, what is none becomes U+FFFD; special tokens (``<|en|>``, timestamps) become nothing.

    Attributes:
        vocabulary: pieces in id order, special tokens included.
    """

    vocabulary: tuple[str, ...]

    @property
    def blank(self) -> int:
        """Id of the CTC blank: the class after the last token."""
        return len(self.vocabulary)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of a sequence of token ids, without surrounding spaces."""
        content = b"".join(spelled_bytes(self.vocabulary[index]) for index in ids)
        return content.decode("utf-8", errors="replace").strip()


def byte_alphabet() -> dict[str, int]:
    """Character -> byte: printable Latin-1 stands for itself, the other bytes for U+0100, U+0101 ... in their order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


ALPHABET = byte_alphabet()


def spelled_bytes(piece: str) -> bytes:
    """Bytes of one piece in the byte alphabet; a piece with other characters is plain text."""
    if SPECIAL.fullmatch(piece):
        return b""
    known = [ALPHABET.get(character) for character in piece]
    return piece.encode() if None in known else bytes(byte for byte in known if byte is not None)


def piece_bytes(piece: str) -> bytes:
    """UTF-8 text of one piece."""
    if byte := BYTE.fullmatch(piece):
        return bytes([int(byte[1], 16)])
    if piece in CONTROL or SPECIAL.fullmatch(piece):
        return b""
    return (UNKNOWN_TEXT if piece == UNKNOWN else piece.replace(WORD, " ")).encode()


Tokenizer = CharTokenizer | SentencePieceTokenizer | ByteLevelTokenizer


def tokenizer(vocabulary: tuple[str, ...]) -> Tokenizer:
    """The tokenizer a vocabulary belongs to: some pieces begin with ``\u2581`` or ``\u0120``, characters do not.

    Archives of NeMo 1.0 and before list SentencePiece pieces in WordPiece's spelling, ``the`` and ``##s``.
    """
    if any(token.startswith(WORD) for token in vocabulary):
        return SentencePieceTokenizer(vocabulary)
    if any(token.startswith(BYTE_SPACE) for token in vocabulary):
        return ByteLevelTokenizer(vocabulary)
    if any(token.startswith(CONTINUED) and token != CONTINUED for token in vocabulary):
        return SentencePieceTokenizer(tuple(map(modern_piece, vocabulary)))
    return CharTokenizer(vocabulary)


def modern_piece(token: str) -> str:
    """A piece in WordPiece's spelling (``##s`` goes on with a word) in SentencePiece's."""
    if token.startswith(CONTINUED):
        return token.removeprefix(CONTINUED)
    return token if token in (UNKNOWN, *CONTROL) or BYTE.fullmatch(token) else WORD + token.removeprefix(WORD)
