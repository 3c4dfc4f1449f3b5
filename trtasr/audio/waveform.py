"""Moonshine's front-end: the waveform itself.

Follows ``Wav2Vec2FeatureExtractor`` of transformers with ``do_normalize: false``, as Moonshine's
``preprocessor_config.json`` has it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trtasr.errors import CheckpointError

MAX_RATE = 10**6
SHORTEST = 895  # samples that Moonshine's convolutions (127 wide, 7 and 3 frames) need for one encoder position


@dataclass(frozen=True)
class WaveformConfig:
    """Parameters of a front-end that leaves the waveform as it is.

    Attributes:
        sample_rate: Hz.
    """

    sample_rate: int = 16000

    def check(self) -> None:
        """Refuse values out of bounds.

        Raises:
            CheckpointError: naming the key.
        """
        if type(self.sample_rate) is not int or not 1 <= self.sample_rate <= MAX_RATE:
            raise CheckpointError(
                f"preprocessor_config.json: sampling_rate = {self.sample_rate!r:.80}",
                f"use an integer from 1 to {MAX_RATE}",
            )

    @property
    def rows(self) -> int:
        """Rows of the feature matrix: one."""
        return 1

    @property
    def frames_per_second(self) -> float:
        """Feature frames per second of audio: its samples."""
        return self.sample_rate


class WaveformFrontend:
    """Waveform -> features: one row of samples.

    Args:
        config: front-end parameters.
    """

    def __init__(self, config: WaveformConfig) -> None:
        config.check()
        self.config = config

    def __call__(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features of a zero-padded batch; each utterance as it would be alone.

        Args:
            audio: float32 [B, samples] in -1..1 at ``config.sample_rate``.
            lengths: int64 [B], valid samples.

        Returns:
            features float32 [B, 1, samples], zero beyond the valid samples, and valid samples int64 [B]. An utterance
            below `SHORTEST` samples (56 ms) goes on as silence up to there.
        """
        padded = torch.nn.functional.pad(audio, (0, max(0, SHORTEST - audio.shape[1])))
        beyond = torch.arange(padded.shape[1]) >= lengths[:, None]
        return padded.masked_fill(beyond, 0.0)[:, None], lengths.clamp(min=SHORTEST)
