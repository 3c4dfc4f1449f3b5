"""Greedy decoding of decoders that answer by rules, some of which never end, repeat or hear nothing."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trtasr.text.generate import SUPPRESSED, Generated, Generation, biases, greedy, guarded, without_loops

SIZE, END, START, NO_SPEECH = 12, 0, 1, 2
GENERATION = Generation(
    start=START,
    prompt=(START, 3),
    end=(END,),
    suppress=(4,),
    begin_suppress=(END,),
    max_length=14,
    no_speech=NO_SPEECH,
    languages=(),
    tokens_per_second=0.0,
)
SURE, UNSURE = -0.1, -2.0


class Script:
    """A decoder whose rows write given tokens, and the end behind them.

    Args:
        rows: tokens of each row; None: the same token forever.
        silence: probability of no speech at the start of each row.
        log_prob: of every token.
    """

    def __init__(self, rows, silence=0.0, log_prob=SURE, language=7):
        self.rows, self.language = rows, language
        self.silence, self.log_prob = np.broadcast_to(silence, len(rows)), log_prob
        self.calls = []

    def begin(self, features, lengths):
        self.calls.append(("begin", len(features)))
        self.written = -1
        return lengths

    def step(self, tokens, bias):
        assert tokens.dtype == np.int64
        self.calls.append((bias, tokens.tolist()))
        if bias == "language":
            return np.full(len(self.rows), self.language), np.zeros(len(self.rows), np.float32)
        self.written += 1
        following = [5 if row is None else row[self.written] if self.written < len(row) else END for row in self.rows]
        return np.array(following), np.full(len(self.rows), self.log_prob, np.float32)

    def start_probability(self, token):
        assert token == NO_SPEECH
        self.calls.append(("start", token))
        return np.asarray(self.silence, np.float32)


def run(decoding, generation=GENERATION, seconds=1.0, **options):
    count = len(decoding.rows)
    features, lengths = np.zeros((count, 8, 20), np.float32), np.full(count, 20)
    return greedy(decoding, features, lengths, np.full(count, seconds), generation, **options)


def test_each_row_until_its_end():
    decoding = Script([[6, 7, 8], [9], []])
    found = run(decoding)
    assert found.tokens == ((6, 7, 8), (9,), ())
    assert decoding.calls == [
        ("begin", 3),
        ("first", [[START, 3]] * 3),
        ("start", NO_SPEECH),
        ("later", [[6], [9], [END]]),
        ("later", [[7], [END], [END]]),
        ("later", [[8], [END], [END]]),
    ]
    np.testing.assert_allclose(found.log_probs, SURE, rtol=1e-6)


def test_the_end_counts_in_the_mean_and_what_follows_does_not():
    decoding = Script([[6, 7], []])
    probs = iter([[-1.0, -8.0], [-2.0, -64.0], [-6.0, -64.0]])
    plain = decoding.step
    decoding.step = lambda tokens, bias: (plain(tokens, bias)[0], np.array(next(probs), np.float32))
    np.testing.assert_allclose(run(decoding).log_probs, [-3.0, -8.0])


def test_an_endless_decoder_stops_at_the_longest_length():
    decoding = Script([None, [6]])
    found = run(decoding, guard=False)
    assert found.tokens == ((5,) * 12, (6,))  # 14 with the prompt of 2
    np.testing.assert_allclose(found.log_probs, SURE, rtol=1e-6)
    assert run(Script([None, [6]])).tokens == ((5,), (6,))


@pytest.mark.parametrize(("seconds", "count"), [(0.0, 1), (0.1, 1), (0.5, 1), (0.8, 3), (1.0, 4), (99.0, 12)])
def test_a_rate_limits_tokens_by_seconds(seconds, count):
    """int(6.5 * seconds) tokens, the prompt of 2 included, as Moonshine's model card has it; at least one is new."""
    generation = replace(GENERATION, tokens_per_second=6.5)
    assert run(Script([None]), generation, seconds, guard=False).tokens == ((5,) * count,)


def test_each_row_has_its_own_seconds():
    generation = replace(GENERATION, tokens_per_second=5.0)
    decoding = Script([None, None, [6]])
    found = greedy(
        decoding, np.zeros((3, 8, 20), np.float32), np.full(3, 20), np.array([2.0, 1.0, 2.0]), generation, guard=False
    )
    assert found.tokens == ((5,) * 8, (5,) * 3, (6,))


def test_the_language_is_detected_first_and_written_behind_the_start():
    decoding = Script([[6], [6]], language=8)
    run(decoding, replace(GENERATION, prompt=(START, 3, 9), languages=(7, 8)))
    assert decoding.calls[:3] == [("begin", 2), ("language", [[START]] * 2), ("first", [[8, 3, 9]] * 2)]


