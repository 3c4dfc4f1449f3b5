import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtasr.bench.wer import Prepared, bootstrap_delta, evaluate, score
from trtasr.errors import QualityError, UsageError
from trtasr.values import Utterance, WerResult

WORDS = ["one", "two", "three", "four", "five"]
SENTENCE = st.lists(st.sampled_from(WORDS), min_size=0, max_size=6).map(" ".join)


def prepared(index: int, frames: int) -> Prepared:
    """Features that spell their own index: column 0 is the index, so that a fake engine can 'hear' it."""
    features = np.full((2, frames), index, dtype=np.float32)
    return Prepared(f"{index}.wav", frames / 100, f"{WORDS[index]} END", features, frames)


ITEMS = [prepared(0, 30), prepared(1, 10), prepared(2, 50), prepared(3, 20), prepared(4, 40)]


def echo(features, lengths):
    return features.transpose(0, 2, 1), lengths


def words(log_probs, lengths):
    return [f"{WORDS[int(item[0, 0])]} end" for item in log_probs]


def run_all(run=echo, decode=words, items=ITEMS, batch=1):
    return evaluate(run, decode, items, str.lower, "lower-v1", batch)


@given(st.lists(st.tuples(SENTENCE.filter(bool), SENTENCE), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_score_equals_jiwer(pairs):
    references, hypotheses = [list(side) for side in zip(*pairs, strict=True)]
    wer, count, errors = score(references, hypotheses)
    assert wer == 100.0 * jiwer.wer(references, hypotheses)
    assert count == sum(len(r.split()) for r in references)
    assert wer == pytest.approx(100.0 * errors / count)


def test_score_refuses_references_without_words():
    with pytest.raises(UsageError, match="no words"):
        score(["", " "], ["a", "b"])


def test_perfect_engine_is_scored_zero_with_both_sides_normalized():
    result = run_all()
    assert (result.wer, result.words, result.errors, result.normalizer) == (0.0, 10, 0, "lower-v1")
    assert result.utterances[2] == Utterance("2.wav", 0.5, "three end", "three end")
    assert result.work_seconds > 0


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8])
def test_results_are_in_manifest_order_for_every_batch_size(batch):
    shapes = []

    def spy(features, lengths):
        shapes.append((features.shape, lengths.tolist()))
        return echo(features, lengths)

    result = run_all(spy, batch=batch)
    assert [u.audio_filepath for u in result.utterances] == [f"{i}.wav" for i in range(5)]
    assert result.errors == 0
    assert result.batch == batch
    if batch == 2:
        assert shapes == [((2, 2, 20), [10, 20]), ((2, 2, 40), [30, 40]), ((1, 2, 50), [50])]


def test_short_items_are_padded_with_zeros():
    seen = {}

    def spy(features, lengths):
        seen["tail"] = features[0, :, 10:]
        return echo(features, lengths)

    run_all(spy, items=ITEMS[1:3], batch=2)
    assert seen["tail"].shape == (2, 40)
    assert not seen["tail"].any()


def test_a_generator_is_consumed_one_by_one():
    alive = []

    def stream():
        for item in ITEMS:
            alive.append(item.audio_filepath)
            yield item

    def spy(features, lengths):
        assert len(alive) == int(features[0, 0, 0]) + 1
        return echo(features, lengths)

    assert run_all(spy, items=stream()).words == 10


def test_nan_names_the_utterance():
    def broken(features, lengths):
        log_probs = features.transpose(0, 2, 1).copy()
        log_probs[features[:, 0, 0] == 3, -1, 0] = np.nan
        return log_probs, lengths

    with pytest.raises(QualityError, match=r"NaN for 3\.wav") as error:
        run_all(broken, batch=2)
    assert error.value.exit_code == 3


@pytest.mark.parametrize(("transcript", "message"), [("", "all 5 transcripts are empty"), ("uh", "the same: 'uh'")])
def test_empty_or_constant_transcripts_fail(transcript, message):
    with pytest.raises(QualityError, match=message):
        run_all(decode=lambda log_probs, lengths: [transcript] * len(log_probs))


def test_constant_transcripts_are_fine_when_the_references_are_constant():
    assert run_all(items=[ITEMS[0], ITEMS[0]]).wer == 0.0


def test_no_utterances():
    with pytest.raises(UsageError, match="nothing to evaluate"):
        run_all(items=[])


def result_of(hypotheses: list[str]) -> WerResult:
    references = ["one two three four"] * len(hypotheses)
    wer, count, errors = score(references, hypotheses)
    rows = tuple(Utterance(f"{i}.wav", 1.0, r, h) for i, (r, h) in enumerate(zip(references, hypotheses, strict=True)))
    return WerResult(wer, count, errors, rows, "none")


GOOD, BAD = "one two three four", "one two three"


def test_bootstrap_of_equal_results_is_zero():
    same = result_of([GOOD, BAD] * 10)
    assert bootstrap_delta(same, same) == (0.0, 0.0)


def test_bootstrap_brackets_the_measured_delta_and_is_antisymmetric_and_seeded():
    reference, candidate = result_of([GOOD] * 20), result_of([GOOD, GOOD, GOOD, BAD] * 5)
    low, high = bootstrap_delta(reference, candidate)
    assert low < candidate.wer - reference.wer < high
    assert bootstrap_delta(reference, candidate) == (low, high)
    back_low, back_high = bootstrap_delta(candidate, reference)
    assert (back_low, back_high) == pytest.approx((-high, -low))


def test_bootstrap_is_exact_when_every_utterance_changes_alike():
    assert bootstrap_delta(result_of([GOOD] * 4), result_of([BAD] * 4)) == (25.0, 25.0)


def test_bootstrap_refuses_different_utterances():
    with pytest.raises(UsageError, match="different utterances"):
        bootstrap_delta(result_of([GOOD]), result_of([GOOD, GOOD]))
