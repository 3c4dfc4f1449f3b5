"""Hugging Face tokenizers through their own decoder."""

import json
import time
from itertools import pairwise

import numpy as np
import pytest
from golden import whisper_configs
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_zoo import FLAGS, bundled_whisper, byte_level, like_moonshine, with_added

from trtasr.errors import CheckpointError
from trtasr.text.huggingface import HuggingFaceTokenizer

WORD_PIECE = {"type": "WordPiece", "prefix": "", "cleanup": True}
GOLDEN = np.load(whisper_configs.__file__.replace("whisper_configs.py", "whisper.npz"))


def made(document, outputs=1000):
    return HuggingFaceTokenizer(json.dumps(document).encode(), outputs)


def ids_of(document):
    return made(document).vocabulary.index


def test_byte_level_pieces_decode_as_the_library_does():
    pieces = whisper_configs.byte_pieces()
    special = [piece for piece in pieces if piece.startswith("<|") and piece.endswith("|>")]
    plain = [piece for piece in pieces if piece not in special]
    tokens = made(with_added(byte_level(plain), *((piece, True) for piece in special)), len(pieces))
    assert tokens.vocabulary == tuple(pieces)
    texts = [tokens.decode(ids) for ids in whisper_configs.byte_sequences()]
    assert texts[:4] == ["na\u00efve \u20ac 5", "\U0001f600 ok", "\u65e5\u672c\u8a9e", "tab\tnew\nline"]
    assert texts == json.loads(GOLDEN["bytes/texts"].tobytes())
    assert any("\ufffd" in text for text in texts)


def test_special_added_tokens_are_silent_and_others_are_text():
    document = with_added(bundled_whisper(), ("<|new|>", True), ("<|kept|>", False), (" two words", False))
    tokens, ids = made(document), ids_of(document)
    said = [ids("\u0120one"), ids("<|new|>"), ids("<|kept|>"), ids(" two words"), ids("<|endoftext|>")]
    assert tokens.decode(said) == "one<|kept|> two words"


def test_letters_of_added_tokens_are_not_taken_for_bytes():
    """tokenizers 1392: its byte-level decoder reads them in its alphabet, where the accented e is one byte."""
    document = with_added(bundled_whisper(), ("caf\u00e9", False), ("\u2581foo", False), ("\u65e5", False))
    tokens, ids = made(document), ids_of(document)
    said = [ids("\u0120one"), ids("caf\u00e9"), ids("\u2581foo"), ids("\u65e5")]
    assert tokens.decode(said) == "onecaf\u00e9\u2581foo\u65e5"


def test_added_tokens_that_are_pieces_too_stay_pieces():
    document = bundled_whisper()
    piece = ids_of(document)("\u0120one")
    document["added_tokens"].insert(0, FLAGS | {"id": piece, "content": "\u0120one", "special": False})
    assert made(document).decode([piece, piece]) == "one one"


def test_timestamps_are_left_out_as_in_transformers():
    document = with_added(bundled_whisper(), ("<|0.00|>", False), ("<|12.34|>", False))
    tokens, ids = made(document), ids_of(document)
    assert tokens.decode([ids("<|0.00|>"), ids("\u0120one"), ids("<|12.34|>")]) == "one"


def test_moonshine_has_its_own_decoder():
    document = like_moonshine()
    tokens, ids = made(document), ids_of(document)
    euro = [3 + byte for byte in "\u20ac".encode()]
    said = [1, ids("\u2581the"), ids("er"), *euro, ids("<<ST_0>>"), ids("<<ST_7>>"), 2]
    assert tokens.decode(said) == "theer\u20ac<<ST_7>>"
    assert tokens.decode([ids("caf\u00e9"), ids("\u2581new word")]) == "caf\u00e9 new word"


def test_outputs_without_a_token_and_tokens_without_an_output():
    assert made(byte_level(["a", "b"]), 4).vocabulary == ("a", "b", "<|unused 2|>", "<|unused 3|>")
    assert made(byte_level(["a", "b"]), 4).decode([0, 3, 1]) == "ab"
    assert made(byte_level(["a", "b"]), 1).vocabulary == ("a",)


def test_pieces_are_apart_without_a_decoder():
    assert made(byte_level(["a", "b"]) | {"decoder": None}).decode([0, 1]) == "a b"


@given(st.text(st.characters(exclude_categories=["Cs"])), st.sets(st.integers(1, 40)))
def test_text_survives_bytes_and_any_cut(text, cuts):
    alphabet = whisper_configs.byte_pieces()[:256]
    order = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    order += [byte for byte in range(256) if byte not in order]
    spelled = "".join(alphabet[order.index(byte)] for byte in text.encode())
    bounds = [0, *sorted(cut for cut in cuts if cut < len(spelled)), len(spelled)]
    pieces = [spelled[start:end] for start, end in pairwise(bounds)]
    vocabulary = list(dict.fromkeys(pieces))
    assert made(byte_level(vocabulary)).decode([vocabulary.index(piece) for piece in pieces]) == text.strip()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a tokenizer"),
        (b"{", "not a tokenizer"),
        (b"[]", "not a tokenizer"),
        (b"{}", "not a tokenizer"),
        (b'{"model": ' + b"[" * 10000, "not a tokenizer"),
        (b'{"model": "\xff"}', "not a tokenizer"),
        (b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}', "not a tokenizer"),
        (b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}', "not a tokenizer"),
    ],
)
def test_what_is_no_tokenizer_is_refused(content, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        HuggingFaceTokenizer(content, 3)
    assert caught.value.repair == "save the tokenizer again"


def test_added_tokens_with_another_id_than_the_library_gives_them_are_refused():
    document = with_added(bundled_whisper(), ("x y", False))
    document["added_tokens"][-1]["id"] += 5
    with pytest.raises(CheckpointError, match=r"'x y' .*525.*520"):
        made(document)


@pytest.mark.parametrize(
    "decoder",
    [
        {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""},
        {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"},
        {"type": "Replace", "pattern": {"String": ""}, "content": ""},
        {"type": "Strip", "content": " ", "start": 0, "stop": 1},
        {"type": "BPEDecoder", "suffix": ""},
        {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Sequence", "decoders": [WORD_PIECE]}]},
        {"type": "Sequence", "decoders": [[{"type": "Fuse"}]]},
        {"type": "Sequence", "decoders": {"type": "Fuse"}},
        {"type": "Sequence", "decoders": 1},
        {"type": ["Sequence"]},
    ],
)
def test_decoders_that_could_run_away_are_refused(decoder):
    with pytest.raises(CheckpointError, match=r"decoder .*not supported") as caught:
        made(byte_level(["a"]) | {"decoder": decoder})
    assert "byte-level BPE" in caught.value.repair


def test_what_encodes_is_not_run():
    """A normalizer is run on the added tokens when a file is read: 2^60 letters here."""
    twice = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    document = with_added(byte_level(["b"]), ("a", False))
    document["added_tokens"][0]["normalized"] = True
    started = time.process_time()
    tokens = made(document | {"normalizer": {"type": "Sequence", "normalizers": [twice] * 60}}, 2)
    assert tokens.decode([0, 1]) == "ba"
    assert time.process_time() - started < 5
