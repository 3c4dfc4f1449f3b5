"""Two engines on the same utterances: the difference in WER with its interval, and how far the transcripts differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trtasr.bench.score import counts
from trtasr.errors import UsageError
from trtasr.results import PairedDifference, WerResult
from trtasr.values import FloatArray, IntArray

SAMPLES, AT_ONCE = 1000, 100  # bootstrap samples, and how many are drawn at once
LEVEL, POWER = 1.96, 0.84  # quantiles of the normal distribution: 5 % on both sides, and 80 %
FEWEST_ERRORS = 5.5  # additional ones; see `detectable`


@dataclass(frozen=True)
class PairedCounts:
    """What two engines made of the same utterances, utterance by utterance.

    Attributes:
        datasets: of each utterance, the evaluation set.
        counts: [N, 5]: words (characters) of the reference transcript, errors of the first engine, errors of the
            second; words of the first engine's transcript, errors of the second's against it.
    """

    datasets: tuple[str, ...]
    counts: IntArray

    def of(self, dataset: str) -> "PairedCounts":
        """The utterances of one evaluation set."""
        places = [place for place, name in enumerate(self.datasets) if name == dataset]
        return PairedCounts((dataset,) * len(places), self.counts[places])


def paired_differences(reference: WerResult, candidate: WerResult) -> tuple[PairedDifference, ...]:
    """How far an engine is from another: over all utterances, then over each evaluation set where there are several.

    Raises:
        UsageError: the two results are not about the same utterances.
    """
    counted = paired_counts(reference, candidate)
    names = list(dict.fromkeys(counted.datasets))
    parts = [(name, counted.of(name)) for name in names] if len(names) > 1 else []
    return tuple(difference(name, part) for name, part in [("", counted), *parts])


def word_disagreement(reference: WerResult, candidate: WerResult) -> float:
    """Errors of an engine's transcripts where another's are the references, in percent of the latter's words.

    Characters where the languages have no spaces between words; over all evaluation sets together.

    Raises:
        UsageError: the two results are not about the same utterances.
    """
    return disagreement(paired_counts(reference, candidate))


def bootstrap_delta(reference: WerResult, candidate: WerResult, seed: int = 0) -> tuple[float, float]:
    """95 % interval of ``candidate.rate - reference.rate``, as `interval` has it.

    Returns:
        Lower and upper bound in percentage points.

    Raises:
        UsageError: the two results are not about the same utterances.
    """
    return interval(bootstrap(paired_counts(reference, candidate), seed))


def paired_counts(reference: WerResult, candidate: WerResult) -> PairedCounts:
    """The counts of two engines, utterance by utterance.

    Raises:
        UsageError: the two results are not about the same utterances.
    """
    keys = [[(u.audio_filepath, u.reference) for u in result.utterances] for result in (reference, candidate)]
    if keys[0] != keys[1]:
        raise UsageError("the two WER results cover different utterances", "evaluate both engines on one manifest")
    rows, spaced = [], reference.spaced
    for first, second in zip(reference.utterances, candidate.utterances, strict=True):
        units, before = counts(first.reference, first.hypothesis, spaced)
        _, after = counts(first.reference, second.hypothesis, spaced)
        rows.append([units, before, after, *counts(first.hypothesis, second.hypothesis, spaced)])
    return PairedCounts(tuple(u.dataset for u in reference.utterances), np.array(rows, dtype=np.int64))


def difference(dataset: str, counted: PairedCounts) -> PairedDifference:
    """All figures of one evaluation set, or of all together."""
    units, before, after, *_ = map(int, counted.counts.sum(axis=0))
    deltas = bootstrap(counted)
    return PairedDifference(
        dataset=dataset,
        utterances=len(counted.counts),
        units=units,
        reference=100.0 * before / max(units, 1),
        rate=100.0 * after / max(units, 1),
        delta=100.0 * (after - before) / max(units, 1),
        interval=interval(deltas),
        detectable=detectable(deltas, units),
        disagreement=disagreement(counted),
    )


def disagreement(counted: PairedCounts) -> float:
    """Errors of the second engine against the first one's transcripts, in percent of their words."""
    said, changed = map(int, counted.counts[:, 3:].sum(axis=0))
    return 100.0 * changed / max(said, 1)


def interval(deltas: FloatArray) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of a difference's bootstrap samples."""
    low, high = np.percentile(deltas, [2.5, 97.5])
    return float(low), float(high)


def detectable(deltas: FloatArray, units: int) -> float:
    """Smallest true difference that the interval tells from 0 with a probability of 80 %: (1.96 + 0.84) SE.

    Known as the minimum detectable effect (Bloom, Evaluation Review 19(5), 1995; for language processing Card et al.,
    EMNLP 2020). SE is the standard deviation of the bootstrap samples, so it is that of these two engines: engines
    whose transcripts differ in more places have a larger one.

    The normal distribution fits no handful of errors. A sample misses n changed utterances with probability exp(-n),
    so that an interval leaves 0 out from 4 on (1.8 %, of 3 it is 5.0 %), and 4 or more of a Poisson distribution are
    seen with a probability of 80 % where 5.5 are expected: fewer additional errors over all words cannot be shown.

    Args:
        deltas: bootstrap samples of the difference in points.
        units: words (characters) of the reference transcripts.
    """
    return max((LEVEL + POWER) * float(np.std(deltas, ddof=1)), 100.0 * FEWEST_ERRORS / max(units, 1))


def bootstrap(counted: PairedCounts, seed: int = 0) -> FloatArray:
    """Samples [1000] of the second engine's rate minus the first's in points, by a paired bootstrap over utterances.

    Whole utterances are drawn with replacement, the same ones for both engines (Bisani and Ney, ICASSP 2004); of each
    evaluation set as many as it has (Davison and Hinkley, Bootstrap Methods and their Application, section 3.2), so
    that the mixture of the sets is no source of variance.
    """
    units, before, after = resampled(counted.counts[:, :3], counted.datasets, seed).T
    deltas: FloatArray = 100.0 * (after - before) / np.maximum(units, 1)
    return deltas


def resampled(counts: IntArray, datasets: Sequence[str], seed: int = 0) -> IntArray:
    """Sums [1000, C] of the rows of ``counts`` [N, C], drawn with replacement within each evaluation set."""
    rng = np.random.default_rng(seed)
    totals = np.zeros((SAMPLES, counts.shape[1]), dtype=np.int64)
    for dataset in dict.fromkeys(datasets):
        own = counts[[name == dataset for name in datasets]]
        for start in range(0, SAMPLES, AT_ONCE):
            draws = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=AT_ONCE)
            totals[start : start + AT_ONCE] += draws @ own
    return totals