@pytest.mark.parametrize(("languages", "prompt"), [((), [START, 3]), ((7, 8), [START, 8, 3])])
def test_the_encoder_runs_once_per_batch(languages, prompt):
    """A detected language is read behind the start token, which is in the decoder's cache already."""
    decoding = Script([[6, 7], [9]], language=8)
    found = run(decoding, replace(GENERATION, languages=languages))
    assert [name for name, _ in decoding.calls].count("begin") == 1
    assert found.prompts.tolist() == [prompt] * 2
    assert found.tokens == ((6, 7), (9,))
    read = [tokens[0] for name, tokens in decoding.calls if name in ("language", "first")]
    assert [token for row in read for token in row] == prompt


def test_the_detected_language_counts_in_the_length():
    found = run(Script([None]), replace(GENERATION, languages=(7,)), guard=False)
    assert len(found.tokens[0]) == 11


def test_biases():
    found = biases(replace(GENERATION, languages=(7, 8), begin_suppress=(END, 6)), SIZE)
    wanted = {"first": {END, 4, 6}, "later": {4}, "language": set(range(SIZE)) - {7, 8}}
    for name, suppressed in wanted.items():
        assert found[name].dtype == np.float32
        assert found[name].tolist() == [SUPPRESSED if token in suppressed else 0 for token in range(SIZE)]
    assert np.isfinite(np.float16(SUPPRESSED))


@pytest.mark.parametrize(
    ("silence", "log_prob", "kept"),
    [
        (0.0, UNSURE, True),
        (0.55, UNSURE, True),
        (0.65, SURE, True),
        (0.65, UNSURE, False),
        (0.89, SURE, True),
        (0.95, SURE, False),
        (1.0, UNSURE, False),
    ],
)
def test_silence_gives_no_transcript(silence, log_prob, kept):
    decoding = Script([[6, 7]], silence, log_prob)
    found = run(decoding)
    assert found.tokens == (((6, 7),) if kept else ((),))
    np.testing.assert_allclose(found.no_speech, silence)
    assert run(decoding, guard=False).tokens == ((6, 7),)


def test_a_model_without_a_token_for_silence():
    decoding = Script([[6]], silence=1.0)
    found = run(decoding, replace(GENERATION, no_speech=None))
    assert found.tokens == ((6,),)
    assert found.no_speech.tolist() == [0.0]
    assert ("start", NO_SPEECH) not in decoding.calls


def test_rows_are_guarded_one_by_one():
    found = run(Script([[6] * 11 + [8], [7], [9, 9]], silence=[0.0, 0.99, 0.0]))
    assert found.tokens == ((6, 8), (), (9, 9))


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [
        ("", ""),
        ("a" * 9, "a" * 9),
        ("a" * 10, "a"),
        ("x" + "a" * 12 + "y", "xay"),
        ("ab" * 9, "ab" * 9),
        ("ab" * 10, "ab"),
        ("x" + "abc" * 13, "xabc"),
        ("x" + "abc" * 13 + "ab", "xabc"),
        ("abc" * 9 + "ab", "abc" * 9 + "ab"),
        ("abc" * 10 + "ad", "abcad"),
        ("abcdefgh" * 10, "abcdefgh"),
        ("abcdefghi" * 10, "abcdefghi" * 10),
        ("a" * 10 + "b" * 10 + "cc", "abcc"),
        (("a" * 10 + "b") * 10, "ab"),
        ("ab" * 10 + "cd" * 10, "abcd"),
    ],
)
def test_loops_are_written_once(tokens, kept):
    assert without_loops(tuple(tokens), GENERATION) == tuple(kept)


@settings(deadline=None)
@given(st.lists(st.integers(0, 1), max_size=120))
def test_no_loop_is_left_and_what_has_none_stays(tokens):
    kept = without_loops(tuple(tokens), GENERATION)

    def loops(row):
        return any(
            len(row[place : place + width]) == width
            and row[place : place + 10 * width] == row[place : place + width] * 10
            for width in range(1, 9)
            for place in range(len(row))
        )

    assert not loops(kept)
    assert loops(tuple(tokens)) or kept == tuple(tokens)
    assert set(kept) == set(tokens)


@settings(deadline=None)
@given(st.lists(st.integers(3, 5), min_size=1, max_size=8), st.integers(10, 50), st.integers(0, 7))
def test_a_loop_of_any_unit_becomes_shorter_than_two(unit, times, rest):
    looped = tuple(unit) * times + tuple(unit[: rest % len(unit)])
    assert len(without_loops((1, 2, *looped), GENERATION)) <= 2 + 2 * len(unit)


