import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtasr.bench.score import counts, score
from trtasr.errors import UsageError

WORDS = ["one", "two", "three", "four", "five"]
SENTENCE = st.lists(st.sampled_from(WORDS), min_size=0, max_size=6).map(" ".join)


@given(st.lists(st.tuples(SENTENCE.filter(bool), SENTENCE), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_score_equals_jiwer(pairs):
    references, hypotheses = [list(side) for side in zip(*pairs, strict=True)]
    found = score(references, hypotheses)
    assert found.wer == 100.0 * jiwer.wer(references, hypotheses)
    assert found.cer == 100.0 * jiwer.cer(references, hypotheses)
    assert found.words == sum(len(r.split()) for r in references)
    assert found.characters == sum(map(len, references))
    assert found.wer == pytest.approx(100.0 * found.errors / found.words)
    assert found.cer == pytest.approx(100.0 * found.character_errors / found.characters)
    assert [sum(c) for c in zip(*(counts(r, h, True) for r, h in pairs), strict=True)] == [found.words, found.errors]


@given(st.lists(st.tuples(st.text("今天气", min_size=1), st.text("今天气 ")), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_without_spaces_between_words_spaces_are_not_counted(pairs):
    references, hypotheses = [list(side) for side in zip(*pairs, strict=True)]
    found = score(references, hypotheses)
    assert not found.spaced
    assert found.cer == 100.0 * jiwer.cer(references, [text.replace(" ", "") for text in hypotheses])
    assert sum(counts(r, h, False)[1] for r, h in pairs) == found.character_errors


def test_score_refuses_references_without_words():
    with pytest.raises(UsageError, match="no words"):
        score(["", " "], ["a", "b"])
