"""Speech that is measured on, and how well it was recognized."""

from dataclasses import dataclass

from trtasr.values import FloatArray


@dataclass(frozen=True)
class Utterance:
    """One evaluated utterance, in NeMo's manifest vocabulary; duration in seconds.

    Attributes:
        text: reference transcript, pred_text: recognized transcript; both as given.
        reference: `text`, hypothesis: `pred_text`; both normalized: what is scored.
        dataset: name of the evaluation set that it is from.
    """

    audio_filepath: str
    duration: float
    text: str
    pred_text: str
    reference: str
    hypothesis: str
    dataset: str = ""


@dataclass(frozen=True)
class Score:
    """Word and character error rate of transcripts.

    Attributes:
        wer: in percent.
        words: reference words; errors: substitutions + deletions + insertions; hits: words that are right.
        cer: in percent.
        characters: of the references, spaces between words counted where `spaced`; character_errors: likewise.
        spaced: the references have spaces between words, so that WER is what is judged; else CER is.
    """

    wer: float
    words: int
    errors: int
    hits: int
    cer: float
    characters: int
    character_errors: int
    spaced: bool

    @property
    def measure(self) -> str:
        """``WER``, or ``CER`` for languages without spaces between words: what gates and differences are about."""
        return "WER" if self.spaced else "CER"

    @property
    def rate(self) -> float:
        """That rate in percent."""
        return self.wer if self.spaced else self.cer

    @property
    def units(self) -> int:
        """What that rate is a share of: reference words, or characters."""
        return self.words if self.spaced else self.characters


@dataclass(frozen=True)
class WerResult(Score):
    """What one engine made of all evaluation sets together, or of one of them.

    Attributes:
        utterances: per utterance, in the order of the manifests.
        normalizer: name and version of the text normalizer applied to both sides.
        batch: utterances per run.
        work_seconds: wall time of the acoustic model alone, over all manifests.
    """

    utterances: tuple[Utterance, ...]
    normalizer: str
    batch: int = 1
    work_seconds: float = 0.0


@dataclass(frozen=True)
class PairedDifference:
    """How far an engine is from FP32 on the same utterances, in WER (CER where that is judged).

    Attributes:
        dataset: name of the evaluation set; empty: all sets together.
        utterances: number of them; units: words (characters) of their references.
        reference: rate of FP32, rate: of the engine; both in percent.
        delta: the latter minus the former, in percentage points.
        interval: 95 % interval of `delta`.
        detectable: smallest true difference in points that these utterances would show with a power of 80 %.
        disagreement: errors of the engine's transcripts where FP32's are the references, in percent of FP32's words
            (characters); needs no reference transcript.
    """

    dataset: str
    utterances: int
    units: int
    reference: float
    rate: float
    delta: float
    interval: tuple[float, float]
    detectable: float
    disagreement: float


@dataclass(frozen=True)
class Prepared:
    """One manifest line with its features.

    Attributes:
        audio_filepath: as in the manifest.
        duration: seconds.
        text: reference transcript, not yet normalized, not empty.
        features: float32 [mel, T].
        frames: valid frames, at most T.
        dataset: name of the evaluation set that it is from.
    """

    audio_filepath: str
    duration: float
    text: str
    features: FloatArray
    frames: int
    dataset: str = ""
