"""Mean and covariance of a tensor's channels, added up over utterances, and a sample of its positions."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trtasr.values import FloatArray

SAMPLED = 16  # positions of an utterance, at least, where it has as many

Doubles = npt.NDArray[np.float64]


@dataclass
class Moments:
    """Sums over positions.

    Attributes:
        channels: C.
        first: whether channels are the first axis of the tensor, as convolutions read them; else the last.
        second: whether products of channels are added up too, 8 C^2 bytes, and some positions are kept.
        count: positions so far.
    """

    channels: int
    first: bool
    second: bool = False
    count: int = 0

    def __post_init__(self) -> None:
        self._total = np.zeros(self.channels)
        self._products = np.zeros((self.channels, self.channels) if self.second else (0, 0))
        self._sample: list[FloatArray] = []
        self._near = np.zeros(self.channels if self.second else 0, np.float32)

    def add(self, values: FloatArray) -> None:
        """Count the values of one utterance in, [C, ...] or [..., C]."""
        rows = values.reshape(self.channels, -1).T if self.first else values.reshape(-1, self.channels)
        self.count += len(rows)
        self._total += rows.sum(0, dtype=np.float64)
        if self.second and len(rows):
            if not self._sample:
                self._near = rows.mean(0)  # sums of squares about it keep their digits where a mean is large
            about = rows - self._near
            self._products += about.T @ about
            self._sample.append(rows[:: max(1, len(rows) // SAMPLED)].copy())

    @property
    def mean(self) -> Doubles:
        """E[x], [C]; zero before anything was seen."""
        return self._total / max(1, self.count)

    @property
    def sample(self) -> FloatArray:
        """Positions at equal distances in each utterance, [N, C]; of one with `second` that has seen something."""
        return np.concatenate(self._sample)

    @property
    def covariance(self) -> Doubles:
        """E[(x - E[x]) (x - E[x])^T], [C, C], the diagonal at least 0; of one with `second`."""
        off = self.mean - self._near
        found = self._products / max(1, self.count) - np.outer(off, off)
        np.fill_diagonal(found, np.maximum(np.diagonal(found), 0))
        return np.asarray(found)
