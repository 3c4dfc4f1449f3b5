"""Inputs of utterances."""

from collections.abc import Iterable

from trtasr.results import Prepared
from trtasr.values import FloatArray, IntArray


def feeds(items: Iterable[Prepared]) -> list[tuple[FloatArray, IntArray]]:
    """Network inputs of each utterance alone: features [1, mel, T] and lengths [1]; empty utterances are left out."""
    return [item.feed for item in items if item.frames > 0]
