import random

from trtasr.text.tokens import SentencePieceTokenizer, model_of
from trtasr.zoo.grammar import sample, vocabulary
from trtasr.zoo.pieces import (
    HERE,
    MODEL,
    PIECES,
    VOCABULARY,
    piece_encoder,
    pieces,
    train_pieces,
    word_pieces,
    write_pieces,
)


def test_the_pieces_are_those_that_the_command_makes(tmp_path):
    write_pieces(tmp_path)
    made = tuple(line.split("\t")[0] for line in (tmp_path / VOCABULARY).read_text().splitlines())
    assert made == pieces()
    assert len(set(made)) == len(made) == PIECES


def test_the_same_sentences_give_the_same_model():
    assert train_pieces(60, 500) == train_pieces(60, 500)
    assert train_pieces(60, 500) != train_pieces(60, 500, seed=1)


def test_every_sentence_comes_back_from_its_pieces():
    encode, tokens = piece_encoder(), SentencePieceTokenizer((HERE / MODEL).read_bytes())
    assert tokens.vocabulary == pieces()
    listed = SentencePieceTokenizer(model_of(pieces()))
    rng = random.Random(8)
    for text in [*sorted(vocabulary()), *(sample(rng) for _ in range(500))]:
        ids = encode(text)
        assert tokens.decode(ids) == listed.decode(ids) == text
        assert 0 not in ids  # the unknown piece


def test_nemo_lists_pieces_as_word_pieces():
    assert word_pieces(("<unk>", "\u2581one", "ty", "\u2581")) == "one\n##ty\n\u2581\n"
