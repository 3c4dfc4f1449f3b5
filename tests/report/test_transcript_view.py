"""Which utterances are shown, and in which order."""

from trtasr.report.transcript_view import mistakes
from trtasr.values import BenchResult, Utterance, WerResult

SPOKEN = "open the red door now"


def scored(engine, target, heard):
    rows = tuple(Utterance(f"{name}.wav", 2.0, SPOKEN, text) for name, text in heard.items())
    return BenchResult(engine, target, 1, (), WerResult(1.0, 5 * len(rows), 1, rows, "basic-en-v1"))


def test_what_int8_lost_most_comes_first_and_what_is_right_not_at_all():
    fp32 = scored("fp32 (reference)", "fp32", {"a": SPOKEN, "b": "open the", "c": SPOKEN, "d": SPOKEN})
    int8 = scored("int8 cpu", "cpu", {"a": "open the red door", "b": "open", "c": "red", "d": SPOKEN})
    found = mistakes([fp32, int8], int8)
    assert [(row.audio, row.added, row.errors) for row in found.rows] == [
        ("c.wav", 4, 4), ("b.wav", 1, 4), ("a.wav", 1, 1)]  # fmt: skip
    assert found.heading == "3 of 4 transcripts differ from FP32"


def test_the_reference_has_no_mistakes_of_its_own():
    fp32 = scored("fp32 (reference)", "fp32", {"a": "open"})
    assert mistakes([fp32], fp32) is None
