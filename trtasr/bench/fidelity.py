"""The measure of fidelity: how far an engine's distributions over tokens, and its transcripts, are from FP32's."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from trtasr.bench.agreement import sqnr_db
from trtasr.results.fidelity import Fidelity
from trtasr.values import Array, FloatArray

LIMITS = {"high": 0.015, "max": 0.005, "fast": 0.015}  # of `loss`, by level
FLOOR = 1e-6  # nats^2, of the error of a position: smaller ones are all the same
NEAR = 0.0005  # of `loss`: as near to FP32 as `high` comes where its share of the work pays for it


def loss(together: Fidelity) -> float:
    """What the gate is about, and `LIMITS` limit: the mean KL divergence in nats over all positions of all probes."""
    return together.divergence


@dataclass(frozen=True)
class Tally:
    """Sums over positions; two of them add up.

    Attributes:
        positions: how many.
        signal: energy of FP32's scores; noise: of the difference.
        same: positions with the same most likely token; thin: those that a typical error would flip.
        divergence: sum of KL(FP32 || engine) in nats.
        tokens: of FP32's transcripts; errors: edits.
    """

    positions: int = 0
    signal: float = 0.0
    noise: float = 0.0
    same: int = 0
    thin: int = 0
    divergence: float = 0.0
    tokens: int = 0
    errors: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))

    def fidelity(self, kind: str) -> Fidelity:
        """The measures of a kind of probe."""
        count = max(1, self.positions)
        return Fidelity(
            kind,
            self.positions,
            sqnr_db(self.signal, self.noise),
            self.same / count,
            self.thin / count,
            self.divergence / count,
            self.tokens,
            self.errors,
        )


def tally(exact: FloatArray, found: FloatArray, said: Sequence[int], heard: Sequence[int]) -> Tally:
    """One utterance.

    The error of a difference of two scores at a position is sqrt(2) times the standard deviation of the error over all
    tokens there: what is added to all of them alike changes no distribution.

    Args:
        exact: FP32's scores (logits or log-probabilities) [positions, tokens].
        found: the engine's.
        said: FP32's greedy transcript, token ids.
        heard: the engine's.
    """
    reference, scores = exact.astype(np.float64), found.astype(np.float64)
    error = scores - reference
    largest = np.partition(reference, -2, axis=-1)[:, -2:]
    return Tally(
        positions=len(reference),
        signal=float(np.square(reference).sum()),
        noise=float(np.square(error).sum()),
        same=int(np.count_nonzero(reference.argmax(-1) == scores.argmax(-1))),
        thin=int(np.count_nonzero(largest[:, 1] - largest[:, 0] < math.sqrt(2) * error.std(-1))),
        divergence=float(divergences(reference, scores).sum()),
        tokens=len(said),
        errors=edits(said, heard),
    )


def typical_error(exact: Iterable[FloatArray], found: Iterable[FloatArray]) -> float:
    """How far an engine moves the scores of a typical position: the geometric mean over positions, in nats^2.

        exp(mean_t log(e_t + 1e-6)) - 1e-6,    e_t = mean_v (d_tv - mean_v d_tv)^2

    with d_tv the engine's error of token v's score at position t; what is added to all tokens of a position changes no
    distribution. An arithmetic mean is that of a few positions, where a token moves by one frame, or where a signal is
    unlike anything that the network knows: they are others on speech. What all the rest have is the same on speech, and
    on every signal: it ranks layers alike whatever the seed (docs/ablation.md, What ranks layers as speech does).

    Args:
        exact: FP32's scores (logits or log-probabilities) of every utterance, [positions, tokens].
        found: the engine's.
    """
    errors = [
        (scores.astype(np.float64) - reference).var(axis=-1) for reference, scores in zip(exact, found, strict=True)
    ]
    every = np.concatenate(errors) if errors else np.zeros(0)
    return float(np.expm1(np.log1p(every / FLOOR).mean()) * FLOOR) if every.size else 0.0


def total(tallies: Iterable[Tally]) -> Tally:
    """The sum of all."""
    return sum(tallies, Tally())


def divergences(exact: Array, found: Array) -> Array:
    """KL(p || q) in nats of each position: sum p (log p - log q), p = softmax(exact), q = softmax(found)."""
    log_p, log_q = log_softmax(exact), log_softmax(found)
    return np.asarray((np.exp(log_p) * (log_p - log_q)).sum(-1))


def log_softmax(scores: Array) -> Array:
    """Log-probabilities over the last axis."""
    shifted = scores - scores.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def edits(reference: Sequence[int], found: Sequence[int]) -> int:
    """Levenshtein distance: the fewest insertions, deletions and substitutions."""
    row = list(range(len(found) + 1))
    for place, token in enumerate(reference, 1):
        before, row[0] = row[0], place
        for index, other in enumerate(found, 1):
            before, row[index] = row[index], min(row[index] + 1, row[index - 1] + 1, before + (token != other))
    return row[-1]
