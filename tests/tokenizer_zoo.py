"""Checkpoints with every kind of tokenizer, and what the original libraries make of their tokens."""

import io
import json
import re
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import sentencepiece
import tokenizers
import torch
from golden import whisper_configs
from nemo_archive import MODULES, archive, config, member
from recognizers import recognizer
from whisper_folder import DECODER, FLAGS, weights, write_folder

from trtasr.zoo.pieces import HERE

BPE = "nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE"
MODEL = "0123456789abcdef_tokenizer.model"
SENTENCES = ["one two three.", "the dogs' house, twenty-one ones", "what? no! caf\u00e9 na\u00efve", "a b c d e f"] * 20
MOONSHINE = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
TIMESTAMP = re.compile(r"<\|(\d+\.\d+)\|>")  # WhisperTokenizer.timestamp_pat of transformers


@cache
def trained(**options: object) -> bytes:
    """A SentencePiece model, trained in a moment."""
    model = io.BytesIO()
    usual = {
        "model_type": "bpe",
        "vocab_size": 60,
        "hard_vocab_limit": False,
        "num_threads": 1,
        "minloglevel": 2,
        "bos_id": -1,
        "eos_id": -1,
    }
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(SENTENCES), model_writer=model, **usual | options)
    return model.getvalue()


def sentencepieces() -> dict[str, bytes]:
    """Models with every type of piece and option that changes decoding."""
    return {
        "bundled": (HERE / "tokenizer.model").read_bytes(),
        "bytes": trained(byte_fallback=True, vocab_size=330),
        "symbols": trained(user_defined_symbols="<|en|>,<|de|>,##", control_symbols="<lang>,[noise]"),
        "sentence_ends": trained(bos_id=1, eos_id=2, pad_id=3),
        "unigram": trained(model_type="unigram", vocab_size=50),
        "whitespace_kept": trained(add_dummy_prefix=False, remove_extra_whitespaces=False),
        "suffixes": trained(treat_whitespace_as_suffix=True),
        "unknown_as_text": trained(unk_surface="?"),
    }


@cache
def strings(model: bytes) -> list[str]:
    """Pieces of a model in id order."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(index) for index in range(len(processor))]


def old_spelling(pieces: list[str]) -> list[str]:
    """NeMo 1.0's ``decoder.vocabulary``: the unknown piece, then the lines of ``vocab.txt``."""
    words = [piece.removeprefix("\u2581") if piece.startswith("\u2581") else f"##{piece}" for piece in pieces[1:]]
    return [pieces[0], *(word or "\u2581" for word in words)]


def nemo_bpe(folder: Path, model: bytes, vocabulary: list[str] | None = None, **members: bytes) -> Path:
    """An archive over pieces.

    Args:
        folder: where it is written.
        model: ``tokenizer.model``; empty: the archive has none.
        vocabulary: ``decoder.vocabulary``; None: the model's pieces.
        members: more files of it.
    """
    listed = strings(model) if vocabulary is None else vocabulary
    settings = config(target=BPE, tokenizer={"dir": "bpe", "type": "bpe", "model_path": f"nemo:{MODEL}"})
    settings["decoder"] |= {"vocabulary": listed, "num_classes": len(listed)}
    extra = [member(f"./{name}", data) for name, data in ({MODEL: model} | members).items() if data]
    return archive(folder, settings, extra=extra)


def nemo_characters(folder: Path, vocabulary: list[str]) -> Path:
    """An archive over characters."""
    settings = config(labels=vocabulary)
    settings["decoder"] = {"_target_": MODULES + "ConvASRDecoder", "feat_in": 8, "vocabulary": vocabulary}
    return archive(folder, settings)


def with_added(document: dict, *tokens: tuple[str, bool]) -> dict:
    """``tokenizer.json`` with more added tokens: (text, special)."""
    first = 1 + max([*document["model"]["vocab"].values(), *(token["id"] for token in document["added_tokens"])])
    added = [
        FLAGS | {"id": first + place, "content": text, "special": special}
        for place, (text, special) in enumerate(tokens)
    ]
    return document | {"added_tokens": [*document["added_tokens"], *added]}


