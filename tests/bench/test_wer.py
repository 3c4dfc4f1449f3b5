"""Word error rate: what is counted, in which order, and which results are none."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import repeat

import jiwer
import numpy as np
import pytest
from hypothesis import strategies as st

from trtasr.bench.score import score
from trtasr.bench.wer import by_dataset, measure_wer, require_recognition
from trtasr.errors import QualityError, UsageError
from trtasr.results import Prepared, Utterance, WerResult

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


@dataclass
class Hearing:
    """A recognizer of two functions: features -> outputs -> transcripts; `cuts` says of each batch what was cut."""

    run: Callable
    decode: Callable
    cuts: Iterator = field(default_factory=lambda: repeat(()))

    @property
    def cut(self):
        return next(self.cuts)


def run_all(run=echo, decode=words, items=ITEMS, batch=1):
    return measure_wer(Hearing(run, decode), items, "auto", batch)


def test_perfect_engine_is_scored_zero_with_both_sides_normalized():
    result = run_all()
    assert (result.wer, result.words, result.errors, result.normalizer) == (0.0, 10, 0, "basic-en-v1")
    assert result.utterances[2] == Utterance("2.wav", 0.5, "three END", "three end", "three end", "three end")
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


def test_every_utterance_keeps_the_name_of_its_set() -> None:
    items = [replace(item, dataset=name) for item, name in zip(ITEMS, "aabbb", strict=True)]
    assert [u.dataset for u in run_all(items=items, batch=2).utterances] == list("aabbb")


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


@pytest.mark.parametrize(("transcript", "message"), [("", "all 5 .*empty"), ("uh", "the same: 'uh'")])
def test_empty_or_constant_transcripts_fail(transcript, message):
    with pytest.raises(QualityError, match=message):
        run_all(decode=lambda log_probs, lengths: [transcript] * len(log_probs))


def test_constant_transcripts_are_fine_when_the_references_are_constant():
    assert run_all(items=[ITEMS[0], ITEMS[0]]).wer == 0.0


def test_no_utterances():
    with pytest.raises(UsageError, match="nothing to evaluate"):
        run_all(items=[])


def test_transcripts_that_were_cut_are_counted_and_the_first_is_named(caplog):
    """Of batches of two: the second of the first one, and the last utterance."""
    measure_wer(Hearing(echo, words, iter([(False, True), (False, False), (True,)])), iter(ITEMS), "auto", 2)
    assert "2 of 5" in caplog.text
    assert "3.wav" in caplog.text  # the batches are grouped by duration


def test_of_whole_transcripts_nothing_is_said(caplog):
    measure_wer(Hearing(echo, words, repeat((False,))), ITEMS, "auto")
    assert not caplog.text


def result_of(hypotheses: list[str], references: list[str] | None = None) -> WerResult:
    """A result on texts that are normalized already."""
    references = references or ["one two three four"] * len(hypotheses)
    pairs = enumerate(zip(references, hypotheses, strict=True))
    rows = tuple(Utterance(f"{i}.wav", 1.0, r, h, r, h) for i, (r, h) in pairs)
    return WerResult(**vars(score(references, hypotheses)), utterances=rows, normalizer="none")


def transcribed(pairs: list[tuple[str, str]], normalizer: str = "auto") -> WerResult:
    """Evaluation of an engine that gives the second text for audio of which the first is the transcript."""
    items = [Prepared(f"{i}.wav", 1.0, text, np.full((2, 5), i, np.float32), 5) for i, (text, _) in enumerate(pairs)]
    hearing = Hearing(echo, lambda found, _: [pairs[int(item[0, 0])][1] for item in found])
    return measure_wer(hearing, items, normalizer)


@pytest.mark.parametrize(
    ("text", "heard", "wer", "normalizer"),
    [
        (
            "लड़की की किताब",  # Hindi: the girl's book,
            "लड़का का कताब",
            100.0,
            "unicode-v1",
        ),  # other vowels
        ("பால் நான்", "பல் நான்", 50.0, "unicode-v1"),
        ("caf\u00e9 noir", "cafe\u0301 noir", 0.0, "unicode-v1"),  # composed and decomposed: one text
        ("Don't stop.", "don\u2019t stop", 0.0, "basic-en-v1"),
    ],
)
def test_vowel_signs_count_and_the_encoding_of_accents_does_not(text, heard, wer, normalizer):
    result = transcribed([(text, heard)])
    assert result.words == len(text.split())
    assert result.wer == pytest.approx(wer)
    assert result.normalizer == normalizer


def test_without_spaces_between_words_characters_are_counted_punctuation_and_spaces_are_not():
    result = transcribed([("今天\uff0c天气好。", "今天天气坏"), ("你好", "你 好")])
    assert (result.measure, result.rate, result.characters) == ("CER", pytest.approx(100 / 7), 7)
    thai = transcribed([("ไม่ไป", "ไมไป")])  # a tone mark is missing
    assert (thai.measure, thai.cer) == ("CER", 20.0)


def test_transcripts_are_kept_as_given_beside_what_was_scored():
    result = transcribed([("It's THREE!", "Its three, \u00a0ok")])
    (row,) = result.utterances
    assert (row.text, row.pred_text) == ("It's THREE!", "Its three, \u00a0ok")
    assert (row.reference, row.hypothesis) == ("it's three", "its three ok")
    assert result.wer == 100 * jiwer.wer(row.reference, row.hypothesis)
    assert result.cer == 100 * jiwer.cer(row.reference, row.hypothesis)


def test_without_a_normalizer_every_character_counts():
    assert transcribed([("A b.", "a b")], "none").errors == 2


TALE = [
    "the north wind and the sun were arguing",
    "which of them was the stronger",
    "when a traveller came along",
    "wrapped in a warm cloak they agreed",
    "that the one who first made him take it off",
    "should be considered stronger than the other",
]
GERMAN = [
    "einst stritten sich nordwind und sonne",
    "wer von ihnen beiden wohl der staerkere waere",
    "als ein wanderer des weges kam",
    "der in einen warmen mantel gehuellt war",
    "sie wurden einig",
    "dass derjenige fuer den staerkeren gelten sollte",
]


@pytest.mark.parametrize(
    "heard",
    [
        [*TALE[1:], TALE[0]],  # right words, other sentences
        GERMAN,
        [text.replace(" ", "") for text in TALE],  # T1: a tokenizer that writes no spaces
        ["##".join(text[i : i + 3] for i in range(0, len(text), 3)) for text in TALE],
        [text[::-1] for text in TALE],
    ],
)
def test_a_reference_that_recognizes_nothing_fails_and_says_what_to_look_at(heard):
    with pytest.raises(QualityError, match="recognizes too little to hold INT8 against: WER") as error:
        require_recognition(result_of(heard * 2, TALE * 2))
    assert error.value.exit_code == 3
    for clue in ("language", "manifest", "sample rate", "tokenizer", "front-end", "normalizer"):
        assert clue in error.value.repair


def misheard(share: float, seed: int = 0) -> WerResult:
    """A tale of 215 words in which every letter is wrong with this probability."""
    rng = np.random.default_rng(seed)
    letters = list("etaoinshrdlu")
    heard = [
        "".join(rng.choice(letters) if c != " " and rng.random() < share else c for c in text) for text in TALE * 5
    ]
    return result_of(heard, TALE * 5)


@pytest.mark.parametrize(("share", "refused"), [(0.1, False), (0.15, False), (0.3, True), (0.5, True)])
def test_above_60_percent_a_reference_is_refused(share: float, refused: bool) -> None:
    result = misheard(share)
    assert (result.wer > 60) == refused
    with pytest.raises(QualityError, match="too little") if refused else nullcontext():
        require_recognition(result)


def test_60_percent_itself_is_not_refused() -> None:
    spoken = ["one two three four five"] * 10
    require_recognition(result_of(["one two x y z"] * 10, spoken))
    with pytest.raises(QualityError, match=r"WER 62\.00 %.*19 of 50 words right"):
        require_recognition(result_of(["one two x y z"] * 9 + ["one w x y z"], spoken))


def in_sets(result: WerResult, names: list[str]) -> WerResult:
    rows = tuple(replace(row, dataset=name) for row, name in zip(result.utterances, names, strict=True))
    return replace(result, utterances=rows)


def test_a_single_set_that_is_not_recognized_ends_the_run_by_its_name() -> None:
    spoken = ["one two three four five"] * 40
    result = in_sets(result_of(spoken[:30] + ["v w x y z"] * 10, spoken), ["dev"] * 30 + ["an4"] * 10)
    assert result.wer == 25
    with pytest.raises(QualityError, match=r"too little of an4 to hold INT8 against: WER 100\.00 %"):
        require_recognition(result)


def test_a_single_set_of_few_words_is_a_warning_by_its_name(caplog) -> None:
    spoken = ["one two three four five"] * 31
    require_recognition(in_sets(result_of([*spoken[:30], "v w x y z"], spoken), ["dev"] * 30 + ["an4"]))
    assert "recognizes little of an4 (WER 100.00 %" in caplog.text
    assert len(caplog.records) == 1


def test_by_set_every_utterance_is_scored_once() -> None:
    spoken = ["one two three", "four five", "one", "two three four five"]
    result = in_sets(result_of(["one two", "four five", "two", "two three four"], spoken), ["a", "b", "a", "b"])
    parts = by_dataset(result)
    assert {name: (part.words, part.errors) for name, part in parts.items()} == {"a": (4, 2), "b": (6, 1)}
    assert [u.reference for part in parts.values() for u in part.utterances] == [spoken[i] for i in (0, 2, 1, 3)]
    with pytest.raises(UsageError, match="b: the reference transcripts hold no words"):
        by_dataset(in_sets(result_of(["one", "x"], ["one", ""]), ["a", "b"]))


def test_a_few_words_condemn_no_reference():
    require_recognition(result_of(["no", "left"], ["yes", "right"]))


@pytest.mark.parametrize(
    ("heard", "spoken"),
    [
        (["no", "left"], ["yes", "right"]),
        (["won too tree for"] * 5, ["one two three four"] * 5),
        (["今天天气"], ["我喜欢吃饭"]),
    ],
)
def test_what_is_not_condemned_but_as_good_as_unheard_is_said(caplog, heard, spoken):
    require_recognition(result_of(heard, spoken))
    assert "0 of" in caplog.text


def test_of_a_poor_reference_nothing_is_said(caplog):
    require_recognition(result_of(["one two three ford"] * 9 + ["x y z w"], ["one two three four"] * 10))
    assert not caplog.text


def test_without_spaces_a_reference_is_condemned_by_its_characters():
    spoken, other = ["今天天气很好", "我喜欢吃饭"], ["today", "the weather"]
    with pytest.raises(QualityError, match="recognizes too little"):
        require_recognition(result_of(other, spoken))
    require_recognition(result_of(["今天气", "我吃"], spoken))
