"""The tokenizer of a NeMo archive, by the class of the model and the ``tokenizer`` section, as NeMo chooses it."""

import logging
from collections.abc import Mapping
from typing import Any

from trtasr.errors import CheckpointError
from trtasr.text.tokens import CONTROL, UNKNOWN, WORD, CharTokenizer, SentencePieceTokenizer, Tokenizer, model_of

logger = logging.getLogger(__name__)
MODEL_SUFFIX, WORDS_SUFFIX = ".model", "vocab.txt"
CONTINUED = "##"
ARTIFACT = "nemo:"  # in front of the name of a member
MAX_BYTES = 16 * 2**20  # of all files that may belong to a tokenizer together
SAVE_AGAIN = "save the model again with NeMo's save_to, or download the archive again"


def is_tokenizer_file(name: str) -> bool:
    """Whether a member of an archive may belong to its tokenizer: NeMo puts a hash in front of the names."""
    return name.endswith((MODEL_SUFFIX, WORDS_SUFFIX))


def read_tokenizer(config: Mapping[str, Any], members: Mapping[str, bytes]) -> Tokenizer:
    """Ids -> text.

    Args:
        config: its ``target`` decides between characters (``EncDecCTCModel``) and pieces (``EncDecCTCModelBPE``).
        members: name -> content of the archive's members that `is_tokenizer_file` takes.

    Raises:
        CheckpointError: a tokenizer of another kind, a damaged one, or one whose size is not ``decoder.num_classes``.
    """
    if not str(config["target"]).endswith("BPE"):
        found: Tokenizer = CharTokenizer(listed(config))
    else:
        check_section(config)
        found = read_pieces(config, members)
    check_size(config, len(found.vocabulary))
    return found


def check_section(config: Mapping[str, Any]) -> None:
    """Refuse tokenizers whose tokens would be put together otherwise than NeMo does.

    Raises:
        CheckpointError: a WordPiece, aggregate or unknown tokenizer.
    """
    section = config.get("tokenizer")
    kind = section.get("type") if isinstance(section, dict) else section
    if kind is not None and str(kind).lower() != "bpe":
        raise CheckpointError(
            f"tokenizer.type: {kind!r:.80} is not supported",
            "use a model over characters or SentencePiece pieces (tokenizer.type: bpe)",
        )


def read_pieces(config: Mapping[str, Any], members: Mapping[str, bytes]) -> Tokenizer:
    """The archive's own SentencePiece model; where it is missing, one of the listed pieces.

    Raises:
        CheckpointError: the model is damaged, or there is neither model nor list.
    """
    name = member_of(config, members, "model_path", MODEL_SUFFIX)
    if name is None:
        logger.warning("the archive has no tokenizer.model: its list of pieces stands in, all of them taken for text")
    content = members[name] if name else model_of(listed_pieces(config, members))
    try:
        return SentencePieceTokenizer(content)
    except CheckpointError as error:
        raise CheckpointError(f"{name or 'decoder.vocabulary'}: {error.problem}", SAVE_AGAIN) from error


def member_of(config: Mapping[str, Any], members: Mapping[str, bytes], key: str, suffix: str) -> str | None:
    """Name of the member that a key of the ``tokenizer`` section names; without such a key the only one of its kind."""
    section = config.get("tokenizer")
    path = section.get(key) if isinstance(section, dict) else None
    if isinstance(path, str) and path.startswith(ARTIFACT):
        name = path.removeprefix(ARTIFACT)
        return name if name in members else None
    fitting = [name for name in members if name.endswith(suffix)]
    return fitting[0] if len(fitting) == 1 else None


def listed(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Tokens in id order, from ``decoder.vocabulary`` or, failing that, ``labels``.

    Raises:
        CheckpointError: there is none, or it is no list of strings.
    """
    vocabulary = config["decoder"].get("vocabulary") or config.get("labels")
    if not isinstance(vocabulary, list) or not vocabulary or not all(isinstance(token, str) for token in vocabulary):
        raise CheckpointError("decoder.vocabulary (or labels) is not a list of strings", SAVE_AGAIN)
    return tuple(vocabulary)


def listed_pieces(config: Mapping[str, Any], members: Mapping[str, bytes]) -> tuple[str, ...]:
    """Pieces in SentencePiece's spelling, from ``decoder.vocabulary`` or from ``vocab.txt``.

    ``vocab.txt``, and with it ``decoder.vocabulary`` in archives of NeMo 1.0 and before, has WordPiece's spelling:
    ``the`` and ``##s`` for ``\u2581the`` and ``s``.

    Raises:
        CheckpointError: there is neither.
    """
    name = member_of(config, members, "vocab_path", WORDS_SUFFIX)
    words = tuple(members[name].decode(errors="replace").removesuffix("\n").split("\n")) if name else ()
    if words and not config["decoder"].get("vocabulary"):
        return tuple(map(modern_piece, (UNKNOWN, *words)))
    tokens = listed(config)
    return tuple(map(modern_piece, tokens)) if tokens[1:] == words or is_old(tokens) else tokens


def is_old(tokens: tuple[str, ...]) -> bool:
    """Whether a list is in WordPiece's spelling: no piece starts a word by ``\u2581``, but some go on by ``##``.

    The bare ``\u2581`` is spelled so in both.
    """
    starts = any(token.startswith(WORD) and token != WORD for token in tokens)
    return not starts and any(token.startswith(CONTINUED) and token != CONTINUED for token in tokens)


def modern_piece(token: str) -> str:
    """A piece in WordPiece's spelling (``##s`` goes on with a word) in SentencePiece's."""
    if token.startswith(CONTINUED):
        return token.removeprefix(CONTINUED)
    return token if token in (WORD, UNKNOWN, *CONTROL) else WORD + token


def check_size(config: Mapping[str, Any], tokens: int) -> None:
    """Refuse a tokenizer of another size than the decoder.

    Raises:
        CheckpointError: naming both sizes.
    """
    classes = config["decoder"].get("num_classes", -1)
    if type(classes) is not int:
        raise CheckpointError(f"decoder.num_classes: {classes!r:.80}", "use the number of tokens, or leave it out")
    if 0 < classes != tokens:
        raise CheckpointError(
            f"the vocabulary has {tokens} tokens, decoder.num_classes is {classes}",
            "make them equal (the blank is not counted)",
        )
