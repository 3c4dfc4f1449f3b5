"""FP32 against quantized for an encoder-decoder: each graph through Polygraphy, and tokens through both graphs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trtasr.engine.compare import REPAIR, Feed, Files, compare_tensor, feature_inputs, polygraphy_command, run_both
from trtasr.engine.sessions import load_model, open_session
from trtasr.errors import QualityError
from trtasr.results import Comparison, TensorComparison
from trtasr.values import Array, FloatArray, IntArray

Outputs = Sequence[Mapping[str, Array]]  # of each utterance
ENCODER, DECODER = "encoder", "decoder"
MOST_BYTES = 24_000_000  # of one encoder's outputs over all compared utterances


@dataclass(frozen=True)
class Dictated:
    """What two encoder-decoders are compared on.

    Attributes:
        feeds: features float32 [1, rows, T] and lengths int64 [1] of one utterance each.
        tokens: of each utterance, int64 [L], the prompt included.
        kind: ``audio`` or ``synthetic``.
    """

    feeds: Sequence[Feed]
    tokens: Sequence[IntArray]
    kind: str


def compare_pair(
    reference: Path, candidate: Path, spoken: Dictated, out_dir: Path, labels: tuple[str, str]
) -> Comparison:
    """Run both graphs of two encoder-decoders on the same inputs and save what Polygraphy loads again.

    The decoder is judged on given tokens (teacher forcing), all of an utterance at once: by itself, from the keys and
    values of the FP32 encoder, and behind its own encoder; the latter gives the share of tokens that agree.

    Args:
        reference: FP32 encoder graph; its decoder lies beside it.
        candidate: quantized encoder graph, likewise.
        spoken: what they are fed.
        out_dir: the bundle; gets ``comparison_inputs.json`` and ``comparison.json`` of the encoder, and
            ``comparison_decoder_inputs.json`` and ``comparison_decoder.json``.
        labels: of reference and candidate.

    Raises:
        UsageError: nothing to compare. QualityError: NaN or infinity in an output.
        MissingError: Polygraphy is not installed.
    """
    encoders, decoders = (reference, candidate), (decoder_beside(reference), decoder_beside(candidate))
    encoder_files, decoder_files = Files(out_dir), named(out_dir, DECODER)
    size = vocabulary_size(decoders[0])
    kept = affordable(reference, feature_inputs(spoken.feeds))
    encoded = run_both(encoders, kept, labels, encoder_files)
    own = [
        [decoder_inputs(found, ids, size) for found, ids in zip(side, spoken.tokens, strict=False)] for side in encoded
    ]
    logits = run_both(decoders, own[0], labels, decoder_files)
    exact = rows_of(logits[0], "logits")
    chained = np.concatenate(run_graph(decoders[1], own[1]))
    commands = (polygraphy_command(*encoders, encoder_files), polygraphy_command(*decoders, decoder_files))
    return Comparison(
        reference=labels[0],
        candidate=labels[1],
        tensors=(judged("encoded", encoded, labels), judged("logits", logits, labels)),
        token_agreement=float(np.mean(exact.argmax(axis=1) == chained.argmax(axis=1))),
        frames=len(exact),
        features=spoken.kind,
        command=" && ".join(commands),
        results_file=encoder_files.results,
        unit="tokens",
    )


def affordable(encoder: Path, inputs: Sequence[Mapping[str, Array]]) -> list[Mapping[str, Array]]:
    """As many utterances as `MOST_BYTES` of keys and values hold, one at least: all of them are written as JSON."""
    session = open_session(encoder)
    kept: list[Mapping[str, Array]] = []
    used = 0
    for item in inputs:
        used += sum(value.nbytes for value in session.run(None, dict(item)))
        if kept and used > MOST_BYTES:
            break
        kept.append(item)
    return kept


def decoder_beside(encoder: Path) -> Path:
    """``decoder.*`` beside ``encoder.*``."""
    return encoder.with_name(DECODER + encoder.name.removeprefix(ENCODER))


def named(folder: Path, graph: str) -> Files:
    """The files of one graph's comparison."""
    return Files(
        folder, f"comparison_{graph}_inputs.json", f"comparison_{graph}.json", f"comparison_{graph}_reference.json"
    )


def vocabulary_size(decoder: Path) -> int:
    """Tokens of a decoder graph's vocabulary."""
    inputs = {value.name: value.type.tensor_type.shape for value in load_model(decoder, weights=False).graph.input}
    return int(inputs["token_bias"].dim[0].dim_value)


def decoder_inputs(encoded: Mapping[str, Array], tokens: IntArray, vocabulary: int) -> dict[str, Array]:
    """Inputs of a decoder graph that reads all tokens, [L] or [B, L], at once behind an encoder's outputs."""
    crosses = {name: value for name, value in encoded.items() if name.startswith("cross_")}
    pasts = {name.replace("cross_", "past_"): value[:, :, :0] for name, value in crosses.items()}
    positions = encoded["positions"]
    return {
        "tokens": tokens.reshape(len(positions), -1),
        "positions": positions,
        "token_bias": np.zeros(vocabulary, np.float32),
        **crosses,
        **pasts,
    }


def run_graph(decoder: Path, inputs: Sequence[Mapping[str, Array]]) -> list[FloatArray]:
    """Logits [L, V] of each utterance, by ONNX Runtime."""
    session = open_session(decoder)
    return [session.run(["logits"], dict(item))[0][0] for item in inputs]


def rows_of(outputs: Outputs, name: str) -> npt.NDArray[np.float64]:
    """An output [1, L, n] of every utterance, one behind the other: [sum of L, n]."""
    return np.concatenate([found[name][0].astype(np.float64) for found in outputs])


def judged(name: str, outputs: Sequence[Outputs], labels: tuple[str, str]) -> TensorComparison:
    """One output of both sides.

    Raises:
        QualityError: NaN or infinity.
    """
    first, second = (rows_of(side, name) for side in outputs)
    for values, label in zip((first, second), labels, strict=True):
        if not np.isfinite(values).all():
            raise QualityError(f"{name} of {label} holds NaN or infinity", REPAIR)
    return compare_tensor(name, first, second)
