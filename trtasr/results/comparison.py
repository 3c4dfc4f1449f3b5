"""FP32 against an engine on the same inputs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorComparison:
    """FP32 against quantized, one output tensor.

    Attributes:
        tensor: output name.
        sqnr_db: 10 log10(sum ref^2 / sum (ref - test)^2), over valid frames.
        cosine: cosine similarity over valid frames.
        max_abs: largest absolute difference.
    """

    tensor: str
    sqnr_db: float
    cosine: float
    max_abs: float


@dataclass(frozen=True)
class Comparison:
    """A Polygraphy comparison judged by SNR, cosine and tokens.

    Attributes:
        reference: label of the FP32 runner; candidate likewise.
        tensors: per compared tensor.
        token_agreement: share of valid frames with the same argmax, 0..1.
        frames: valid frames compared.
        features: ``audio`` or ``synthetic``: what was fed.
        command: the equivalent `polygraphy run` command line.
        results_file: Polygraphy RunResults JSON, relative to the bundle.
        unit: what `frames` counts: ``frames``, or ``tokens`` of an encoder-decoder.
    """

    reference: str
    candidate: str
    tensors: tuple[TensorComparison, ...]
    token_agreement: float
    frames: int
    features: str
    command: str
    results_file: str
    unit: str = "frames"


@dataclass(frozen=True)
class Control:
    """One calibration method's result through the same Q/DQ graph.

    Attributes:
        label: method in words.
        wer: in percent, CER where that is judged; None when the transcripts were useless.
        disagreement: with FP32's transcripts, in percent of their words; None likewise.
        sqnr_db: of the log-probabilities against FP32, in dB.
    """

    label: str
    wer: float | None
    disagreement: float | None
    sqnr_db: float
