"""Transcripts as the report shows them: where a quantized engine lost words against FP32, aligned by jiwer."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import jiwer

from trtasr.report.speed_view import BASELINES
from trtasr.report.table import REFERENCE
from trtasr.values import BenchResult, Utterance

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
    """The utterances one engine lost most on."""

    engine: str
    heading: str
    rows: list[Mistake]


def mistakes(results: Sequence[BenchResult], result: BenchResult) -> Mistakes | None:
    """The utterances a quantized engine lost most on against FP32, then those with most errors.

    Returns:
        None for the FP32 and FP16 baselines and for an engine that was not scored.
    """
    reference = next((r.wer for r in results if r.target == REFERENCE and r.wer), None)
    if result.wer is None or result.target in BASELINES:
        return None
    before = {u.audio_filepath: u for u in reference.utterances} if reference else {}
    rows = [_mistake(u, before.get(u.audio_filepath)) for u in result.wer.utterances]
    wrong = sorted((row for row in rows if row.errors), key=lambda row: (row.added, row.errors), reverse=True)
    changed = sum(
        u.pred_text != before[u.audio_filepath].pred_text for u in result.wer.utterances if u.audio_filepath in before
    )
    count = len(result.wer.utterances)
    heading = f"{changed} of {count} transcripts differ from FP32" if reference else f"{count} utterances"
    return Mistakes(result.engine, heading, wrong[:WORST_UTTERANCES])


def _mistake(utterance: Utterance, fp32: Utterance | None) -> Mistake:
    counts = jiwer.process_words(utterance.text, utterance.pred_text)
    earlier = jiwer.process_words(fp32.text, fp32.pred_text) if fp32 else None
    errors = _errors(counts)
    return Mistake(
        audio=PurePath(utterance.audio_filepath).name,
        duration=f"{utterance.duration:.1f} s",
        errors=errors,
        added=errors - (_errors(earlier) if earlier else errors),
        text=utterance.text,
        int8=_aligned(counts),
        fp32=_aligned(earlier) if earlier else [],
    )


def _errors(counts: Any) -> int:
    return int(counts.substitutions + counts.deletions + counts.insertions)


def _aligned(counts: Any) -> list[Word]:
    """A transcript as runs of right, wrong, additional and missing words, from jiwer's alignment."""
    words = []
    for chunk in counts.alignments[0]:
        missing = chunk.type == "delete"
        source = counts.references[0] if missing else counts.hypotheses[0]
        start, end = (chunk.ref_start_idx, chunk.ref_end_idx) if missing else (chunk.hyp_start_idx, chunk.hyp_end_idx)
        words.append(Word(" ".join(source[start:end]), chunk.type))
    return words
