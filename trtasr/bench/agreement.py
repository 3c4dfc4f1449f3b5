"""How near an output is to the one it should be: SQNR, cosine similarity, and the share of tokens that agree."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from trtasr.results import TensorComparison
from trtasr.values import Array, FloatArray, IntArray


def sqnr_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two energies; infinite for no noise, minus infinity for noise without signal."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


@dataclass
class Noise:
    """A tensor against the one it should be, summed over utterances in float64.

    Attributes:
        signal: energy of what it should be; noise: of the difference.
    """

    signal: float = 0.0
    noise: float = 0.0

    def add(self, exact: Array, found: Array) -> None:
        """Count the tensor of one utterance in; both have one shape."""
        self.signal += float(np.square(exact, dtype=np.float64).sum())
        self.noise += float(np.square(exact.astype(np.float64) - found).sum())

    @property
    def sqnr_db(self) -> float:
        """SQNR in dB."""
        return sqnr_db(self.signal, self.noise)


@dataclass
class Scores(Noise):
    """Scores of tokens [positions, tokens] against those of the reference, summed over utterances.

    Attributes:
        same: positions with the same most likely token; positions: all of them.
    """

    same: int = 0
    positions: int = 0

    def add(self, exact: Array, found: Array, tokens: IntArray | None = None) -> None:
        """Count one utterance in.

        Args:
            exact: the reference's scores.
            found: this engine's, likewise.
            tokens: its most likely ones [positions], where `found` was rounded since; None: those of `found`.
        """
        super().add(exact, found)
        chosen = found.argmax(axis=-1) if tokens is None else tokens
        self.same += int(np.count_nonzero(exact.argmax(axis=-1) == chosen))
        self.positions += len(exact)

    @property
    def token_agreement(self) -> float:
        """Share of positions with the same most likely token, 0..1."""
        return self.same / self.positions


def scores(reference: Iterable[FloatArray], found: Iterable[FloatArray]) -> Scores:
    """Scores [positions, tokens] of all utterances against those of the reference."""
    total = Scores()
    for exact, other in zip(reference, found, strict=True):
        total.add(exact, other)
    return total


def output_sqnr(reference: Iterable[Array], found: Iterable[Array]) -> float:
    """SQNR in dB of a tensor over all utterances."""
    total = Noise()
    for exact, other in zip(reference, found, strict=True):
        total.add(exact, other)
    return total.sqnr_db


def compare_tensor(name: str, reference: Array, candidate: Array) -> TensorComparison:
    """SQNR, cosine similarity and largest difference of two float64 tensors of one shape."""
    error = Noise()
    error.add(reference, candidate)
    norms = math.sqrt(error.signal * float(np.sum(candidate**2)))
    return TensorComparison(
        tensor=name,
        sqnr_db=error.sqnr_db,
        cosine=float(np.sum(reference * candidate)) / norms if norms else float(error.noise == 0),
        max_abs=float(np.max(np.abs(reference - candidate))),
    )
