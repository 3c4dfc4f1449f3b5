"""NeMo's rule for spaces in front of punctuation (its pull request 13353)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_zoo import closed_up

from trtasr.text.punctuation import Punctuation, marks

LETTERS = [" ", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.mark.parametrize(
    ("vocabulary", "said", "text"),
    [
        ([*LETTERS, "."], "the .", "the."),
        ([*LETTERS, "'"], "dogs ' house", "dogs' house"),
        ([*LETTERS, "'"], "the .", "the ."),  # no mark of this vocabulary
        (LETTERS, "dogs ' house", "dogs ' house"),
        ([*LETTERS, "."], "the  .", "the ."),  # one space, not all
        ([*LETTERS, ".", "!"], "no . ! yes", "no.! yes"),
        ([*LETTERS, "'s"], "it 's", "it's"),  # marks inside of tokens count
        ([*LETTERS, "\u2581."], "the .", "the ."),  # not those of pieces that start a word
        ([*LETTERS, "##."], "the .", "the ."),
        ([*LETTERS, "<|.|>", "[.]"], "the .", "the ."),  # nor those of special tokens
        ([*LETTERS, "\u3002", "\u060c"], "a \u3002 b \u060c", "a\u3002 b\u060c"),
        ([*LETTERS, "$"], "5 $", "5 $"),  # a symbol, no punctuation
        ([*LETTERS, "-", "]", "^"], "a - b ] c ^", "a- b] c ^"),
    ],
)
def test_one_space_in_front_of_a_mark_of_the_vocabulary_goes(vocabulary, said, text):
    assert Punctuation(vocabulary)(said) == text


def test_marks_are_the_punctuation_of_plain_tokens():
    assert marks(["a.", "<?>", "[!]", "\u2581,", "##;", " ", "", "\u00bf", "o'c"]) == {".", "\u00bf", "'"}


@given(st.lists(st.text("ab.,' \u2581#<>[]|!$-", max_size=4), max_size=6), st.text("ab.,' !-\u00a0\n", max_size=20))
def test_the_rule_told_character_by_character_gives_the_same(vocabulary, text):
    assert Punctuation(vocabulary)(text) == closed_up(text, vocabulary)
