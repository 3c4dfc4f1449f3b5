"""Word error rate of an engine on a manifest, with guards against results that only look like results."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from itertools import islice
from time import perf_counter_ns
from typing import Protocol

import numpy as np
from tqdm import tqdm

from trtasr.bench.score import score
from trtasr.errors import QualityError, UsageError
from trtasr.results import Prepared, Score, Utterance, WerResult
from trtasr.text.normalize import NORMALIZERS, resolve
from trtasr.values import Array, FloatArray, IntArray

logger = logging.getLogger(__name__)


class Hears(Protocol):
    """What is scored: a recognizer.

    Attributes:
        cut: of the last batch, which transcripts lack their end.
    """

    cut: tuple[bool, ...]

    def run(self, features: FloatArray, lengths: IntArray) -> tuple[Array, IntArray]:
        """Features [B, rows, T] and valid frames [B] -> outputs [B, ...], and how much of each is valid [B]."""

    def decode(self, found: Array, counts: IntArray) -> list[str]:
        """One transcript per item."""


Indexed = tuple[int, "Prepared"]

FEW, MANY = 10, 50  # words, or characters: below these a result says too little to condemn a model
MOST = 60.0  # percent; see `require_recognition`
DEAF_WER, DEAF_CER, DEAF_UNSPACED_CER = 95.0, 75.0, 90.0  # percent, on few words
SHOWN = 60  # characters of an example


def measure_wer(
    recognizer: Hears,
    utterances: Iterable[Prepared],
    normalizer: str,
    batch: int = 1,
) -> WerResult:
    """Transcribe every utterance and score the transcripts.

    With batch 1 the utterances are consumed one by one, so a generator keeps memory flat; a larger batch groups them by
    duration, a sequence in two passes, anything else held whole. Features are padded with zeros to the longest of
    their batch.

    Args:
        recognizer: what is scored; the time of its `run` is what is counted as work.
        utterances: manifest lines with features.
        normalizer: applied to references and transcripts alike; ``auto`` chooses by the references.
        batch: utterances per run.

    Returns:
        The result in manifest order; jiwer on its `reference` and `hypothesis` gives the same figures.

    Raises:
        QualityError: NaN in the log-probabilities, or every transcript empty or the same.
        UsageError: there is no utterance or no reference word.
    """
    done: dict[int, Utterance] = {}
    cut: list[str] = []
    work_ns = 0
    total = len(utterances) if isinstance(utterances, Sized) else None
    with tqdm(total=total, desc="WER", unit="utt", leave=False, disable=None) as bar:
        for group in batches(utterances, batch):
            features, frames = stacked([item for _, item in group])
            start = perf_counter_ns()
            found, counted = recognizer.run(features, frames)
            work_ns += perf_counter_ns() - start
            refuse_nan(found, group)
            stopped = recognizer.cut or (False,) * len(group)
            cut += [item.audio_filepath for (_, item), short in zip(group, stopped, strict=True) if short]
            for (index, item), transcript in zip(group, recognizer.decode(found, counted), strict=True):
                done[index] = heard(item, transcript)
            bar.update(len(group))
    warn_of_cuts(cut, len(done))
    chosen = resolve(normalizer, (row.text for row in done.values()))
    rows = tuple(normalized(done[index], NORMALIZERS[chosen]) for index in sorted(done))
    refuse_degenerate(rows)
    rates = scored(rows)
    return WerResult(**vars(rates), utterances=rows, normalizer=chosen, batch=batch, work_seconds=work_ns / 1e9)


def scored(rows: Sequence[Utterance], by_words: bool | None = None) -> Score:
    """Rates of normalized transcripts.

    Raises:
        UsageError: the references hold no word; names the evaluation set.
    """
    try:
        return score([row.reference for row in rows], [row.hypothesis for row in rows], by_words)
    except UsageError as error:
        names = ", ".join(dict.fromkeys(row.dataset for row in rows if row.dataset))
        raise UsageError(f"{names}: {error.problem}" if names else error.problem, error.repair) from error


def by_dataset(result: WerResult) -> dict[str, WerResult]:
    """Name of an evaluation set -> the result on it, judged by words or by characters as all sets together are.

    Raises:
        UsageError: the references of a set hold no word.
    """
    parts = {}
    for name in dict.fromkeys(row.dataset for row in result.utterances):
        rows = tuple(row for row in result.utterances if row.dataset == name)
        parts[name] = replace(result, **vars(scored(rows, result.spaced)), utterances=rows)
    return parts


def require_recognition(result: WerResult) -> None:
    """Refuse a reference that recognizes too little, on any evaluation set: INT8 would be held against noise.

    Where most words are wrong, a difference of rates says nothing about quantization: errors replace errors. Models in
    their own language and domain stay far below 60 %; transcripts in another language, of other sentences, or read
    through a wrong tokenizer have 95 % and more. On few words, where chance could do it, a rate must be such, and most
    letters wrong, to be refused; else it is a warning.

    Args:
        result: of the FP32 reference.

    Raises:
        QualityError: WER (CER without spaces between words) above 60 % on at least 50 words (characters); on at least
            10 words a WER of 95 % with a CER of 75 %, on 10 characters a CER of 90 %.
        UsageError: the references of a set hold no word.
    """
    parts = by_dataset(result)
    for name, part in ((parts if len(parts) > 1 else {}) | {"": result}).items():
        if recognizes_too_little(part):
            refuse_reference(part, name)
        warn_of_little_recognized(part, name)


def refuse_reference(result: WerResult, dataset: str) -> None:
    """Refuse a run, with what may be the cause.

    Raises:
        QualityError: always.
    """
    first = max(result.utterances, key=lambda row: len(row.reference))
    raise QualityError(
        f"the FP32 reference recognizes too little{f' of {dataset}' if dataset else ''} to hold INT8 against: "
        f"WER {result.wer:.2f} %, CER {result.cer:.2f} %, {result.hits} of {result.words} words right, normalizer "
        f"{result.normalizer}; {first.audio_filepath}: heard {first.hypothesis[:SHOWN]!r} for "
        f"{first.reference[:SHOWN]!r}",
        "look at, in this order: language and transcripts of the manifest (are they the model's? are numbers written "
        "as it writes them?), sample rate of the audio, tokenizer and front-end settings of the checkpoint, "
        "evaluation.normalizer of the recipe; speech that is too hard for the model is no evaluation set for it",
    )


def recognizes_too_little(result: WerResult) -> bool:
    """Whether differences to a result would mean nothing; see `require_recognition`."""
    if result.units >= MANY:
        return result.rate > MOST
    if not result.spaced:
        return result.units >= FEW and result.cer >= DEAF_UNSPACED_CER
    return result.units >= FEW and result.wer >= DEAF_WER and result.cer >= DEAF_CER


def batches(utterances: Iterable[Prepared], batch: int) -> Iterator[list[Indexed]]:
    """Utterances in groups, with their places; of a sequence no more than a group is held at once."""
    stream: Iterator[Indexed] = iter(enumerate(utterances))
    if batch > 1:
        items = utterances if isinstance(utterances, Sequence) else list(utterances)
        lengths = [item.duration for item in items]
        places = sorted(range(len(lengths)), key=lengths.__getitem__)
        stream = ((place, items[place]) for place in places)
    while group := list(islice(stream, batch)):
        yield group


def stacked(items: Sequence[Prepared]) -> tuple[FloatArray, IntArray]:
    """Features float32 [B, mel, T], padded with zeros to the longest, and frames int64 [B]."""
    longest = max(item.features.shape[1] for item in items)
    features = np.zeros((len(items), items[0].features.shape[0], longest), dtype=np.float32)
    for row, item in zip(features, items, strict=True):
        row[:, : item.features.shape[1]] = item.features
    return features, np.array([item.frames for item in items], dtype=np.int64)


def heard(item: Prepared, transcript: str) -> Utterance:
    """One row: the transcript as given, beside its reference."""
    return Utterance(item.audio_filepath, item.duration, item.text, transcript, "", "", item.dataset)


def normalized(row: Utterance, normalize: Callable[[str], str]) -> Utterance:
    """The row with both sides as they are scored."""
    return replace(row, reference=normalize(row.text), hypothesis=normalize(row.pred_text))


def refuse_nan(log_probs: FloatArray, group: Sequence[Indexed]) -> None:
    """Refuse scores that are no numbers.

    Raises:
        QualityError: naming the first file.
    """
    bad = [item.audio_filepath for (_, item), rows in zip(group, log_probs, strict=True) if np.isnan(rows).any()]
    if bad:
        raise QualityError(
            f"the engine returned NaN for {bad[0]}",
            "compare the graph with FP32 (`trtasr compare`) to find the layer, and exclude it from INT8",
        )


def warn_of_little_recognized(result: WerResult, dataset: str) -> None:
    """Say that a comparison means little, where FP32 itself understands little."""
    if result.rate > MOST:
        words = (
            "the FP32 reference recognizes little%s (WER %.2f %%, CER %.2f %%, %d of %d words right): the figures of "
            "INT8 say nothing about quantization; is the speech in the model's language?"
        )
        where = f" of {dataset}" if dataset else ""
        logger.warning(words, where, result.wer, result.cer, result.hits, result.words)


def warn_of_cuts(files: Sequence[str], total: int) -> None:
    """Say how many transcripts the decoder had no tokens left for."""
    if files:
        words = "%d of %d transcripts lack their end: the decoder is stopped by its longest length; the first is of %s"
        logger.warning(words, len(files), total, files[0])


def refuse_degenerate(rows: Sequence[Utterance]) -> None:
    """Refuse transcripts that no working engine gives.

    Raises:
        UsageError: there are none. QualityError: all are empty, or all are the same.
    """
    if not rows:
        raise UsageError("there is nothing to evaluate: the manifest is empty", "add utterances to the manifest")
    transcripts = {row.hypothesis for row in rows}
    if transcripts == {""}:
        problem = f"all {len(rows)} transcripts are empty"
    elif len(transcripts) == 1 and len({row.reference for row in rows}) > 1:
        problem = f"all {len(rows)} transcripts are the same: {next(iter(transcripts))[:60]!r}"
    else:
        return
    raise QualityError(problem, "check the scales and the front-end: the engine does not hear the audio")
