"""What each kind of tokenizer makes of token ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_zoo import sentencepieces, strings, trained

from trtasr.errors import CheckpointError
from trtasr.text.normalize import basic_en_v1
from trtasr.text.tokens import BYTES, CharTokenizer, SentencePieceTokenizer, model_of

# What SentencePiece 0.2.3 itself makes of pieces, surrounding spaces removed:
#   SentencePieceTrainer.train(sentence_iterator=iter(["one two three", "twenty one ones"] * 50), model_writer=buffer,
#       model_type="bpe", vocab_size=300, byte_fallback=True, hard_vocab_limit=False)
#   SentencePieceProcessor(model_proto=buffer.getvalue()).decode_pieces(pieces)
DECODED = [
    ("", ""),
    ("\u2581", ""),
    ("\u2581one \u2581t w o", "one two"),
    ("\u2581one s", "ones"),
    ("\u2581 one", "one"),
    ("\u2581 \u2581one", "one"),
    ("s \u2581one", "s one"),
    ("\u2581one \u2581 \u2581two", "one  two"),
    ("\u2581one <unk> \u2581two", "one \u2047  two"),
    ("\u2581one <unk> s", "one \u2047 s"),
    ("<unk>", "\u2047"),
    ("<unk> <unk>", "\u2047  \u2047"),
    ("\u2581one <0xE2> <0x82> <0xAC>", "one\u20ac"),
    ("\u2581one \u2581 <0xE2> <0x82> <0xAC> \u2581two", "one \u20ac two"),
    ("<0xC3> <0xA9>", "\u00e9"),
    ("<0x20> <0x61>", "a"),
    ("<0xFF> <0xFE>", "\ufffd\ufffd"),
    ("<0xE2> s <0x82>", "\ufffds\ufffd"),
]
LISTED = ("<unk>", "\u2581", *BYTES, "\u2581one", "\u2581two", "\u2581t", "one", "s", "w", "o")


def listed(*pieces):
    return SentencePieceTokenizer(model_of(pieces))


def test_characters_are_joined():
    tokens = CharTokenizer((" ", "a", "b", "'"))
    assert tokens.decode([0, 1, 0, 2, 3, 1, 0]) == "a b'a"
    assert tokens.decode([]) == ""
    assert (tokens.kind, tokens.content) == ("characters", b"")


def test_characters_are_text_whatever_they_look_like():
    tokens = CharTokenizer(("\u2581", "##a", "<0x41>", "<unk>", "\u0120", "<|en|>"))
    assert tokens.decode(range(6)) == "\u2581##a<0x41><unk>\u0120<|en|>"


@pytest.mark.parametrize(("pieces", "text"), DECODED)
def test_listed_pieces_decode_as_sentencepiece_does(pieces, text):
    tokens = listed(*LISTED)
    assert tokens.vocabulary == LISTED
    assert tokens.decode([LISTED.index(piece) for piece in pieces.split()]) == text


@given(st.lists(st.text("abc\u00e9\u4e2d", min_size=1), min_size=1, max_size=6))
def test_words_survive_as_pieces(words):
    pieces = [f"\u2581{word}" for word in words]
    vocabulary = ("<unk>", *dict.fromkeys(pieces))
    assert listed(*vocabulary).decode([vocabulary.index(piece) for piece in pieces]) == " ".join(words)


def test_byte_pieces_are_text_where_not_all_of_them_are_there():
    assert listed("<unk>", "<0x41>", "<0x4>").decode([1, 2]) == "<0x41><0x4>"


def test_listed_control_pieces_are_silent():
    assert listed("<unk>", "<s>", "\u2581one", "</s>", "<pad>").decode([1, 2, 3, 4]) == "one"


def test_unknown_pieces_are_no_words_after_normalization():
    assert basic_en_v1(listed("<unk>", "\u2581one").decode([1, 0, 1])) == "one one"


def test_types_of_pieces_decide_not_their_look():
    """NeMo 5667 and 7711: a user-defined ``<|en|>`` is text, a control piece is not, whatever its name."""
    model = trained(user_defined_symbols="<|en|>,##", control_symbols="lang,[noise]")
    tokens, ids = SentencePieceTokenizer(model), strings(model).index
    assert tokens.decode([ids("<|en|>"), ids("lang"), ids("##"), ids("[noise]"), ids("a")]) == "<|en|>##a"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (b"", "an empty file"),
        (model_of(("<unk>", "xyz")).replace(b"xyz", b"x\xffz"), "SentencePiece model .*utf-8"),
        (trained(unk_surface="xyz").replace(b"xyz", b"x\xffz"), "SentencePiece model .*utf-8"),
        (b"\x0a\x00", "not a SentencePiece model"),
        (b"not a model", "not a SentencePiece model"),
        (sentencepieces()["bundled"][:-3], "not a SentencePiece model"),
    ],
)
def test_files_that_are_no_model_are_refused_with_the_repair(change, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        SentencePieceTokenizer(change)
    assert caught.value.repair == "save the tokenizer again"


@pytest.mark.parametrize("pieces", [("<unk>", "a", "a"), ("<unk>", ""), ("a", "b")])
def test_lists_that_are_no_model_are_refused(pieces):
    with pytest.raises(CheckpointError, match="not a SentencePiece model"):
        listed(*pieces)
