"""Two engines on the same utterances: the bootstrap, what it can show, and disagreement, held against jiwer."""

from collections import Counter
from dataclasses import replace

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtasr.bench.paired import SAMPLES, bootstrap_delta, detectable, paired_differences, resampled, word_disagreement
from trtasr.bench.score import score
from trtasr.errors import UsageError
from trtasr.results import Utterance, WerResult

WORDS = ["one", "two", "three", "four", "five"]
SPOKEN = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)
HEARD = st.lists(st.sampled_from(WORDS), min_size=0, max_size=6).map(" ".join)
ROWS = st.lists(st.tuples(SPOKEN, HEARD, HEARD, st.sampled_from("abc")), min_size=1, max_size=20)
GOOD, BAD = "one two three four", "one two three"


def result(rows, spaced=None) -> WerResult:
    """A result on (reference, transcript, evaluation set), normalized already."""
    references, hypotheses, _ = zip(*rows, strict=True)
    made = tuple(Utterance(f"{i}.wav", 1.0, r, h, r, h, name) for i, (r, h, name) in enumerate(rows))
    return WerResult(**vars(score(references, hypotheses, spaced)), utterances=made, normalizer="none")


def of(hypotheses: list[str], reference: str = GOOD, dataset: str = "") -> WerResult:
    return result([(reference, text, dataset) for text in hypotheses])


def pair(rows) -> tuple[WerResult, WerResult]:
    """FP32's result and INT8's of (reference, FP32's transcript, INT8's transcript, evaluation set)."""
    return result([(r, a, name) for r, a, _, name in rows]), result([(r, b, name) for r, _, b, name in rows])


@given(ROWS)
def test_every_figure_is_jiwers_on_all_utterances_together_and_on_each_set(rows) -> None:
    pooled, *parts = paired_differences(*pair(rows))
    names = list(dict.fromkeys(name for *_, name in rows))
    assert [part.dataset for part in parts] == (names if len(names) > 1 else [])
    for found in (pooled, *parts):
        spoken, fp32, int8, _ = zip(*[row for row in rows if found.dataset in ("", row[3])], strict=True)
        assert found.utterances == len(spoken)
        assert found.units == sum(len(text.split()) for text in spoken)
        assert found.reference == pytest.approx(100 * jiwer.wer(list(spoken), list(fp32)))
        assert found.rate == pytest.approx(100 * jiwer.wer(list(spoken), list(int8)))
        assert found.delta == pytest.approx(found.rate - found.reference)
        if not found.dataset:
            assert found.disagreement == word_disagreement(*pair(rows))
        if any(fp32):
            assert found.disagreement == pytest.approx(100 * jiwer.wer(list(fp32), list(int8)))


@given(ROWS)
def test_the_interval_holds_the_difference_and_no_set_shows_less_than_a_handful_of_words(rows) -> None:
    for found in paired_differences(*pair(rows)):
        low, high = found.interval
        assert low - 1e-9 <= found.delta <= high + 1e-9
        assert found.detectable >= 550 / found.units
        assert found.detectable >= 0.7 * (high - low) / 2


@given(ROWS)
def test_of_equal_transcripts_nothing_differs(rows) -> None:
    reference, _ = pair(rows)
    for found in paired_differences(reference, reference):
        assert (found.delta, found.interval, found.disagreement) == (0, (0, 0), 0)
        assert found.detectable == 550 / found.units


@given(ROWS)
def test_all_sets_together_are_one_set_of_all_utterances_but_for_the_interval(rows) -> None:
    several, one = (paired_differences(*pair(given))[0] for given in (rows, [(*row[:3], "all") for row in rows]))
    assert replace(several, interval=one.interval, detectable=one.detectable) == one


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30), st.integers(0, 5))
def test_samples_keep_the_sizes_of_the_sets(names, seed) -> None:
    own = np.array([[name == other for other in "abc"] for name in names], dtype=np.int64)
    drawn = resampled(own, names, seed)
    assert drawn.shape == (SAMPLES, 3)
    assert {tuple(row) for row in drawn.tolist()} == {tuple(Counter(names)[name] for name in "abc")}


def test_drawing_within_the_sets_leaves_their_mixture_out_of_the_interval() -> None:
    """Two sets, each of which loses alike everywhere: drawn within the sets, there is nothing left to chance."""
    rows = [("one two", "one two", "one two", "a")] * 10 + [("one two", "one two", "one", "b")] * 10
    assert paired_differences(*pair(rows))[0].interval == (25, 25)
    low, high = paired_differences(*pair([(*row[:3], "all") for row in rows]))[0].interval
    assert low < 20 < 30 < high


