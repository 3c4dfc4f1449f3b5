"""The tokenizer of a Hugging Face folder: ``tokenizer.json``, or byte-level BPE from the files of older folders."""

from collections.abc import Iterable
from typing import Any

import tokenizers

from trtasr.checkpoint.folder import AGAIN, Folder
from trtasr.errors import CheckpointError
from trtasr.text.huggingface import HuggingFaceTokenizer
from trtasr.text.tokens import Tokenizer

TOKENIZER, VOCABULARY, ADDED = "tokenizer.json", "vocab.json", "added_tokens.json"
DECLARED = ("special_tokens_map.json", "tokenizer_config.json")  # where older folders say which tokens are special
LISTS = ("additional_special_tokens", "extra_special_tokens")
MAX_VOCABULARY = 2**20
MAX_BYTES = 16 * 2**20  # of tokenizer.json, for which the library takes seconds; Whisper's has 2 to 4 MB


def read_tokenizer(folder: Folder, outputs: int) -> Tokenizer:
    """Ids -> text.

    Args:
        folder: with ``tokenizer.json``, or with ``vocab.json`` (and ``merges.txt``, which decoding does not need).
        outputs: of the model; there may be more or fewer tokens.

    Raises:
        CheckpointError: no tokenizer, or one of another form.
    """
    if folder.has(TOKENIZER):
        name, content = TOKENIZER, folder.file(TOKENIZER, MAX_BYTES).read_bytes()
    elif folder.has(VOCABULARY):
        name, content = VOCABULARY, byte_level(folder)
    else:
        raise CheckpointError(f"no {TOKENIZER} and no {VOCABULARY}", "save the tokenizer (or processor) there too")
    try:
        found = HuggingFaceTokenizer(content, outputs)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error.problem}", error.repair) from error
    if not found.strings:
        raise CheckpointError(f"{name}: no string for any of {outputs} tokens", AGAIN)
    return found


def byte_level(folder: Folder) -> bytes:
    """``tokenizer.json`` of a folder that has only ``vocab.json``, by the definition of that file: byte-level BPE.

    Raises:
        CheckpointError: another form.
    """
    added = numbered(folder.optional(ADDED) or {}, ADDED)
    made = tokenizers.Tokenizer(tokenizers.models.BPE(numbered(folder.json(VOCABULARY), VOCABULARY) | added, []))
    made.decoder = tokenizers.decoders.ByteLevel()
    special = special_tokens(folder, added)
    made.add_special_tokens([token for token in added if token in special])
    made.add_tokens([token for token in added if token not in special])
    return str(made.to_str()).encode()


def numbered(tokens: dict[str, Any], name: str) -> dict[str, int]:
    """A mapping of token strings to ids, checked.

    Raises:
        CheckpointError: another form.
    """
    for text, token in tokens.items():
        if type(token) is not int or not 0 <= token < MAX_VOCABULARY:
            raise CheckpointError(f"{name}: {text!r:.80} has the id {token!r:.80}", AGAIN)
    return tokens


def special_tokens(folder: Folder, added: Iterable[str]) -> set[str]:
    """The added tokens that are special: those that a file declares; all of them where no file lists any."""
    files = [folder.optional(name) or {} for name in DECLARED]
    lists = [found[key] for found in files for key in LISTS if key in found]
    decoders = [found["added_tokens_decoder"] for found in files if isinstance(found.get("added_tokens_decoder"), dict)]
    if not lists and not decoders:
        return set(added)
    named = [value for found in files for key, value in found.items() if key.endswith("_token")]
    listed = [token for tokens in lists if isinstance(tokens, list) for token in tokens]
    flagged = [
        token
        for tokens in decoders
        for token in tokens.values()
        if isinstance(token, dict) and token.get("special") is True
    ]
    return {text for token in (*named, *listed, *flagged) if (text := text_of(token)) is not None}


def text_of(token: Any) -> str | None:
    """String of a declared token, which may be an object with it as ``content``."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
