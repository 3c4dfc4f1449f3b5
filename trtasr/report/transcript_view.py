"""Transcripts as the report shows them: where those of a quantized engine differ from FP32's, aligned by jiwer."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import jiwer

from trtasr.report.table import REFERENCE
from trtasr.results import BenchResult, Utterance

WORST_UTTERANCES = 8


class Word(NamedTuple):
    """A run of words of an aligned transcript; mark is ``equal``, ``substitute``, ``insert`` or ``delete``."""

    text: str
    mark: str


class Mistake(NamedTuple):
    """One utterance with its aligned transcripts; `added` errors are those FP32 does not make."""

    audio: str
    duration: str
    errors: int
    added: int
    text: str
    int8: list[Word]
    fp32: list[Word]


class Mistakes(NamedTuple):
    """The utterances whose transcript one engine changed, what it lost most on first."""

    engine: str
    heading: str
    rows: list[Mistake]


def mistakes(results: Sequence[BenchResult], result: BenchResult) -> Mistakes | None:
    """The utterances whose transcript differs from that of FP32, those that lost most first.

    Transcripts are compared as they are scored, normalized. Without an FP32 row: the utterances with most errors.

    Returns:
        None for the FP32 and FP16 baselines and for an engine that was not scored.
    """
    reference = next((r.wer for r in results if r.target == REFERENCE and r.wer), None)
    found = result.wer
    if found is None or result.precision != "int8":
        return None
    before = {u.audio_filepath: u for u in reference.utterances} if reference else {}
    differing = [u for u in found.utterances if differs(u, before)]
    rows = [mistake(u, before.get(u.audio_filepath), found.spaced) for u in differing]
    rows.sort(key=lambda row: (row.added, row.errors), reverse=True)
    count = len(found.utterances)
    heading = f"{len(differing)} of {count} transcripts differ from FP32" if reference else f"{count} utterances"
    return Mistakes(result.engine, heading, rows[:WORST_UTTERANCES])


def differs(utterance: Utterance, before: Mapping[str, Utterance]) -> bool:
    """Whether a transcript is not that of FP32; without one, whether it has an error."""
    fp32 = before.get(utterance.audio_filepath)
    return utterance.hypothesis != (fp32.hypothesis if fp32 else utterance.reference)


def mistake(utterance: Utterance, fp32: Utterance | None, spaced: bool) -> Mistake:
    """An INT8 transcript beside FP32's, with the errors of both marked."""
    counts = alignment(utterance, spaced)
    earlier = alignment(fp32, spaced) if fp32 else None
    errors = errors_in(counts)
    return Mistake(
        audio=PurePath(utterance.audio_filepath).name,
        duration=f"{utterance.duration:.1f} s",
        errors=errors,
        added=errors - (errors_in(earlier) if earlier else errors),
        text=utterance.reference,
        int8=aligned_words(counts, " " if spaced else ""),
        fp32=aligned_words(earlier, " " if spaced else "") if earlier else [],
    )


def alignment(utterance: Utterance, spaced: bool) -> Any:
    """The alignment: of words, or of characters where there are no spaces between words."""
    if spaced:
        return jiwer.process_words(utterance.reference, utterance.hypothesis)
    return jiwer.process_characters(utterance.reference.replace(" ", ""), utterance.hypothesis.replace(" ", ""))


def errors_in(counts: Any) -> int:
    """Substitutions, deletions and insertions."""
    return int(counts.substitutions + counts.deletions + counts.insertions)


def aligned_words(counts: Any, between: str) -> list[Word]:
    """A transcript as runs of right, wrong, additional and missing words (characters), from jiwer's alignment."""
    words = []
    for chunk in counts.alignments[0]:
        missing = chunk.type == "delete"
        source = counts.references[0] if missing else counts.hypotheses[0]
        start, end = (chunk.ref_start_idx, chunk.ref_end_idx) if missing else (chunk.hyp_start_idx, chunk.hyp_end_idx)
        words.append(Word(between.join(source[start:end]), chunk.type))
    return words
