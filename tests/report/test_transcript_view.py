"""Which utterances are shown, and in which order."""

from report_sample import scored as result_of

from trtasr.report.transcript_view import mistakes
from trtasr.results import BenchResult, Utterance

SPOKEN = "open the red door now"


def scored(engine, target, heard, spoken=SPOKEN, spaced=True):
    rows = tuple(Utterance(f"{name}.wav", 2.0, spoken, text, spoken, text) for name, text in heard.items())
    found, precision = result_of(1.0, rows, spaced=spaced), engine.partition(" ")[0]
    return BenchResult(engine, target, 1, (), found, precision=precision)


def test_what_int8_lost_most_comes_first_and_what_is_right_not_at_all():
    fp32 = scored("fp32 (reference)", "fp32", {"a": SPOKEN, "b": "open the", "c": SPOKEN, "d": SPOKEN})
    int8 = scored("int8 cpu", "cpu", {"a": "open the red door", "b": "open", "c": "red", "d": SPOKEN})
    found = mistakes([fp32, int8], int8)
    assert [(row.audio, row.added, row.errors) for row in found.rows] == [
        ("c.wav", 4, 4),
        ("b.wav", 1, 4),
        ("a.wav", 1, 1),
    ]
    assert found.heading.startswith("3 of 4 ")


def test_only_transcripts_that_differ_from_fp32_are_listed_however_wrong_both_are():
    fp32 = scored("fp32 (reference)", "fp32", {"a": "shut it", "b": "open the", "c": SPOKEN})
    int8 = scored("int8 cpu", "cpu", {"a": "shut it", "b": SPOKEN, "c": SPOKEN})
    found = mistakes([fp32, int8], int8)
    assert found.heading.startswith("1 of 3 ")
    assert [(row.audio, row.added, row.errors) for row in found.rows] == [("b.wav", -3, 0)]


def test_without_an_fp32_row_those_with_errors_are_listed():
    int8 = scored("int8 cpu", "cpu", {"a": "open", "b": SPOKEN})
    found = mistakes([int8], int8)
    assert found.heading == "2 utterances"
    assert [row.audio for row in found.rows] == ["a.wav"]


def test_without_spaces_between_words_characters_are_aligned():
    spoken = "今天天气好"
    fp32 = scored("fp32 (reference)", "fp32", {"a": spoken}, spoken, spaced=False)
    int8 = scored("int8 cpu", "cpu", {"a": "今天气好"}, spoken, spaced=False)
    (row,) = mistakes([fp32, int8], int8).rows
    assert row.errors == 1
    assert [(word.text, word.mark) for word in row.int8] == [("今天", "equal"), ("天", "delete"), ("气好", "equal")]


def test_the_reference_has_no_mistakes_of_its_own():
    fp32 = scored("fp32 (reference)", "fp32", {"a": "open"})
    assert mistakes([fp32], fp32) is None
