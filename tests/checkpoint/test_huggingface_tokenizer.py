"""Which files of a Hugging Face folder say how tokens become text."""

import pytest
from golden import whisper_configs
from tokenizer_zoo import bundled_whisper, hugging_face, spoken, with_added
from whisper_folder import DECODER, FLAGS, refused, tokenizer_json, write_folder

from trtasr.checkpoint.read import read_checkpoint

PIECES = whisper_configs.vocabulary()


def old_folder(path, **files):
    """``vocab.json`` and ``added_tokens.json`` instead of ``tokenizer.json``."""
    words = {piece: index for index, piece in enumerate(PIECES[:89])}
    added = {piece: index for index, piece in enumerate(PIECES) if 89 <= index < 95}
    return write_folder(path, tokenizer=None, **{"vocab": words, "added_tokens": added} | files)


def test_an_added_token_does_not_change_how_others_are_spelled(tmp_path):
    """transformers 33082 and 27583: ``\u2581foo``, not special, and more outputs than tokens."""
    document = with_added(bundled_whisper(), ("\u2581foo", False), ("caf\u00e9", False), ("<|note|>", True))
    checkpoint = read_checkpoint(hugging_face(tmp_path, document, outputs=640))
    ids = checkpoint.vocabulary.index
    said = [ids("\u0120one"), ids("\u0120two"), ids("\u2581foo"), ids("<|note|>"), ids("caf\u00e9"), 639]
    assert spoken(checkpoint, said) == "one two\u2581foocaf\u00e9"


def test_special_is_what_the_file_says_not_what_looks_so(tmp_path):
    """transformers PR 33508: added tokens with ``special: false`` are text."""
    document = with_added(bundled_whisper(), ("<|laughs|>", False), ("noise", True))
    checkpoint = read_checkpoint(hugging_face(tmp_path, document))
    ids = checkpoint.vocabulary.index
    said = [ids("\u0120one"), ids("<|laughs|>"), ids("noise"), ids("\u0120two")]
    assert spoken(checkpoint, said) == "one<|laughs|> two"


def test_vocabulary_of_older_folders(tmp_path):
    checkpoint = read_checkpoint(old_folder(tmp_path))
    assert checkpoint.vocabulary[:95] == PIECES[:95]
    assert checkpoint.vocabulary[95:] == ("<|unused 95|>", "<|unused 96|>")
    assert spoken(checkpoint, [0, 90, 95, 1]) == "w0 w1"


@pytest.mark.parametrize(
    "files",
    [
        {"special_tokens_map": {"eos_token": PIECES[89], "additional_special_tokens": [PIECES[90]]}},
        {
            "special_tokens_map": {
                "eos_token": {"content": PIECES[89]},
                "additional_special_tokens": [{"content": PIECES[90]}],
            }
        },
        {
            "tokenizer_config": {
                "eos_token": PIECES[89],
                "added_tokens_decoder": {
                    "90": {"content": PIECES[90], "special": True},
                    "91": {"content": PIECES[91], "special": False},
                },
            }
        },
    ],
)
def test_older_folders_say_elsewhere_which_tokens_are_special(tmp_path, files):
    checkpoint = read_checkpoint(old_folder(tmp_path, **files))
    assert spoken(checkpoint, [0, 89, 90, 91, 1]) == f"w0{PIECES[91]} w1"


def test_ids_of_older_folders_stay_where_there_are_gaps(tmp_path):
    none = {"additional_special_tokens": []}
    checkpoint = read_checkpoint(old_folder(tmp_path, added_tokens={"<|a|>": 91, "x": 95}, special_tokens_map=none))
    assert (checkpoint.vocabulary[91], checkpoint.vocabulary[95]) == ("<|a|>", "x")
    assert spoken(checkpoint, [0, 91, 95, 90]) == "w0<|a|>x"


def test_more_tokens_than_outputs(tmp_path):
    model = {"type": "BPE", "vocab": {f"\u2581w{index}": index for index in range(120)}, "merges": []}
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    checkpoint = read_checkpoint(write_folder(tmp_path, tokenizer={"model": model, "decoder": metaspace}))
    assert checkpoint.vocabulary == tuple(f"\u2581w{index}" for index in range(97))
    assert spoken(checkpoint, [0, 96]) == "w0 w96"


def test_pieces_with_scores_are_refused_and_files_bounded(tmp_path):
    scored = {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0], ["b", -2.0]]}}
    assert "BPE" in refused(write_folder(tmp_path / "a", tokenizer=scored), "Unigram").repair
    refused(write_folder(tmp_path / "b", tokenizer=b" " * (2**24 + 1)), r"tokenizer\.json: .* more than 16 MiB")


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"vocab": {"a": "0"}}},
        {"model": {"vocab": {"a": -1}}},
        {"model": {"vocab": {"a": 2**60}}},
        {"model": {"vocab": {"a": True}}},
        {"model": {"vocab": "abc"}},
        {"model": {}},
        {"model": []},
        {},
        {"model": {"vocab": [1, 2]}},
        {"model": {"vocab": [["a"], []]}},
        {"model": {"vocab": [[1, 0.0]]}},
        tokenizer_json() | {"added_tokens": [{"id": 3}]},
        tokenizer_json() | {"added_tokens": "x"},
        tokenizer_json() | {"added_tokens": [FLAGS | {"id": 3, "content": "x", "special": True}]},
        tokenizer_json() | {"decoder": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}},
        tokenizer_json() | {"decoder": "ByteLevel"},
        b"",
        b"{",
        b"\xff\xfe",
        {"model": {"type": "BPE", "vocab": {"a": 500}, "merges": []}, "decoder": DECODER},
    ],
)
def test_tokenizers_of_another_form(tmp_path, content):
    refused(write_folder(tmp_path, tokenizer=content), "tokenizer.json")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"vocab": {"a": "0"}}, r"vocab\.json: 'a' .*'0'"),
        ({"vocab": {"a": -1}}, r"vocab\.json"),
        ({"vocab": {"a": 2**40}}, r"vocab\.json"),
        ({"vocab": {"a": True}}, r"vocab\.json"),
        ({"vocab": b"[]"}, r"vocab\.json"),
        ({"added_tokens": {"x": 1.5}}, r"added_tokens\.json"),
        ({"vocab": {}, "added_tokens": {}}, r"vocab\.json: no string"),
    ],
)
def test_older_files_of_another_form(tmp_path, files, words):
    refused(old_folder(tmp_path, **files), words)


def test_a_folder_without_tokenizer(tmp_path):
    refused(write_folder(tmp_path, tokenizer=None), "no tokenizer.json and no vocab.json")
