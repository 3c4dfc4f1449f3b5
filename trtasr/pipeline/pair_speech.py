"""An encoder-decoder on speech, token by given token: what FP32 says, and how likely others find it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from trtasr.engine.compare import Observe
from trtasr.engine.compare_pair import decoder_beside, decoder_inputs, vocabulary_size
from trtasr.engine.sessions import expose, open_session
from trtasr.network.pair_run import PairRunner, Texts, decoding
from trtasr.values import Array, FloatArray, IntArray

Feed = tuple[FloatArray, IntArray]
Spoken = Sequence[tuple[Feed, IntArray]]  # features [1, rows, T] with lengths [1], and tokens [L]


def spoken_tokens(encoder: Path, pairs: Sequence[Feed], texts: Texts) -> list[tuple[Feed, IntArray]]:
    """Each utterance with what an encoder-decoder says to it: prompt and greedy tokens, int64 [L]."""
    with decoding(encoder, texts) as found:
        run = PairRunner(found, texts)
        return [(feed, run.said(*feed)) for feed in pairs]


def decoder_observer(encoder: Path, names: Sequence[str], tokens: Iterable[IntArray]) -> Observe:
    """Inner tensors of a decoder graph behind its own encoder, with given tokens.

    Args:
        encoder: ONNX file; its decoder lies beside it.
        names: tensors of the decoder.
        tokens: of the utterances, in the order in which they are observed.
    """
    first, decoder, given = open_session(encoder), decoder_beside(encoder), iter(tokens)
    second, size = open_session(expose(decoder, names), folder=decoder.parent), vocabulary_size(decoder)
    encoded = [output.name for output in first.get_outputs()]

    def observe(features: FloatArray, lengths: IntArray) -> Mapping[str, Array]:
        found = dict(zip(encoded, first.run(encoded, {"features": features, "lengths": lengths}), strict=True))
        return dict(zip(names, second.run(list(names), decoder_inputs(found, next(given), size)), strict=True))

    return observe


def pair_logits(encoder: Path, spoken: Spoken) -> list[FloatArray]:
    """Logits [L, V] of every utterance, with the given tokens read at once, by ONNX Runtime."""
    first, second = open_session(encoder), open_session(decoder_beside(encoder))
    names, size = [output.name for output in first.get_outputs()], vocabulary_size(decoder_beside(encoder))
    found = []
    for (features, lengths), tokens in spoken:
        encoded = dict(zip(names, first.run(names, {"features": features, "lengths": lengths}), strict=True))
        found.append(np.asarray(second.run(["logits"], decoder_inputs(encoded, tokens, size))[0][0]))
    return found