def bundled_whisper() -> dict:
    """``tokenizer.json`` of the bundled Whisper."""
    return json.loads((HERE / "whisper" / "tokenizer.json").read_bytes())


def like_moonshine() -> dict:
    """A ``tokenizer.json`` as Moonshine has it: SentencePiece's spelling, bytes for what is in no piece."""
    pieces = ["<unk>", "<s>", "</s>", *BYTES, "\u2581", "\u2581the", "\u2581\u2581", "er", "caf\u00e9", "<<ST_7>>"]
    model = {
        "type": "BPE",
        "unk_token": "<unk>",
        "fuse_unk": True,
        "byte_fallback": True,
        "merges": [],
        "vocab": {piece: index for index, piece in enumerate(pieces)},
    }
    added = [FLAGS | {"id": index, "content": pieces[index], "special": True} for index in range(3)]
    return with_added(
        {"version": "1.0", "added_tokens": added, "decoder": MOONSHINE, "model": model},
        ("<<ST_0>>", True),
        ("<<ST_1>>", True),
        ("\u2581new word", False),
    )


def byte_level(pieces: list[str]) -> dict:
    """A ``tokenizer.json`` of byte-level pieces, without added tokens."""
    model = {"type": "BPE", "vocab": {piece: index for index, piece in enumerate(pieces)}, "merges": []}
    return {"version": "1.0", "added_tokens": [], "model": model, "decoder": DECODER}


def hugging_face(folder: Path, document: dict | None, outputs: int = 0, **files: object) -> Path:
    """A folder of Whisper with this ``tokenizer.json``, and as many outputs as it has tokens, or more."""
    size = outputs or tokenizers.Tokenizer.from_str(json.dumps(document)).get_vocab_size()
    settings = whisper_configs.config(vocab_size=size, decoder_start_token_id=0, eos_token_id=1, pad_token_id=1)
    rules = {"decoder_start_token_id": 0, "eos_token_id": 1}
    state = {**weights(), "model.decoder.embed_tokens.weight": torch.zeros(size, settings["d_model"])}
    return write_folder(folder, state, tokenizer=document, config=settings, generation_config=rules, **files)


@cache
def _processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def nemo_says(model: bytes, ids: list[int]) -> str:
    """Text of pieces as NeMo 3.0.0 makes it: ids to pieces, SentencePiece's own decoding, punctuation."""
    processor, pieces = _processor(model), strings(model)
    return closed_up(processor.decode_pieces([pieces[index] for index in ids]), pieces).strip()


def closed_up(text: str, vocabulary: list[str]) -> str:
    """The rule of ``AbstractCTCDecoding`` for punctuation, told character by character."""
    plain = [
        token
        for token in vocabulary
        if token.strip()
        and not token.startswith(("##", "\u2581"))
        and not (token[0] + token[-1] in ("<>", "[]") and len(token) > 1)
    ]
    marks = {mark for token in plain for mark in token if unicodedata.category(mark)[0] == "P"}
    behind = [*text[1:], ""][: len(text)]
    return "".join(now for now, then in zip(text, behind, strict=True) if not (now.isspace() and then in marks))


def transformers_of(document: dict) -> Callable[[list[int]], str]:
    """Ids -> text as ``WhisperTokenizer.decode(ids, skip_special_tokens=True)`` of transformers makes it."""
    library = tokenizers.Tokenizer.from_str(json.dumps(document))
    return lambda ids: TIMESTAMP.sub("", library.decode(ids, skip_special_tokens=True)).strip()


def spoken(checkpoint, ids: list[int]) -> str:
    """What the product prints where a model says these tokens."""
    read = recognizer(checkpoint, None).decode
    if checkpoint.generation:
        return read(np.array([ids], np.int64), np.array([len(ids)]))[0]
    blank = len(checkpoint.vocabulary)
    frames = np.array([frame for token in ids for frame in (token, blank)], np.int64)
    log_probs = np.full((1, len(frames), blank + 1), -9.0, np.float32)
    log_probs[0, np.arange(len(frames)), frames] = 0.0
    return read(log_probs, np.array([len(frames)]))[0]
