"""Spaces in front of punctuation, by the rule that NeMo has since its pull request 13353.

Models whose marks are tokens of their own say a space in front of them too. Of such spaces NeMo 3.0.0
(``extract_punctuation_from_vocab``, ``AbstractCTCDecoding``) leaves out the last one.
"""

import re
import unicodedata
from collections.abc import Iterable

# tokens whose characters are no marks: [bracketed], <tags>, what goes on with or starts a word, spaces
OTHER = re.compile(r"\[.*\]$|<.*>$|##|\u2581|\s*$")
NEVER = re.compile(r"(?!)()")


def marks(vocabulary: Iterable[str]) -> frozenset[str]:
    """Punctuation marks (Unicode category P) among the characters of a vocabulary's plain tokens."""
    characters = {character for token in vocabulary if not OTHER.match(token) for character in token}
    return frozenset(character for character in characters if unicodedata.category(character).startswith("P"))


def spaces_before(found: frozenset[str]) -> re.Pattern[str]:
    """A space and, as group 1, the mark behind it."""
    return re.compile(rf"\s([{re.escape(''.join(sorted(found)))}])") if found else NEVER


class Punctuation:
    """The rule for one vocabulary.

    Args:
        vocabulary: token strings, as NeMo lists them.
    """

    def __init__(self, vocabulary: Iterable[str]) -> None:
        self._spaces = spaces_before(marks(vocabulary))

    def __call__(self, text: str) -> str:
        """The text, with one space less in front of each mark."""
        return self._spaces.sub(r"\1", text)
