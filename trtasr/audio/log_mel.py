"""Whisper's log-mel front-end: waveform -> log-mel scaled by the loudest bin.

Follows ``log_mel_spectrogram`` of the original (Radford et al. 2022, arXiv 2212.04356, section 2.2) and
``WhisperFeatureExtractor`` of transformers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trtasr.audio.features import FrontendConfig, mel_bank
from trtasr.errors import CheckpointError

SMALLEST_POWER = 1e-10
DYNAMIC_RANGE = 8.0  # log10 units below the loudest bin that are kept
BOUNDS = {
    "sample_rate": (1, 10**6),
    "features": (1, 512),
    "n_fft": (2, 2**15),
    "hop_length": (1, 2**15),
    "pad_seconds": (0, 3600),
}
NAMES = {"sample_rate": "sampling_rate", "features": "feature_size", "pad_seconds": "chunk_length"}  # Hugging Face's
LONGEST_PADDING = 2**26  # samples
UPPER_EDGE = 8000.0  # Hz, whatever the sample rate


@dataclass(frozen=True)
class LogMelConfig:
    """Parameters of Whisper's front-end.

    Attributes:
        sample_rate: Hz.
        features: mel bins.
        n_fft: transform length and window in samples; hop_length: stride in samples.
        pad_seconds: audio is padded with silence to this length, as pretrained models expect; 0: its own length.
    """

    sample_rate: int = 16000
    features: int = 80
    n_fft: int = 400
    hop_length: int = 160
    pad_seconds: int = 0

    def check(self) -> None:
        """Refuse values out of bounds.

        Raises:
            CheckpointError: naming the key.
        """
        for key, (low, high) in BOUNDS.items():
            value = getattr(self, key)
            if type(value) is not int or not low <= value <= high:
                raise CheckpointError(
                    f"preprocessor_config.json: {NAMES.get(key, key)} = {value!r:.80}",
                    f"use an integer from {low} to {high}",
                )
        if self.pad_seconds * self.sample_rate > LONGEST_PADDING:
            raise CheckpointError(
                f"preprocessor_config.json: chunk_length = {self.pad_seconds} s",
                f"use at most {LONGEST_PADDING} samples",
            )

    @property
    def rows(self) -> int:
        """Rows of the feature matrix: mel bins."""
        return self.features

    @property
    def frames_per_second(self) -> float:
        """Feature frames per second of audio."""
        return self.sample_rate / self.hop_length


class LogMelFrontend:
    """Waveform -> features, with the window and the mel bank computed once.

    Args:
        config: front-end parameters.
    """

    def __init__(self, config: LogMelConfig) -> None:
        config.check()
        self.config = config
        self.window = torch.hann_window(config.n_fft)
        self.bank = torch.from_numpy(
            mel_bank(
                FrontendConfig(
                    sample_rate=config.sample_rate, n_fft=config.n_fft, features=config.features, highfreq=UPPER_EDGE
                )
            )
        )

    def __call__(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features of a zero-padded batch; each utterance as it would be alone.

        Args:
            audio: float32 [B, samples] in -1..1 at ``config.sample_rate``.
            lengths: int64 [B], valid samples.

        Returns:
            features float32 [B, mel, T], zero beyond the valid frames, and valid frames int64 [B] (samples // hop, or
            those of ``pad_seconds``).
        """
        items = [self.utterance(row[: int(count)]) for row, count in zip(audio, lengths, strict=True)]
        frames = torch.tensor([item.shape[1] for item in items])
        features = torch.zeros(len(items), self.config.features, max(int(frames.max()), 1))
        for row, item in zip(features, items, strict=True):
            row[:, : item.shape[1]] = item
        return features, frames

    def utterance(self, samples: Tensor) -> Tensor:
        """log10 of the mel power, clipped at 8 below its maximum, (x + 4) / 4: float32 [samples] -> [mel, T]."""
        cfg = self.config
        whole = cfg.pad_seconds * cfg.sample_rate
        if whole:
            samples = torch.nn.functional.pad(samples, (0, whole - len(samples)))  # a negative amount cuts
        frames = len(samples) // cfg.hop_length
        if frames == 0:
            return samples.new_zeros(cfg.features, 0)
        short = max(0, cfg.n_fft // 2 + 1 - len(samples))  # what is reflected at the ends must exist
        spectrum = torch.stft(
            torch.nn.functional.pad(samples, (0, short)),
            cfg.n_fft,
            cfg.hop_length,
            window=self.window,
            return_complex=True,
        )
        power = self.bank @ spectrum[:, :frames].abs().square()
        log_mel = power.clamp(min=SMALLEST_POWER).log10()
        return (torch.maximum(log_mel, log_mel.max() - DYNAMIC_RANGE) + 4.0) / 4.0
