"""Which tokens are numbers: "0000000000" may have been said, so that it is no loop."""

MARKERS = "\u2581\u0120 "  # spaces in front of a word: SentencePiece's, byte-level BPE's, a plain one
SEPARATORS = frozenset(",.-/:")  # between the digits of an amount, a date or a number that is read digit by digit


def digit_tokens(vocabulary: tuple[str, ...]) -> tuple[int, ...]:
    """Ids of pieces whose text is digits, of any script, a space in front or not."""
    return tuple(token for token, piece in enumerate(vocabulary) if piece.lstrip(MARKERS).isdecimal())


def separator_tokens(vocabulary: tuple[str, ...]) -> tuple[int, ...]:
    """Ids of pieces that stand between digits: a separator, a space, or both."""
    return tuple(token for token, piece in enumerate(vocabulary) if piece and is_separator(piece.strip(MARKERS)))


def is_separator(text: str) -> bool:
    """True for one separator, and for nothing but spaces."""
    return not text or text in SEPARATORS
