"""How faithful an engine is to FP32 on probe signals: what it does to the distributions that text is read from."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fidelity:
    """An engine's scores of tokens against those of FP32, of one kind of probe or of all together.

    Attributes:
        kind: of the probes; empty for all together.
        positions: frames, or tokens that a decoder has read.
        sqnr_db: of the scores.
        agreement: share of positions with the same most likely token, 0..1.
        thin: share of positions whose margin in FP32, between the two most likely tokens, is smaller than the error of
            such a difference there: flips that are to be expected.
        divergence: mean KL(FP32 || engine) of the distributions over tokens, in nats.
        tokens: of FP32's greedy transcripts; token_errors: edits between them and the engine's.
    """

    kind: str
    positions: int
    sqnr_db: float
    agreement: float
    thin: float
    divergence: float
    tokens: int
    token_errors: int

    @property
    def token_error_rate(self) -> float:
        """Edits per token of FP32's transcripts; per one token where there is none."""
        return self.token_errors / max(1, self.tokens)


@dataclass(frozen=True)
class Judged:
    """The fidelity of one target's quantized graphs, as ONNX Runtime runs them.

    Attributes:
        target: name of it; level: ``high``, ``max`` or ``fast``.
        loss: what the gate is about: mean KL divergence in nats over all probes; limit: how much of it may be.
        together: of all probes; kinds: of each kind.
        harm: layer that was left in floating point for a goal -> dB that its typical error lies
            below 1 nat^2 when it alone is INT8 (`trtasr.bench.fidelity.typical_error`).
    """

    target: str
    level: str
    loss: float
    limit: float
    together: Fidelity
    kinds: tuple[Fidelity, ...]
    harm: Mapping[str, float] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether the gate holds."""
        return self.loss <= self.limit
