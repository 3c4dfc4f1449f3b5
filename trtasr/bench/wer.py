"""Word error rate of an engine on a manifest, with guards against results that only look like results."""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from time import perf_counter_ns

import jiwer
import numpy as np
from tqdm import tqdm

from trtasr.errors import QualityError, UsageError
from trtasr.values import FloatArray, IntArray, Utterance, WerResult

Run = Callable[[FloatArray, IntArray], tuple[FloatArray, IntArray]]
Decode = Callable[[FloatArray, IntArray], list[str]]
Indexed = tuple[int, "Prepared"]


@dataclass(frozen=True)
class Prepared:
    """One manifest line with its features.

    Attributes:
        audio_filepath: as in the manifest.
        duration: seconds.
        text: reference transcript, not yet normalized, not empty.
        features: float32 [mel, T].
        frames: valid frames, at most T.
    """

    audio_filepath: str
    duration: float
    text: str
    features: FloatArray
    frames: int


def score(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[float, int, int]:
    """Word error rate as jiwer counts it.

    Returns:
        WER in percent, reference words, errors (substitutions + deletions + insertions).

    Raises:
        UsageError: the references hold no word.
    """
    counts = jiwer.process_words(list(references), list(hypotheses))
    words = counts.hits + counts.substitutions + counts.deletions
    if words == 0:
        raise UsageError(
            "the reference transcripts hold no words after normalization", "use a manifest with transcripts"
        )
    return 100.0 * counts.wer, words, counts.substitutions + counts.deletions + counts.insertions


def evaluate(
    run: Run,
    decode: Decode,
    utterances: Iterable[Prepared],
    normalize: Callable[[str], str],
    normalizer: str,
    batch: int = 1,
) -> WerResult:
    """Transcribe every utterance and score the transcripts.

    With batch 1 the utterances are consumed one by one, so a generator keeps memory flat; a larger batch reads them
    all and groups them by duration. Features are padded with zeros to the longest of their batch.

    Args:
        run: features [B, mel, T] float32 and valid frames [B] int64 -> log-probabilities [B, T', V] and valid
            output frames [B].
        decode: log-probabilities and valid output frames -> one transcript per item.
        utterances: manifest lines with features.
        normalize: text normalizer, applied to references and transcripts alike.
        normalizer: its name and version, kept in the result.
        batch: utterances per run.

    Returns:
        The result in manifest order; its texts are normalized, so jiwer on them gives the same figure.

    Raises:
        QualityError: NaN in the log-probabilities, or every transcript empty or the same.
        UsageError: there is no utterance or no reference word.
    """
    done: dict[int, Utterance] = {}
    work_ns = 0
    total = len(utterances) if isinstance(utterances, Sized) else None
    with tqdm(total=total, desc="WER", unit="utt", leave=False, disable=None) as bar:
        for group in _batches(utterances, batch):
            features, frames = _stack([item for _, item in group])
            start = perf_counter_ns()
            log_probs, output_frames = run(features, frames)
            work_ns += perf_counter_ns() - start
            _refuse_nan(log_probs, group)
            for (index, item), transcript in zip(group, decode(log_probs, output_frames), strict=True):
                done[index] = _utterance(item, transcript, normalize)
            bar.update(len(group))
    rows = tuple(done[index] for index in sorted(done))
    _refuse_degenerate(rows)
    wer, words, errors = score([row.text for row in rows], [row.pred_text for row in rows])
    return WerResult(wer, words, errors, rows, normalizer, batch, work_ns / 1e9)


def bootstrap_delta(
    reference: WerResult, candidate: WerResult, samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of ``candidate.wer - reference.wer`` by a paired bootstrap over utterances.

    Whole utterances are drawn with replacement, the same ones for both engines (Bisani and Ney, ICASSP 2004), and the
    2.5 and 97.5 percentiles of the difference are taken.

    Returns:
        Lower and upper bound in percentage points.

    Raises:
        UsageError: the two results are not about the same utterances.
    """
    keys = [[(u.audio_filepath, u.text) for u in result.utterances] for result in (reference, candidate)]
    if keys[0] != keys[1]:
        raise UsageError("the two WER results cover different utterances", "evaluate both engines on one manifest")
    words, before = _counts(reference)
    _, after = _counts(candidate)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(words), np.full(len(words), 1 / len(words)), size=samples)
    deltas = 100.0 * (draws @ (after - before)) / np.maximum(draws @ words, 1)
    low, high = np.percentile(deltas, [2.5, 97.5])
    return float(low), float(high)


def _counts(result: WerResult) -> tuple[IntArray, IntArray]:
    """Reference words and errors per utterance."""
    words, errors = [], []
    for row in result.utterances:
        counts = jiwer.process_words(row.text, row.pred_text)
        words.append(counts.hits + counts.substitutions + counts.deletions)
        errors.append(counts.substitutions + counts.deletions + counts.insertions)
    return np.array(words, dtype=np.int64), np.array(errors, dtype=np.int64)


def _batches(utterances: Iterable[Prepared], batch: int) -> Iterator[list[Indexed]]:
    numbered: Iterable[Indexed] = enumerate(utterances)
    if batch > 1:
        numbered = sorted(numbered, key=lambda pair: pair[1].duration)
    stream = iter(numbered)
    while group := list(islice(stream, batch)):
        yield group


def _stack(items: Sequence[Prepared]) -> tuple[FloatArray, IntArray]:
    longest = max(item.features.shape[1] for item in items)
    features = np.zeros((len(items), items[0].features.shape[0], longest), dtype=np.float32)
    for row, item in zip(features, items, strict=True):
        row[:, : item.features.shape[1]] = item.features
    return features, np.array([item.frames for item in items], dtype=np.int64)


def _utterance(item: Prepared, transcript: str, normalize: Callable[[str], str]) -> Utterance:
    return Utterance(item.audio_filepath, item.duration, normalize(item.text), normalize(transcript))


def _refuse_nan(log_probs: FloatArray, group: Sequence[Indexed]) -> None:
    bad = [item.audio_filepath for (_, item), rows in zip(group, log_probs, strict=True) if np.isnan(rows).any()]
    if bad:
        raise QualityError(
            f"the engine returned NaN for {bad[0]}",
            "compare the graph with FP32 (`trtasr compare`) to find the layer, and exclude it from INT8",
        )


def _refuse_degenerate(rows: Sequence[Utterance]) -> None:
    if not rows:
        raise UsageError("there is nothing to evaluate: the manifest is empty", "add utterances to the manifest")
    transcripts = {row.pred_text for row in rows}
    if transcripts == {""}:
        problem = f"all {len(rows)} transcripts are empty"
    elif len(transcripts) == 1 and len({row.text for row in rows}) > 1:
        problem = f"all {len(rows)} transcripts are the same: {next(iter(transcripts))[:60]!r}"
    else:
        return
    raise QualityError(problem, "check the scales and the front-end: the engine does not hear the audio")