@settings(deadline=None)
@given(
    st.lists(st.none() | st.lists(st.integers(3, 11), max_size=20), min_size=1, max_size=4),
    st.integers(3, 30),
    st.floats(0, 10),
    st.floats(0, 3),
    st.booleans(),
)
def test_any_decoder_ends_within_its_bounds(rows, longest, rate, seconds, guard):
    generation = replace(GENERATION, max_length=longest, tokens_per_second=rate)
    decoding = Script(rows)
    found = run(decoding, generation, seconds, guard=guard)
    room = max(min(longest, int(seconds * rate) if rate else longest) - 2, 1)
    steps = [call for call in decoding.calls if call[0] in ("first", "later")]
    assert 1 <= len(steps) <= room
    for row, tokens in zip(rows, found.tokens, strict=True):
        wanted = ((5,) * room if row is None else tuple(row))[:room]
        assert tokens == (without_loops(wanted, generation) if guard else wanted)
    assert found.log_probs.dtype == np.float32
    np.testing.assert_allclose(found.log_probs, SURE, rtol=1e-6)


def test_broken_numbers_are_no_silence():
    nan = np.array([np.nan], np.float32)
    found = Generated(((6,),), nan, nan, (False,), np.array([[START, 3]]))
    assert guarded(found, GENERATION).tokens == ((6,),)


# tokens of a vocabulary with digits: 3 is a space, 4 a separator, 5 to 9 are digits, 10 and 11 words
NUMBERS = replace(GENERATION, digits=(5, 6, 7, 8, 9), separators=(3, 4), max_length=200, suppress=())


@pytest.mark.parametrize(
    "said",
    [
        (5,) * 10,
        (5,) * 10 + (6,),
        (5, 4) * 12,
        (3, 5, 4) * 40,
        (10, *(5,) * 30, 11),
        (5, 6, 7) * 11,
        (7, 4, 4, 3) * 10,
    ],
)
def test_numbers_are_no_loops(said):
    """Ten zeros are a telephone number, an amount, a test of the microphone; each digit is a token of its own."""
    assert run(Script([list(said)]), NUMBERS).tokens == (said,)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ((10,) * 10, (10,)),
        ((3,) * 10, (3,)),
        ((4, 3) * 10, (4, 3)),
        ((5, 10) * 10, (5, 10)),
        ((10, 4) * 11, (10, 4)),
        ((*(5,) * 12, *(10,) * 12, *(6,) * 12), (*(5,) * 12, 10, *(6,) * 12)),
    ],
)
def test_words_with_or_without_numbers_are_loops(said, kept):
    assert run(Script([list(said)]), NUMBERS).tokens == (kept,)


@settings(deadline=None)
@given(st.lists(st.sampled_from([3, 4, 5, 6]), min_size=1, max_size=8), st.integers(1, 40))
def test_a_repeated_number_stays_whole_and_repeated_words_do_not(unit, times):
    assume(5 in unit or 6 in unit)
    said = tuple(unit) * times
    assert without_loops(said, NUMBERS) == said
    words = tuple(10 if token in NUMBERS.digits else token for token in said)
    assert len(without_loops(words, NUMBERS)) < 10 * len(unit)


@settings(deadline=None)
@given(st.lists(st.sampled_from([3, 4, 5, 6, 7]), max_size=80), st.lists(st.integers(10, 11), max_size=3))
def test_digits_in_front_of_words_are_all_kept(number, words):
    kept = without_loops((*number, *words), NUMBERS)
    assert [token for token in kept if token in NUMBERS.digits] == [token for token in number if token > 4]


def test_numbers_without_end_stop_at_the_limit_and_say_so():
    found = run(Script([None]), replace(NUMBERS, digits=(5,), max_length=30))
    assert found.tokens == ((5,) * 28,)
    assert found.cut == (True,)


@pytest.mark.parametrize(
    ("row", "cut"),
    [
        ([6, 7], False),
        ([*range(5, 12)] * 2, True),
        (None, False),
        ([6, 7] * 3, False),
        ([6, 7, 8, 9] * 3, True),
    ],
)
def test_a_transcript_that_the_limit_cut_is_marked(row, cut):
    """12 tokens fit behind the prompt; a loop that runs into the limit lacks nothing."""
    assert run(Script([row])).cut == (cut,)


def test_each_row_has_its_own_mark():
    silence = [0.0, 0.99, 0.0]
    assert run(Script([[6, 7, 8, 9] * 3, [6, 7, 8, 9] * 3, [6]], silence)).cut == (True, False, False)
    limited = replace(GENERATION, tokens_per_second=6.5)
    assert run(Script([[6, 7, 8, 9], [6]]), limited).cut == (True, False)
