"""Mean of a tensor's channels, added up over utterances."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trtasr.values import FloatArray


@dataclass
class Means:
    """Sums over positions.

    Attributes:
        channels: C.
        first: whether channels are the first axis of the tensor, as convolutions read them; else the last.
        count: positions so far.
    """

    channels: int
    first: bool
    count: int = 0

    def __post_init__(self) -> None:
        self._total = np.zeros(self.channels)

    def add(self, values: FloatArray) -> None:
        """Count the values of one utterance in, [C, ...] or [..., C]."""
        rows = values.reshape(self.channels, -1).T if self.first else values.reshape(-1, self.channels)
        self.count += len(rows)
        self._total += rows.sum(0, dtype=np.float64)

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """E[x], [C]; zero before anything was seen."""
        return self._total / max(1, self.count)
