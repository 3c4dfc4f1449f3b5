"""Word error rate of an engine on a manifest, with guards against results that only look like results."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from itertools import islice
from time import perf_counter_ns
from typing import Protocol

import numpy as np
from tqdm import tqdm

from trtasr.bench.score import counts, score
from trtasr.errors import QualityError, UsageError
from trtasr.results import Prepared, Utterance, WerResult
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
DEAF_WER, DEAF_CER, DEAF_UNSPACED_CER = 95.0, 75.0, 90.0  # percent; see `require_recognition`
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
    done: dict[int, tuple[str, float, str, str]] = {}
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
                done[index] = item.audio_filepath, item.duration, item.text, transcript
            bar.update(len(group))
    warn_of_cuts(cut, len(done))
    chosen = resolve(normalizer, (text for _, _, text, _ in done.values()))
    rows = tuple(utterance(*done[index], NORMALIZERS[chosen]) for index in sorted(done))
    refuse_degenerate(rows)
    rates = score([row.reference for row in rows], [row.hypothesis for row in rows])
    return WerResult(**rates._asdict(), utterances=rows, normalizer=chosen, batch=batch, work_seconds=work_ns / 1e9)


def bootstrap_delta(
    reference: WerResult, candidate: WerResult, samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of ``candidate.rate - reference.rate`` by a paired bootstrap over utterances.

    Whole utterances are drawn with replacement, the same ones for both engines (Bisani and Ney, ICASSP 2004), and the
    2.5 and 97.5 percentiles of the difference are taken.

    Returns:
        Lower and upper bound in percentage points.

    Raises:
        UsageError: the two results are not about the same utterances.
    """
    keys = [[(u.audio_filepath, u.reference) for u in result.utterances] for result in (reference, candidate)]
    if keys[0] != keys[1]:
        raise UsageError("the two WER results cover different utterances", "evaluate both engines on one manifest")
    units, before = utterance_counts(reference)
    _, after = utterance_counts(candidate)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(units), np.full(len(units), 1 / len(units)), size=samples)
    deltas = 100.0 * (draws @ (after - before)) / np.maximum(draws @ units, 1)
    low, high = np.percentile(deltas, [2.5, 97.5])
    return float(low), float(high)


def utterance_counts(result: WerResult) -> IntArray:
    """Reference words (characters where CER is judged) and errors of each utterance [2, N]."""
    pairs = [counts(row.reference, row.hypothesis, result.spaced) for row in result.utterances]
    return np.array(pairs, dtype=np.int64).T


def require_recognition(result: WerResult) -> None:
    """Refuse a reference that recognizes nothing: INT8 would be held against noise, and could only pass.

    A rate as bad on fewer words, or with letters that are right, is a warning.

    Poor models stay far from these limits: with 40 % of the characters wrong, 15 to 20 % of the words are right.
    A toy of 200 words that hears LibriSpeech has a WER of 98 % and a CER of 69 %. Transcripts of other sentences in the
    same language, or of letters at random, have a CER of 79 to 106 %.

    Args:
        result: of the FP32 reference.

    Raises:
        QualityError: no word right in at least 50; WER of 95 % or more with a CER of 75 % or more on at least 10 words;
            without spaces between words a CER of 90 % or more on at least 10 characters.
    """
    if not recognizes_nothing(result):
        warn_of_little_recognized(result)
        return
    first = max(result.utterances, key=lambda row: len(row.reference))
    raise QualityError(
        f"the FP32 reference recognizes nothing: WER {result.wer:.2f} %, CER {result.cer:.2f} %, {result.hits} of "
        f"{result.words} words right, normalizer {result.normalizer}; {first.audio_filepath}: heard "
        f"{first.hypothesis[:SHOWN]!r} for {first.reference[:SHOWN]!r}",
        "look at, in this order: language and transcripts of the manifest (are they the model's?), sample rate of the "
        "audio, tokenizer and front-end settings of the checkpoint, evaluation.normalizer of the recipe",
    )


def recognizes_nothing(result: WerResult) -> bool:
    """Whether a result is as good as none; see `require_recognition`."""
    if not result.spaced:
        return result.characters >= FEW and result.cer >= DEAF_UNSPACED_CER
    unheard = result.words >= MANY and result.hits == 0
    return unheard or (result.words >= FEW and result.wer >= DEAF_WER and result.cer >= DEAF_CER)


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


def utterance(audio: str, duration: float, text: str, heard: str, normalize: Callable[[str], str]) -> Utterance:
    """One row: the transcript as given and normalized, beside its reference."""
    return Utterance(audio, duration, text, heard, normalize(text), normalize(heard))


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


def warn_of_little_recognized(result: WerResult) -> None:
    """Say that a comparison means nothing, where FP32 itself understands nothing."""
    if result.rate >= (DEAF_WER if result.spaced else DEAF_UNSPACED_CER):
        words = (
            "the FP32 reference recognizes next to nothing (WER %.2f %%, CER %.2f %%, %d of %d words right): the "
            "figures of INT8 say nothing about quantization; is the speech in the model's language?"
        )
        logger.warning(words, result.wer, result.cer, result.hits, result.words)


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
