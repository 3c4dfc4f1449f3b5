"""Tokenizers on their way from a checkpoint through a bundle, against the libraries that made them."""

import json
import random
import shutil
from dataclasses import asdict
from functools import partial

import pytest
import tokenizers
from sidecar import description
from tokenizer_zoo import (
    bundled_whisper,
    byte_level,
    closed_up,
    hugging_face,
    like_moonshine,
    nemo_bpe,
    nemo_characters,
    nemo_says,
    old_spelling,
    sentencepieces,
    strings,
    transformers_of,
    with_added,
)

from trtasr.bundle import open_bundle, restore_tokenizer, seal, tokenizer_file, write_tokenizer
from trtasr.checkpoint.read import read_checkpoint
from trtasr.errors import BundleError
from trtasr.text.tokens import CharTokenizer
from trtasr.zoo.network import bundled

SEQUENCES = 3000
CHARACTERS = {
    "letters": [" ", *"abcdefghijklmnopqrstuvwxyz", "'"],
    "punctuation": [" ", *"abc.,?!'\u00bf-", "\u0915", "\u093f", "\u3002"],
    "odd": ["\u2581", "##a", "a", " ", "<0x41>", "<unk>", "\u0120", "<|en|>", "\u00e9", "."],
}
ADDED = (("\u2581foo", False), ("<|new|>", True), ("two words", False), ("<|1.50|>", False), ("\u65e5\u672c", False))
DOCUMENTS = {
    "whisper": bundled_whisper(),
    "whisper_with_more": with_added(bundled_whisper(), *ADDED),
    "moonshine": like_moonshine(),
    "bytes": byte_level([chr(code) for code in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x144))]),
}


def round_trip(path, folder):
    """The tokenizer of a checkpoint behind a bundle that was moved."""
    checkpoint = read_checkpoint(path)
    write_bundle(checkpoint.tokenizer, folder / "made")
    shutil.move(folder / "made", folder / "moved")
    found = restore_tokenizer(open_bundle(folder / "moved"))
    assert found.vocabulary == checkpoint.vocabulary
    assert found == checkpoint.tokenizer
    return found


def write_bundle(tokens, folder):
    folder.mkdir()
    (folder / "m").write_bytes(b"graph")
    write_tokenizer(tokens, folder)
    seal(folder, description("m", vocabulary=list(tokens.vocabulary), tokenizer=asdict(tokenizer_file(tokens))))
    return folder


def differing(tokens, original, size=None):
    """Of 3,000 random token sequences those that two sides write differently."""
    draw, size = random.Random(size), size or len(tokens.vocabulary)
    sequences = [[draw.randrange(size) for _ in range(draw.randrange(25))] for _ in range(SEQUENCES)]
    return [ids for ids in sequences if tokens.decode(ids) != original(ids)]


@pytest.mark.parametrize("name", sentencepieces())
def test_sentencepiece_models_decode_as_in_nemo(tmp_path, name):
    model = sentencepieces()[name]
    assert differing(round_trip(nemo_bpe(tmp_path, model), tmp_path), partial(nemo_says, model)) == []


@pytest.mark.parametrize("name", sentencepieces())
def test_archives_of_nemo_1_0_decode_by_their_model(tmp_path, name):
    model = sentencepieces()[name]
    path = nemo_bpe(tmp_path, model, old_spelling(strings(model)))
    assert differing(round_trip(path, tmp_path), partial(nemo_says, model)) == []


@pytest.mark.parametrize("spelling", [list, old_spelling])
def test_lists_without_a_model_decode_as_the_model_did(tmp_path, spelling):
    model = sentencepieces()["bundled"]
    path = nemo_bpe(tmp_path, b"", spelling(strings(model)))
    assert differing(round_trip(path, tmp_path), partial(nemo_says, model)) == []


@pytest.mark.parametrize("name", CHARACTERS)
def test_characters_decode_verbatim(tmp_path, name):
    vocabulary = CHARACTERS[name]
    found = round_trip(nemo_characters(tmp_path, vocabulary), tmp_path)
    assert differing(found, lambda ids: closed_up("".join(vocabulary[i] for i in ids), vocabulary).strip()) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_hugging_face_tokenizers_decode_as_in_transformers(tmp_path, name):
    document = DOCUMENTS[name]
    found = round_trip(hugging_face(tmp_path / "folder", document), tmp_path)
    assert differing(found, transformers_of(document)) == []


def test_more_outputs_than_tokens_decode_as_in_transformers(tmp_path):
    """Resized vocabularies (transformers 33082)."""
    document = DOCUMENTS["whisper_with_more"]
    found = round_trip(hugging_face(tmp_path / "folder", document, outputs=640), tmp_path)
    assert differing(found, transformers_of(document)) == []


@pytest.mark.parametrize("name", ["quartznet", "jasper", "conformer", "whisper"])
def test_bundled_checkpoints_decode_as_the_originals(tmp_path, name):
    found = round_trip(bundled(name), tmp_path)
    original = {
        "quartznet": lambda ids: closed_up("".join(found.vocabulary[i] for i in ids), found.vocabulary).strip(),
        "conformer": partial(nemo_says, sentencepieces()["bundled"]),
        "whisper": transformers_of(bundled_whisper()),
    }
    assert differing(found, original.get(name, original["quartznet"])) == []


@pytest.mark.parametrize("name", ["whisper-tiny.en", "moonshine-tiny"])
def test_published_folders_decode_as_the_originals(published, tmp_path, name):
    folder = published(name)
    library = tokenizers.Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
    found = round_trip(folder, tmp_path)
    assert differing(found, lambda ids: library.decode(ids, skip_special_tokens=True).strip()) == []


def test_a_published_archive_decodes_as_the_original(shared, tmp_path):
    found = round_trip(shared / "data" / "models" / "conformer_ctc_small.nemo", tmp_path)
    assert differing(found, partial(nemo_says, found.content)) == []
    assert found.kind == "sentencepiece"


def test_a_tokenizer_file_is_hashed_like_every_other(tmp_path):
    found = round_trip(bundled("conformer"), tmp_path)
    moved = tmp_path / "moved"
    assert open_bundle(moved).sidecar.tokenizer == tokenizer_file(found)
    assert (moved / "tokenizer.model").read_bytes() == found.content == sentencepieces()["bundled"]
    (moved / "tokenizer.model").write_bytes(sentencepieces()["symbols"])
    with pytest.raises(BundleError, match=r"tokenizer\.model: sha256"):
        restore_tokenizer(open_bundle(moved))
    (moved / "tokenizer.model").unlink()
    with pytest.raises(BundleError, match=r"tokenizer\.model: missing"):
        restore_tokenizer(open_bundle(moved))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x", r"tokenizer\.model: not a SentencePiece"),
        (sentencepieces()["symbols"], r"vocabulary .*tokenizer\.model"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, content, words):
    class Other(CharTokenizer):
        kind = "sentencepiece"

    Other.content = content
    with pytest.raises(BundleError, match=words) as caught:
        restore_tokenizer(open_bundle(write_bundle(Other(("a", "b")), tmp_path / "b")))
    assert "compile the bundle again" in caught.value.repair


@pytest.mark.parametrize("old", [1, 2])
def test_a_bundle_of_an_older_format_is_to_be_compiled_again(tmp_path, old):
    folder = write_bundle(CharTokenizer(("a", "b")), tmp_path / "b")
    sidecar = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(sidecar | {"format": old}))
    with pytest.raises(BundleError, match="not a bundle of format 3") as caught:
        open_bundle(folder)
    assert "compile the bundle again" in caught.value.repair
