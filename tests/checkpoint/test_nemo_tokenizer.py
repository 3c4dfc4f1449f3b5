"""Which tokenizer a NeMo archive has: by its class, its ``tokenizer`` section and its files."""

import logging

import pytest
from nemo_archive import archive, config, member, refused
from tokenizer_zoo import BPE, MODEL, nemo_bpe, nemo_characters, old_spelling, sentencepieces, spoken, strings, trained

from trtasr.checkpoint.nemo import read_nemo

SYMBOLS = sentencepieces()["symbols"]
WORDS = sentencepieces()["bundled"]
SENTENCE = ["\u2581", "t", "en", "\u2581s", "\u2581two", "\u2581th", "ee"]  # pieces of the bundled model


def said(path, *pieces, spelling=None):
    checkpoint = read_nemo(path)
    order = list(spelling or checkpoint.vocabulary)
    return spoken(checkpoint, [order.index(piece) for piece in pieces])


@pytest.mark.parametrize("model", [WORDS, b""], ids=["with_model", "list_only"])
def test_archives_of_nemo_1_0_give_normal_text(tmp_path, model):
    """NeMo 4654 and PR 3119: ``##s`` for pieces inside of words, and the bare ``\u2581``."""
    pieces = strings(WORDS)
    old = old_spelling(pieces)
    assert "\u2581" in old
    assert any(piece.startswith("##") for piece in old)
    path = nemo_bpe(tmp_path, model, old)
    starts, goes_on = pieces.index("\u2581th"), next(i for i, p in enumerate(pieces) if p == "en")
    checkpoint = read_nemo(path)
    bare = pieces.index("\u2581")
    assert spoken(checkpoint, [starts, goes_on, bare, goes_on, starts]) == "then en th"


def test_without_decoder_vocabulary_the_lines_of_vocab_txt_are_the_pieces(tmp_path):
    old = old_spelling(strings(WORDS))
    settings = config(target=BPE, tokenizer={"dir": "bpe", "type": "bpe", "vocab_path": "nemo:0_vocab.txt"})
    settings["decoder"] |= {"vocabulary": None, "num_classes": len(old)}
    lines = "".join(f"{word}\n" for word in old[1:]).encode()
    path = archive(tmp_path, settings, extra=[member("./0_vocab.txt", lines)])
    assert read_nemo(path).vocabulary == tuple(strings(WORDS))


def test_types_of_pieces_come_from_the_model_of_the_archive(tmp_path):
    """NeMo 5667 and 7711: user-defined symbols are text, control symbols are not."""
    path = nemo_bpe(tmp_path, SYMBOLS)
    assert said(path, "<|en|>", "a", "<lang>", "b", "[noise]", "##") == "<|en|>ab##"


def test_bytes_spell_characters(tmp_path):
    path = nemo_bpe(tmp_path, sentencepieces()["bytes"])
    assert said(path, "\u2581a", "<0xE2>", "<0x82>", "<0xAC>", "<0xFF>") == "a\u20ac\ufffd"


def test_characters_are_verbatim_whatever_they_look_like(tmp_path):
    path = nemo_characters(tmp_path, ["\u2581", "##s", "a", " ", "<|en|>", "<0x41>"])
    assert said(path, "a", "\u2581", "##s", " ", "<|en|>", "<0x41>") == "a\u2581##s <|en|><0x41>"


def test_one_space_before_punctuation_goes_in_character_models(tmp_path):
    """NeMo PR 13353."""
    path = nemo_characters(tmp_path, [" ", *"adeghostu", "'", "."])
    assert said(path, *"the .") == "the."
    assert said(path, *"dogs ' house") == "dogs' house"
    assert said(path, *"the  .") == "the ."


def test_one_space_before_punctuation_goes_in_models_over_pieces(tmp_path):
    pieces = ["<unk>", "\u2581", "\u2581the", "\u2581dogs", "\u2581house", ".", "'"]
    path = nemo_bpe(tmp_path, b"", pieces)
    assert said(path, "\u2581the", "\u2581", ".") == "the."
    assert said(path, "\u2581dogs", "\u2581", "'", "\u2581house") == "dogs' house"


def test_the_class_decides_even_where_a_tokenizer_is_named(tmp_path):
    """NeMo's EncDecCTCModel joins its labels and does not look at ``tokenizer``."""
    settings = config(tokenizer={"dir": "bpe", "type": "bpe", "model_path": f"nemo:{MODEL}"})
    settings["decoder"]["vocabulary"] = ["\u2581a", "\u2581", "b"]
    path = archive(tmp_path, settings, extra=[member(f"./{MODEL}", SYMBOLS)])
    checkpoint = read_nemo(path)
    assert checkpoint.tokenizer.kind == "characters"
    assert spoken(checkpoint, [0, 1, 2]) == "\u2581a\u2581b"


@pytest.mark.parametrize("kind", ["bpe", "BPE"])
@pytest.mark.parametrize("name", ["tokenizer.model", "0123_tokenizer.model", "0123_my_own.model"])
def test_the_model_is_found_by_its_name_in_the_section_or_as_the_only_one(tmp_path, kind, name):
    for section in ({"dir": "", "type": kind, "model_path": f"nemo:{name}"}, {"dir": "", "type": kind}):
        settings = config(target=BPE, tokenizer=section)
        settings["decoder"] |= {"vocabulary": ["anything"], "num_classes": len(strings(WORDS))}
        found = read_nemo(archive(tmp_path, settings, extra=[member(f"./{name}", WORDS)]))
        assert found.tokenizer.content == WORDS
        assert found.vocabulary == tuple(strings(WORDS))
        assert found.config["decoder"]["vocabulary"] == strings(WORDS)


def test_a_missing_model_is_said(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert read_nemo(nemo_bpe(tmp_path, b"", ["<unk>", "\u2581a", "b"])).tokenizer.kind == "sentencepiece"
    assert "no tokenizer.model" in caplog.text


def test_models_that_cannot_be_read_are_named(tmp_path):
    for name, broken in (("cut", WORDS[:-3]), ("other", b"vocabulary")):
        (tmp_path / name).mkdir()
        refused(nemo_bpe(tmp_path / name, broken, ["<unk>", "a"]), f"{MODEL}: not a SentencePiece model")
    (tmp_path / "none").mkdir()
    refused(nemo_bpe(tmp_path / "none", b"", ["a", "b"]), "decoder.vocabulary: not a SentencePiece model .*unk")


def test_models_of_another_size_than_the_decoder_are_refused(tmp_path):
    path = nemo_bpe(tmp_path, WORDS, ["<unk>", "\u2581a", "b"])
    refused(path, "128 tokens, decoder.num_classes is 3")


def test_tokenizer_files_are_bounded_together(tmp_path):
    many = [member(f"./{index}_tokenizer.model", b"\0" * (5 * 2**20)) for index in range(4)]
    refused(archive(tmp_path, config(), extra=many), r"3_tokenizer\.model has 5242880 bytes, more than 1 MiB")


def test_decoding_keeps_the_options_of_the_model(tmp_path):
    model = trained(unk_surface="?")
    assert said(nemo_bpe(tmp_path, model), "a", "<unk>", "b") == "a?b"
