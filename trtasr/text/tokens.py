"""Token ids -> text."""

from collections.abc import Iterable
from dataclasses import dataclass


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
