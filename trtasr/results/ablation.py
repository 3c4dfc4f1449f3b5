"""What an ablation compared: settings of the quantizer, each over several calibration sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trtasr.results.speech import WerResult


class Setting(NamedTuple):
    """One line of the ablation's table.

    Attributes:
        features: ``synthetic``, ``noise`` or ``audio``.
        correction: of the weights, by name.
        weight_bits: 8, or fewer (simulated).
        weight_group: input columns that share a scale; 0: one scale per output channel.
    """

    features: str
    correction: str
    weight_bits: int
    weight_group: int = 0


@dataclass(frozen=True)
class Scored:
    """What one setting makes of the speech, calibrated once.

    Attributes:
        wer: percent over all evaluation sets (CER where that is judged), None where the transcripts are useless.
        disagreement: words (characters) that differ from FP32's transcripts, in percent of these; None likewise. It
            has less noise than a difference of WERs, where errors that come and errors that go cancel.
        agreement: percent of frames whose most likely token is that of FP32: steadier than WER, which a handful of
            words moves.
        sqnr_db: of the log-probabilities on speech.
        sets: name of each evaluation set, where there are several -> `wer` there.
    """

    wer: float | None
    disagreement: float | None
    agreement: float
    sqnr_db: float
    sets: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One setting over all seeds; figures as `Scored` has them, one per seed.

    Attributes:
        features, correction, weight_bits, weight_group: the `Setting`.
        weight_only: activations stayed in floating point.
        wer, disagreement, agreement, sqnr_db: per seed.
        sets: evaluation set -> `wer` there per seed.
    """

    features: str
    correction: str
    weight_bits: int
    weight_group: int
    weight_only: bool
    wer: tuple[float | None, ...]
    disagreement: tuple[float | None, ...]
    agreement: tuple[float, ...]
    sqnr_db: tuple[float, ...]
    sets: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)

    @property
    def setting(self) -> Setting:
        """Which line of the table it is."""
        return Setting(self.features, self.correction, self.weight_bits, self.weight_group)

    @property
    def weights(self) -> str:
        """``W4A8``; with activations in floating point ``W4, weights only``, with groups ``W4 g128, weights only``."""
        if not self.weight_only:
            return f"W{self.weight_bits}A8"
        return f"W{self.weight_bits}{f' g{self.weight_group}' if self.weight_group else ''}, weights only"


@dataclass(frozen=True)
class Ablation:
    """The table, whole or as far as it is.

    Attributes:
        reference: what FP32 makes of all evaluation sets; sets: its rate on each of them, where there are several.
        settings: all that the cells depend on, in JSON types: others do not go on from these.
        cells: in the order of the table.
    """

    reference: WerResult
    sets: Mapping[str, float]
    settings: Mapping[str, Any]
    cells: tuple[Cell, ...]


def cell_of(setting: Setting, weight_only: bool, scored: Sequence[Scored]) -> Cell:
    """The cell of a setting from its scores, one per seed; every score has the same evaluation sets."""
    return Cell(
        *setting,
        weight_only,
        tuple(item.wer for item in scored),
        tuple(item.disagreement for item in scored),
        tuple(item.agreement for item in scored),
        tuple(item.sqnr_db for item in scored),
        {name: tuple(item.sets[name] for item in scored) for name in scored[0].sets},
    )
