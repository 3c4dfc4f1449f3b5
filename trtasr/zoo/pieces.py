"""The SentencePiece pieces of the Conformer: ``python -m trtasr.zoo.pieces --out trtasr/zoo`` makes them again."""

import argparse
import io
import logging
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import sentencepiece

from trtasr.text.tokens import WORD
from trtasr.zoo.grammar import sample

logger = logging.getLogger(__name__)
HERE = Path(__file__).resolve().parent
MODEL, VOCABULARY = "tokenizer.model", "tokenizer.vocab"
PIECES = 128
SENTENCES = 20_000


def train_pieces(count: int = PIECES, sentences: int = SENTENCES, seed: int = 0) -> bytes:
    """Byte-pair pieces of sampled sentences; the same arguments give the same SentencePiece model.

    Args:
        count: pieces, the unknown piece (id 0) included.
        sentences: drawn from the grammar.
        seed: of the drawing.
    """
    rng, model = random.Random(seed), io.BytesIO()  # noqa: S311
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([sample(rng) for _ in range(sentences)]),
        model_writer=model,
        model_type="bpe",
        vocab_size=count,
        character_coverage=1.0,
        normalization_rule_name="identity",
        bos_id=-1,
        eos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def write_pieces(out: Path) -> None:
    """Write the SentencePiece model and, as text, its pieces in id order with their scores."""
    content = train_pieces()
    processor = sentencepiece.SentencePieceProcessor(model_proto=content)
    lines = [f"{processor.id_to_piece(index)}\t{processor.get_score(index):g}\n" for index in range(len(processor))]
    (out / MODEL).write_bytes(content)
    (out / VOCABULARY).write_text("".join(lines))


@cache
def pieces() -> tuple[str, ...]:
    """The committed pieces in id order."""
    return tuple(line.split("\t")[0] for line in (HERE / VOCABULARY).read_text().splitlines())


def word_pieces(vocabulary: tuple[str, ...]) -> str:
    """NeMo's ``vocab.txt``: every piece but the unknown one, ``##`` in front of those that continue a word.

    The bare ``\u2581``, of which nothing would be left, stays.
    """
    words = (piece[1:] or piece if piece.startswith(WORD) else f"##{piece}" for piece in vocabulary[1:])
    return "".join(f"{word}\n" for word in words)


def piece_encoder() -> Callable[[str], list[int]]:
    """Text -> ids of the committed pieces."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(HERE / MODEL))
    return lambda text: [int(index) for index in processor.encode(text)]


def main() -> None:
    """Make both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help=f"folder for {MODEL} and {VOCABULARY}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out = parser.parse_args().out
    write_pieces(out)
    logger.info("%s: %d bytes", out / MODEL, (out / MODEL).stat().st_size)


if __name__ == "__main__":
    main()