def test_the_interval_is_that_of_drawing_utterances_with_replacement_one_by_one() -> None:
    """The same by another way: indices instead of multinomial counts."""
    rng = np.random.default_rng(1)
    worse = rng.random(200) < 0.1
    reference, candidate = of([GOOD] * 200), of([BAD if bad else GOOD for bad in worse])
    picked = rng.integers(200, size=(20_000, 200))
    expected = np.percentile(25.0 * worse[picked].mean(axis=1), [2.5, 97.5])
    assert bootstrap_delta(reference, candidate) == pytest.approx(expected, abs=0.15)


def test_what_can_be_shown_is_2_8_standard_errors() -> None:
    """Of a binomial share p over n utterances of four words the standard error is known."""
    reference, candidate = of([GOOD] * 400), of([BAD] * 40 + [GOOD] * 360)
    (found,) = paired_differences(reference, candidate)
    assert found.detectable == pytest.approx(2.8 * 25 * np.sqrt(0.1 * 0.9 / 400), rel=0.08)
    assert detectable(np.array([0.0, 2.0]), 10_000) == pytest.approx(2.8 * np.sqrt(2))


def test_four_times_the_speech_shows_half_the_difference() -> None:
    small, large = (paired_differences(of([GOOD] * 10 * n), of(([BAD] + [GOOD] * 9) * n))[0] for n in (10, 40))
    assert large.detectable == pytest.approx(small.detectable / 2, rel=0.1)


def test_a_difference_of_that_size_is_shown_four_times_of_five() -> None:
    """Simulated: INT8 is worse by a word of four in 15 % of 150 utterances, better by one in 5 %: 2.8 SE apart."""
    rng = np.random.default_rng(0)
    shown, sizes = 0, []
    for _ in range(100):
        kinds = rng.choice(3, size=150, p=[0.80, 0.15, 0.05])
        reference = of([BAD if kind == 2 else GOOD for kind in kinds])
        (found,) = paired_differences(reference, of([BAD if kind == 1 else GOOD for kind in kinds]))
        shown += found.interval[0] > 0
        sizes.append(found.detectable)
    assert np.mean(sizes) == pytest.approx(2.5, abs=0.1)  # the true difference: 10 % of 25 points
    assert shown == pytest.approx(80, abs=8)


def test_a_handful_of_errors_is_shown_four_times_of_five() -> None:
    """Simulated: INT8 errs once in 5.5 of 400 utterances on average, FP32 never."""
    rng, reference = np.random.default_rng(0), of([GOOD] * 400)
    lows = []
    for _ in range(100):
        worse = rng.random(400) < 5.5 / 400
        lows.append(bootstrap_delta(reference, of([BAD if bad else GOOD for bad in worse]))[0])
        if worse.sum() != 4:  # of 1000 samples 18 +- 4 miss all four, and 25 decide
            assert (lows[-1] > 0) == (worse.sum() > 4)
    assert np.mean(np.array(lows) > 0) == pytest.approx(0.8, abs=0.08)


def test_the_bootstrap_is_antisymmetric_and_seeded() -> None:
    reference, candidate = of([GOOD] * 20), of([GOOD, GOOD, GOOD, BAD] * 5)
    low, high = bootstrap_delta(reference, candidate)
    assert low < candidate.wer - reference.wer < high
    assert bootstrap_delta(reference, candidate) == (low, high)
    assert bootstrap_delta(reference, candidate, seed=1) != (low, high)
    back_low, back_high = bootstrap_delta(candidate, reference)
    assert (back_low, back_high) == pytest.approx((-high, -low))


def test_the_bootstrap_is_exact_when_every_utterance_changes_alike() -> None:
    assert bootstrap_delta(of([GOOD] * 4), of([BAD] * 4)) == (25.0, 25.0)


def test_disagreement_counts_changes_that_wer_does_not_see() -> None:
    """One error replaces another: WER stands still, one word of three is another."""
    (found,) = paired_differences(of(["one two x"], "one two three"), of(["one two y"], "one two three"))
    assert (found.delta, found.disagreement) == (0, pytest.approx(100 / 3))


def test_without_spaces_between_words_characters_disagree() -> None:
    first, second = (result([("今天天气好", text, "")]) for text in ("今天天气坏", "今天 天气好"))
    (found,) = paired_differences(first, second)
    assert (found.units, found.reference, found.rate, found.disagreement) == (5, 20, 0, 20)


def test_transcripts_of_different_utterances_are_not_compared() -> None:
    with pytest.raises(UsageError, match="different utterances"):
        paired_differences(of([GOOD]), of([GOOD, GOOD]))
    with pytest.raises(UsageError, match="different utterances"):
        bootstrap_delta(of([GOOD]), of([GOOD], "one two three"))
