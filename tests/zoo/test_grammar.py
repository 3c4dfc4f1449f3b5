import random
import re

import pytest

from trtasr.zoo.grammar import below_hundred, cardinal, ordinal, sample, vocabulary


@pytest.fixture(scope="module")
def words() -> set[str]:
    return vocabulary()


def test_vocabulary_is_closed_and_of_the_promised_size(words):
    assert 150 <= len(words) <= 300
    rng = random.Random(99)
    for _ in range(3000):
        assert set(sample(rng).split()) <= words


def test_sentences_are_spelled_with_the_labels_of_the_checkpoint():
    rng = random.Random(5)
    for _ in range(1000):
        assert re.fullmatch(r"[a-z']+( [a-z']+)*", sample(rng))


def test_same_seed_gives_the_same_sentences():
    assert [sample(random.Random(3)) for _ in range(5)] == [sample(random.Random(3)) for _ in range(5)]


@pytest.mark.parametrize(
    ("value", "spoken"),
    [
        (0, "zero"),
        (7, "seven"),
        (100, "one hundred"),
        (1005, "one thousand and five"),
        (40, "forty"),
        (2345, "two thousand three hundred and forty five"),
        (9999, "nine thousand nine hundred and ninety nine"),
    ],
)
def test_cardinal(value, spoken):
    assert " ".join(cardinal(value)) == spoken


def test_cardinals_are_distinct():
    assert len({tuple(cardinal(value)) for value in range(10_000)}) == 10_000
    assert len({tuple(below_hundred(value)) for value in range(100)}) == 100


@pytest.mark.parametrize(
    ("value", "spoken"),
    [(1, "first"), (20, "twentieth"), (22, "twenty second"), (30, "thirtieth"), (31, "thirty first")],
)
def test_ordinal(value, spoken):
    assert " ".join(ordinal(value)) == spoken
