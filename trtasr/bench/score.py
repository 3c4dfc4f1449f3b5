"""Word and character error rates of normalized texts, counted by jiwer."""

from collections.abc import Sequence

import jiwer

from trtasr.errors import UsageError
from trtasr.results import Score
from trtasr.text.normalize import spaced


def score(references: Sequence[str], hypotheses: Sequence[str], by_words: bool | None = None) -> Score:
    """Word and character error rate as jiwer counts them.

    Characters are code points. The spaces between words count, as in ``jiwer.cer``; in a language without such spaces
    those that stand somewhere (in place of punctuation, around foreign words) do not.

    Args:
        references: normalized.
        hypotheses: likewise, one for each reference.
        by_words: whether there are spaces between words; None: the references tell.

    Raises:
        UsageError: the references hold no word.
    """
    words = jiwer.process_words(list(references), list(hypotheses))
    total = words.hits + words.substitutions + words.deletions
    if total == 0:
        raise UsageError(
            "the reference transcripts hold no words after normalization", "use a manifest with transcripts"
        )
    with_spaces = spaced(references) if by_words is None else by_words
    characters = process_characters(references, hypotheses, with_spaces)
    return Score(
        wer=100.0 * words.wer,
        words=total,
        errors=errors_of(words),
        hits=words.hits,
        cer=100.0 * characters.cer,
        characters=characters.hits + characters.substitutions + characters.deletions,
        character_errors=errors_of(characters),
        spaced=with_spaces,
    )


def process_characters(references: Sequence[str], hypotheses: Sequence[str], spaces: bool) -> jiwer.CharacterOutput:
    """Alignment by characters, with or without the spaces."""
    first, second = ([text if spaces else text.replace(" ", "") for text in side] for side in (references, hypotheses))
    return jiwer.process_characters(first, second)


def errors_of(counts: jiwer.WordOutput | jiwer.CharacterOutput) -> int:
    """Substitutions + deletions + insertions."""
    return int(counts.substitutions + counts.deletions + counts.insertions)


def counts(reference: str, hypothesis: str, spaces: bool) -> tuple[int, int]:
    """Reference units and errors of one utterance: words where there are spaces between words, else characters."""
    if spaces:
        found: jiwer.WordOutput | jiwer.CharacterOutput = jiwer.process_words(reference, hypothesis)
    else:
        found = process_characters([reference], [hypothesis], spaces)
    return found.hits + found.substitutions + found.deletions, errors_of(found)
