import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from golden import whisper_configs
from hypothesis import given, settings
from hypothesis import strategies as st

from trtasr.text.normalize import basic_en_v1
from trtasr.text.tokens import ByteLevelTokenizer, CharTokenizer, SentencePieceTokenizer, byte_alphabet, tokenizer

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


def test_characters_are_joined_and_the_blank_is_the_last_class():
    tokens = CharTokenizer((" ", "a", "b", "'"))
    assert tokens.decode([0, 1, 0, 2, 3, 1, 0]) == "a b'a"
    assert tokens.decode([]) == ""
    assert tokens.blank == 4


@pytest.mark.parametrize(("pieces", "text"), DECODED)
def test_pieces_decode_as_sentencepiece_does(pieces, text):
    vocabulary = tuple(dict.fromkeys(pieces.split()))
    tokens = SentencePieceTokenizer(vocabulary)
    assert tokens.decode([vocabulary.index(piece) for piece in pieces.split()]) == text
    assert tokens.blank == len(vocabulary)


@given(st.lists(st.text("abc\u00e9\u4e2d'", min_size=1), min_size=1, max_size=6), st.sets(st.integers(1, 40)))
def test_words_survive_any_cut_into_pieces(words, cuts):
    written = "".join("\u2581" + word for word in words)
    bounds = [0, *sorted(cut for cut in cuts if cut < len(written)), len(written)]
    pieces = tuple(written[start:end] for start, end in pairwise(bounds))
    assert SentencePieceTokenizer(pieces).decode(range(len(pieces))) == " ".join(words)


def test_only_byte_pieces_become_bytes():
    tokens = SentencePieceTokenizer(("\u2581<0x41>", "<0x4>", "<0x41>x"))
    assert tokens.decode([0]) == "<0x41>"
    assert tokens.decode([1, 2]) == "<0x4><0x41>x"


def test_control_pieces_are_silent():
    assert SentencePieceTokenizer(("<s>", "\u2581one", "</s>")).decode([0, 1, 2]) == "one"


@pytest.mark.parametrize(("vocabulary", "kind"), [
    ((" ", "a", "b", "'"), CharTokenizer),
    (("a",), CharTokenizer),
    (("<unk>", "\u2581", "a"), SentencePieceTokenizer),
    (("<unk>", "s", "\u2581the"), SentencePieceTokenizer),
    (("!", "\u0120the", "<|en|>"), ByteLevelTokenizer),
    (("\u0120", "\u2581the", "<|en|>"), SentencePieceTokenizer),
])  # fmt: skip
def test_the_vocabulary_says_which_tokenizer(vocabulary, kind):
    found = tokenizer(vocabulary)
    assert type(found) is kind
    assert found.vocabulary == vocabulary
    assert found.blank == len(vocabulary)


def test_special_pieces_are_silent():
    assert SentencePieceTokenizer(("<<ST_0>>", "\u2581one", "<|unused 3|>")).decode([0, 1, 2]) == "one"
    assert SentencePieceTokenizer(("<<", "\u2581one", "<|")).decode([0, 1, 2]) == "<< one<|"


def test_byte_level_pieces_decode_as_the_tokenizers_library_does():
    golden = np.load(Path(__file__).parents[1] / "golden" / "whisper.npz")["bytes/texts"]
    tokens = ByteLevelTokenizer(tuple(whisper_configs.byte_pieces()))
    texts = [tokens.decode(ids) for ids in whisper_configs.byte_sequences()]
    assert texts[:4] == ["na\u00efve \u20ac 5", "\U0001f600 ok", "\u65e5\u672c\u8a9e", "tab\tnew\nline"]
    assert texts == json.loads(golden.tobytes())
    assert any("\ufffd" in text for text in texts)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.sets(st.integers(1, 40)))
def test_text_survives_bytes_and_any_cut(text, cuts):
    spelled = {byte: character for character, byte in byte_alphabet().items()}
    written = "".join(spelled[byte] for byte in text.encode())
    bounds = [0, *sorted(cut for cut in cuts if cut < len(written)), len(written)]
    pieces = tuple(written[start:end] for start, end in pairwise(bounds))
    assert ByteLevelTokenizer(pieces).decode(range(len(pieces))) == text.strip()


def test_the_byte_alphabet_has_256_printable_characters():
    alphabet = byte_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    assert all(character.isprintable() and not character.isspace() for character in alphabet)
    assert (alphabet["\u0120"], alphabet["\u010a"], alphabet["!"]) == (32, 10, 33)


def test_byte_level_special_pieces_are_silent_and_others_plain():
    tokens = ByteLevelTokenizer(("<|en|>", "<|1.00|>", "\u4e2d a", "\u0120b", "<|", "|>"))
    assert tokens.decode([0, 2, 1, 3]) == "\u4e2d a b"
    assert tokens.decode([4, 3, 5]) == "<| b|>"


def test_unknown_pieces_are_no_words_after_normalization():
    text = SentencePieceTokenizer(("<unk>", "\u2581one")).decode([1, 0, 1])
    assert basic_en_v1(text) == "one one"
