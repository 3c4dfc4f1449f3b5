"""Text normalization before WER and CER, named so that a figure says what it was computed with.

======================  =============================================================================================
``basic-en-v1``         NFC, lower case, everything but letters, digits and apostrophes to spaces. For texts in a-z: a
                        combining mark that NFC leaves by itself is lost, and with it the vowels of Hindi or Thai.
``unicode-v1``          NFC, case folded; letters, digits and combining marks stay, in every script. Punctuation and
                        symbols become spaces. An apostrophe stays inside a word and goes elsewhere, where it is a
                        quotation mark. Invisible format characters (joiners, soft hyphens, directions) vanish.
``none``                spaces collapsed, nothing else.
======================  =============================================================================================

NFC, not NFKC: two encodings of one text are the same, two spellings are not (full-width forms, ligatures, and the Thai
vowel that NFKC takes apart). Whisper's normalizers use NFKC and drop combining marks, which makes different words of
Hindi, Tamil or Thai the same.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping

AUTO = "auto"
PUNCTUATION = re.compile(r"[^\w\s']|_")
APOSTROPHES = str.maketrans(dict.fromkeys("\u2019\u02bc\uff07", "'"))
KEPT = ("L", "N", "Mn", "Mc")  # categories of Unicode: letters, numbers, combining marks
WORD_BREAK = "\u200b"  # a format character (Cf) that stands between words: zero width space
UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA", "THAI ", "LAO ", "KHMER ", "MYANMAR ")  # as names of characters begin


def basic_en_v1(text: str) -> str:
    """NFC, lower case, punctuation (all but the apostrophe) to spaces, spaces collapsed."""
    plain = unicodedata.normalize("NFC", text.lower()).replace("\u2019", "'")
    return " ".join(PUNCTUATION.sub(" ", plain).split())


def unicode_v1(text: str) -> str:
    """NFC, case folded, punctuation and symbols to spaces; letters, digits and combining marks of every script stay."""
    seen = "".join(char for char in text if char == WORD_BREAK or unicodedata.category(char) != "Cf")
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", seen).casefold()).translate(APOSTROPHES)
    plain = "".join(char if kept(char) else " " for char in folded)
    words = (word.strip("'") for word in plain.split())
    return " ".join(word for word in words if any(map(str.isalnum, word)))  # no marks without a letter


def kept(char: str) -> bool:
    """Whether `unicode_v1` keeps a character."""
    return char == "'" or unicodedata.category(char).startswith(KEPT)


def unchanged(text: str) -> str:
    """Spaces collapsed, nothing else."""
    return " ".join(text.split())


NORMALIZERS: Mapping[str, Callable[[str], str]] = {
    "basic-en-v1": basic_en_v1,
    "unicode-v1": unicode_v1,
    "none": unchanged,
}


def resolve(name: str, references: Iterable[str]) -> str:
    """The normalizer to use: a name is itself; ``auto`` is ``basic-en-v1`` where all letters of the references are a-z.

    Args:
        name: ``auto`` or one of `NORMALIZERS`.
        references: transcripts as given.
    """
    if name != AUTO:
        return name
    characters = (char for text in references for char in text)
    english = all(char.isascii() for char in characters if unicodedata.category(char)[0] in "LM")
    return "basic-en-v1" if english else "unicode-v1"


def spaced(texts: Iterable[str]) -> bool:
    """Whether texts have spaces between words: False where most letters are of a script that is written without.

    Those are Chinese, Japanese, Thai, Lao, Khmer and Burmese, for which Whisper (Radford et al. 2022, appendix C) and
    others count characters.
    """
    letters = [char for text in texts for char in text if char.isalpha()]
    without = sum(unicodedata.name(char, "").startswith(UNSPACED) for char in letters)
    return 2 * without <= len(letters)
