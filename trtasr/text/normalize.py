"""Text normalization before WER, named so that a figure says what it was computed with."""

import re

NORMALIZER = "basic-en-v1"
PUNCTUATION = re.compile(r"[^\w\s']|_")


def basic_en_v1(text: str) -> str:
    """Lower case, punctuation (all but the apostrophe) to spaces, spaces collapsed."""
    plain = text.lower().replace("\u2019", "'")
    return " ".join(PUNCTUATION.sub(" ", plain).split())
