"""Speech that is measured on, and how well it was recognized."""

from dataclasses import dataclass

from trtasr.values import FloatArray


@dataclass(frozen=True)
class Utterance:
    """One evaluated utterance, in NeMo's manifest vocabulary; duration in seconds.

    Attributes:
        text: reference transcript, pred_text: recognized transcript; both as given.
        reference: `text`, hypothesis: `pred_text`; both normalized: what is scored.
    """

    audio_filepath: str
    duration: float
    text: str
    pred_text: str
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class WerResult:
    """Word and character error rate of one engine on one manifest.

    Attributes:
        wer: in percent.
        words: reference words; errors: substitutions + deletions + insertions; hits: words that are right.
        cer: in percent.
        characters: of the references, spaces between words counted where `spaced`; character_errors: likewise.
        spaced: the references have spaces between words, so that WER is what is judged; else CER is.
        utterances: per utterance, in manifest order.
        normalizer: name and version of the text normalizer applied to both sides.
        batch: utterances per run.
        work_seconds: wall time of the acoustic model alone, over the whole manifest.
    """

    wer: float
    words: int
    errors: int
    hits: int
    cer: float
    characters: int
    character_errors: int
    spaced: bool
    utterances: tuple[Utterance, ...]
    normalizer: str
    batch: int = 1
    work_seconds: float = 0.0

    @property
    def measure(self) -> str:
        """``WER``, or ``CER`` for languages without spaces between words: what gates and differences are about."""
        return "WER" if self.spaced else "CER"

    @property
    def rate(self) -> float:
        """That rate in percent."""
        return self.wer if self.spaced else self.cer


@dataclass(frozen=True)
class Prepared:
    """One manifest line with its features.

    Attributes:
        audio_filepath: as in the manifest.
        duration: seconds.
        text: reference transcript, not yet normalized, not empty.
        features: float32 [mel, T].
        frames: valid frames, at most T.
    """

    audio_filepath: str
    duration: float
    text: str
    features: FloatArray
    frames: int
