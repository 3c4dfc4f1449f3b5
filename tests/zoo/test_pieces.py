import builtins
import random

import pytest

from trtasr.errors import MissingError
from trtasr.text.tokens import tokenizer
from trtasr.zoo.grammar import sample, vocabulary
from trtasr.zoo.pieces import PIECES, VOCABULARY, piece_encoder, pieces, train_pieces, word_pieces, write_pieces


def test_the_pieces_are_those_that_the_command_makes(tmp_path):
    write_pieces(tmp_path)
    made = tuple(line.split("\t")[0] for line in (tmp_path / VOCABULARY).read_text().splitlines())
    assert made == pieces()
    assert len(set(made)) == len(made) == PIECES


def test_the_same_sentences_give_the_same_model():
    assert train_pieces(60, 500) == train_pieces(60, 500)
    assert train_pieces(60, 500) != train_pieces(60, 500, seed=1)


def test_every_sentence_comes_back_from_its_pieces():
    encode, tokens = piece_encoder(), tokenizer(pieces())
    rng = random.Random(8)
    for text in [*sorted(vocabulary()), *(sample(rng) for _ in range(500))]:
        ids = encode(text)
        assert tokens.decode(ids) == text
        assert 0 not in ids  # the unknown piece


def test_nemo_lists_pieces_as_word_pieces():
    assert word_pieces(("<unk>", "\u2581one", "ty", "\u2581")) == "one\n##ty\n\n"


def test_a_missing_library_is_named_with_its_repair(monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest):
        if name == "sentencepiece":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingError, match="pip install"):
        piece_encoder()
