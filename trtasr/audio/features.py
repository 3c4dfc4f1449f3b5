"""NeMo's log-mel front-end in torch: waveform -> normalized log-mel features.

Follows ``AudioToMelSpectrogramPreprocessor`` / ``FilterbankFeatures`` of NeMo 3.0 at inference (dither 0). Every
config key that changes inference is a field of `FrontendConfig`; keys that only matter in training are accepted and
ignored; unknown keys are refused.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
import torch

from trtasr.audio.stored import StoredBuffers
from trtasr.errors import CheckpointError
from trtasr.values import FloatArray

STD_GUARD = 1e-5  # NeMo's CONSTANT: added to the standard deviation before dividing
TRAINING_ONLY = {
    "_target_",
    "dither",
    "rng",
    "nb_augmentation_prob",
    "nb_max_freq",
    "stft_exact_pad",
    "stft_conv",
    "use_torchaudio",
    "use_grads",
    "max_duration",
}
WINDOWS = {
    "hann": torch.hann_window,
    "hamming": torch.hamming_window,
    "blackman": torch.blackman_window,
    "bartlett": torch.bartlett_window,
}
MAX_FFT = 2**15
# Far above any published model, and what half a minute of audio can take:
MAX_FRAMES = 1000  # a second
MAX_OVERLAP = 64  # strides in a transform
# Bounds, both included, far above any published model: an archive may come from anywhere and must not claim memory.
INTEGERS = {
    "sample_rate": (1, 10**6),
    "features": (1, 512),
    "frame_splicing": (1, 64),
    "pad_to": (0, 4096),
    "n_window_size": (0, MAX_FFT),
    "n_window_stride": (0, MAX_FFT),
    "n_fft": (0, MAX_FFT),
}
NUMBERS = {
    "lowfreq": (0, 10**6),
    "highfreq": (0, 10**6),
    "preemph": (-1, 1),
    "mag_power": (0, 16),
    "pad_value": (-(10**6), 10**6),
    "window_size": (0, 60),
    "window_stride": (0, 60),
}
OPTIONAL = {"n_window_size", "n_window_stride", "n_fft", "highfreq", "preemph"}


@dataclass(frozen=True)
class FrontendConfig:
    """Parameters of the log-mel front-end, named as in NeMo.

    Attributes:
        sample_rate: Hz.
        window_size: seconds; window_stride likewise. ``n_window_size`` and ``n_window_stride`` (samples) win over them.
        window: ``hann``, ``hamming``, ``blackman``, ``bartlett`` (symmetric) or ``none``.
        normalize: ``per_feature``, ``all_features`` or anything else for none.
        n_fft: transform length; None: the next power of two of the window.
        preemph: pre-emphasis coefficient; None: none.
        features: mel bins.
        lowfreq: lower edge of the mel bank in Hz; highfreq: upper edge, None: Nyquist.
        log_zero_guard_type: ``add`` or ``clamp``; log_zero_guard_value: a number, ``tiny`` or ``eps``.
        pad_to: frames are padded to a multiple of this; 0: no padding.
        pad_mode: padding of the centred transform, ``constant`` (NeMo since its padding fix) or ``reflect`` (before).
        mag_power: exponent of the magnitude spectrum.
        stored: mel bank and window of the checkpoint, which win over the computed ones. No key of NeMo.
    """

    sample_rate: int = 16000
    window_size: float = 0.02
    window_stride: float = 0.01
    n_window_size: int | None = None
    n_window_stride: int | None = None
    window: str = "hann"
    normalize: str | None = "per_feature"
    n_fft: int | None = None
    preemph: float | None = 0.97
    features: int = 64
    lowfreq: float = 0
    highfreq: float | None = None
    log: bool = True
    log_zero_guard_type: str = "add"
    log_zero_guard_value: float | str = 2**-24
    pad_to: int = 16
    frame_splicing: int = 1
    exact_pad: bool = False
    pad_value: float = 0
    mag_power: float = 2.0
    mel_norm: str | None = "slaney"
    pad_mode: str = "constant"
    stored: StoredBuffers | None = None

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> "FrontendConfig":
        """Read a NeMo ``preprocessor`` section.

        Raises:
            CheckpointError: unknown key, or a value this front-end cannot honour.
        """
        known = {f.name for f in fields(cls)} - {"stored"}
        unknown = sorted(map(str, set(config) - known - TRAINING_ONLY))
        if unknown:
            raise CheckpointError(
                f"preprocessor: unknown keys {', '.join(unknown)}",
                f"remove them or use only {', '.join(sorted(known))}",
            )
        frontend = cls(**{k: v for k, v in config.items() if k in known})
        frontend.check()
        return frontend

    def check(self) -> None:
        """Refuse values that would give features other than NeMo's.

        Raises:
            CheckpointError: naming the key.
        """
        allowed: list[tuple[str, Any, tuple[Any, ...]]] = [
            ("window", self.window, (*WINDOWS, "none")),
            ("log_zero_guard_type", self.log_zero_guard_type, ("add", "clamp")),
            ("pad_mode", self.pad_mode, ("constant", "reflect")),
            ("mel_norm", self.mel_norm, ("slaney", None)),
        ]
        for key, value, choices in allowed:
            if value not in choices:
                listed = ", ".join(map(str, choices))
                raise CheckpointError(f"preprocessor.{key}: {value!r:.80}", f"use one of {listed}")
        for key in ("log", "exact_pad"):
            if not isinstance(getattr(self, key), bool):
                raise CheckpointError(f"preprocessor.{key}: {getattr(self, key)!r:.80}", "use true or false")
        if not isinstance(self.normalize, str | None):
            raise CheckpointError(f"preprocessor.normalize: {self.normalize!r:.80}", "use per_feature or all_features")
        self.check_numbers()
        self.check_sizes()
        if self.stored:
            self.stored.check((self.features, self.fft_length // 2 + 1), self.win_length)

    def check_numbers(self) -> None:
        """Refuse values of the wrong type or out of bounds.

        Raises:
            CheckpointError: naming the key.
        """
        for key, (low, high) in (INTEGERS | NUMBERS).items():
            value, kinds = getattr(self, key), (int,) if key in INTEGERS else (int, float)
            unused = key in ("window_size", "window_stride") and getattr(self, f"n_{key}")
            if unused or (value is None and key in OPTIONAL):
                continue
            if type(value) not in kinds or not low <= value <= high:
                kind = "an integer" if key in INTEGERS else "a number"
                raise CheckpointError(f"preprocessor.{key}: {value!r:.80}", f"use {kind} from {low} to {high}")
        guard = self.log_zero_guard_value
        if guard not in ("tiny", "eps") and (type(guard) not in (int, float) or not 0 <= cast(float, guard) <= 1):
            raise CheckpointError(
                f"preprocessor.log_zero_guard_value: {guard!r:.80}", "use a number from 0 to 1, tiny or eps"
            )

    def check_sizes(self) -> None:
        """Refuse sizes that no transform can have.

        Raises:
            CheckpointError: naming the key.
        """
        for key, samples in (("window_size", self.win_length), ("window_stride", self.hop_length)):
            if not 1 <= samples <= MAX_FFT:
                raise CheckpointError(
                    f"preprocessor.{key}: gives {samples} samples",
                    f"set {key} (seconds) or n_{key} (1 to {MAX_FFT} samples)",
                )
        if self.frames_per_second > MAX_FRAMES:
            raise CheckpointError(
                f"preprocessor.window_stride: gives {self.frames_per_second:g} frames a second",
                f"use at most {MAX_FRAMES}",
            )
        if self.fft_length > MAX_OVERLAP * self.hop_length:
            raise CheckpointError(
                f"preprocessor.n_fft: {self.fft_length} samples, a stride of {self.hop_length}",
                f"use at most {MAX_OVERLAP} strides",
            )
        if self.fft_length < self.win_length:
            raise CheckpointError(f"preprocessor.n_fft: {self.n_fft!r}", f"use at least the window, {self.win_length}")
        if self.exact_pad and self.hop_length > self.fft_length:
            raise CheckpointError(
                f"preprocessor.exact_pad: the stride has {self.hop_length} samples",
                f"use a stride of at most n_fft, {self.fft_length}",
            )
        if self.lowfreq >= (self.highfreq or self.sample_rate / 2):
            raise CheckpointError(f"preprocessor.lowfreq: {self.lowfreq!r}", "use less than highfreq")

    @property
    def rows(self) -> int:
        """Rows of the feature matrix: mel bins times spliced frames."""
        return self.features * self.frame_splicing

    @property
    def win_length(self) -> int:
        """Window in samples."""
        return self.n_window_size or int(self.window_size * self.sample_rate)

    @property
    def hop_length(self) -> int:
        """Stride in samples."""
        return self.n_window_stride or int(self.window_stride * self.sample_rate)

    @property
    def fft_length(self) -> int:
        """Transform length in samples."""
        return self.n_fft or int(2 ** math.ceil(math.log2(self.win_length)))

    @property
    def frames_per_second(self) -> float:
        """Feature frames per second of audio."""
        return self.sample_rate / self.hop_length


def mel_bank(config: FrontendConfig) -> FloatArray:
    """Slaney-scale triangular mel bank, float32 [mel, n_fft // 2 + 1].

    The Auditory Toolbox scale (linear below 1 kHz, logarithmic above) with area normalization, as
    ``librosa.filters.mel`` computes it; NeMo calls that function.
    """
    high = config.highfreq or config.sample_rate / 2
    edges = mel_to_hz(np.linspace(hz_to_mel(config.lowfreq), hz_to_mel(high), config.features + 2))
    bins = np.fft.rfftfreq(config.fft_length, 1 / config.sample_rate)
    ramps = edges[:, None] - bins[None, :]
    widths = np.diff(edges)
    rising = -ramps[:-2] / widths[:-1, None]
    falling = ramps[2:] / widths[1:, None]
    bank = np.maximum(0, np.minimum(rising, falling))
    if config.mel_norm == "slaney":
        bank *= (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return cast(FloatArray, bank.astype(np.float32))


LINEAR_HZ_PER_MEL = 200.0 / 3
LOG_START_HZ = 1000.0
LOG_START_MEL = LOG_START_HZ / LINEAR_HZ_PER_MEL
LOG_STEP = math.log(6.4) / 27.0


def hz_to_mel(hz: float) -> float:
    """Slaney's mel scale: linear below 1 kHz, logarithmic above."""
    if hz < LOG_START_HZ:
        return hz / LINEAR_HZ_PER_MEL
    return LOG_START_MEL + math.log(hz / LOG_START_HZ) / LOG_STEP


def mel_to_hz(mel: np.typing.NDArray[np.float64]) -> np.typing.NDArray[np.float64]:
    """The frequencies of mels, Hz."""
    linear = mel * LINEAR_HZ_PER_MEL
    logarithmic = LOG_START_HZ * np.exp(LOG_STEP * (mel - LOG_START_MEL))
    return np.where(mel < LOG_START_MEL, linear, logarithmic)


def window(config: FrontendConfig) -> FloatArray:
    """Window of the configuration's kind, float32 [window in samples]."""
    maker = WINDOWS.get(config.window)
    values = maker(config.win_length, periodic=False) if maker else torch.ones(config.win_length)
    return cast(FloatArray, values.numpy())


class MelFrontend:
    """Waveform -> features, with the window and the mel bank as stored, else computed once.

    Args:
        config: front-end parameters.
    """

    def __init__(self, config: FrontendConfig) -> None:
        config.check()
        self.config = config
        stored = config.stored or StoredBuffers()
        self.window = torch.from_numpy(window(config) if stored.window is None else stored.window)
        self.bank = torch.from_numpy(mel_bank(config) if stored.bank is None else stored.bank)

    def __call__(self, audio: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of a zero-padded batch.

        Args:
            audio: float32 [B, samples] in -1..1 at ``config.sample_rate``.
            lengths: int64 [B], valid samples.

        Returns:
            features float32 [B, mel * frame_splicing, T] and valid frames int64 [B] (samples // hop).
        """
        cfg = self.config
        frames = self.frames(lengths)
        spectrum = self._power_spectrum(self._preemphasize(audio, lengths))
        x = self.bank @ spectrum
        if cfg.log:
            x = self._log(x)
        if cfg.frame_splicing > 1:
            x = torch.cat([x] * cfg.frame_splicing, dim=1)  # NeMo's splice_frames repeats the same frame
        x = normalize(x, frames, cfg.normalize)
        padding = torch.arange(x.shape[-1]) >= frames[:, None]
        x = x.masked_fill(padding[:, None], cfg.pad_value)
        extra = -x.shape[-1] % cfg.pad_to if cfg.pad_to else 0
        return torch.nn.functional.pad(x, (0, extra), value=cfg.pad_value), frames

    def frames(self, lengths: torch.Tensor) -> torch.Tensor:
        """Valid frames int64 [B] for valid samples int64 [B]."""
        cfg = self.config
        pad = 2 * ((cfg.fft_length - cfg.hop_length) // 2) if cfg.exact_pad else 2 * (cfg.fft_length // 2)
        frames = torch.div(lengths + pad - cfg.fft_length, cfg.hop_length, rounding_mode="floor")
        return torch.where(lengths == 0, torch.zeros_like(frames), frames).clamp(min=0).long()

    def _preemphasize(self, audio: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        cfg = self.config
        if cfg.exact_pad:
            pad = (cfg.fft_length - cfg.hop_length) // 2
            audio = torch.nn.functional.pad(audio, (pad, pad))
        if cfg.preemph is None:
            return audio
        emphasized = torch.cat((audio[:, :1], audio[:, 1:] - cfg.preemph * audio[:, :-1]), dim=1)
        beyond = torch.arange(audio.shape[1]) >= lengths[:, None]
        return emphasized.masked_fill(beyond, 0.0)

    def _power_spectrum(self, audio: torch.Tensor) -> torch.Tensor:
        cfg = self.config
        audio = self._lengthened(audio)
        stft = torch.stft(
            audio,
            cfg.fft_length,
            cfg.hop_length,
            cfg.win_length,
            self.window,
            not cfg.exact_pad,
            cfg.pad_mode,
            return_complex=True,
        )
        magnitude = torch.view_as_real(stft).pow(2).sum(-1).sqrt()
        return magnitude if cfg.mag_power == 1.0 else magnitude.pow(cfg.mag_power)

    def _lengthened(self, audio: torch.Tensor) -> torch.Tensor:
        """Audio too short to be reflected (or to fill one uncentred transform) with zeros up to the transform length.

        Valid frames then see zeros after the audio, exactly as in a batch with a longer utterance.
        """
        cfg = self.config
        reflected = cfg.fft_length // 2 + 1 if cfg.pad_mode == "reflect" else 0
        needed = cfg.fft_length if cfg.exact_pad else reflected
        short = audio.shape[1] < needed
        return torch.nn.functional.pad(audio, (0, cfg.fft_length - audio.shape[1])) if short else audio

    def _log(self, x: torch.Tensor) -> torch.Tensor:
        value = self.config.log_zero_guard_value
        guard = getattr(torch.finfo(x.dtype), value) if isinstance(value, str) else value
        return torch.log(x + guard) if self.config.log_zero_guard_type == "add" else torch.log(x.clamp(min=guard))


def normalize(x: torch.Tensor, frames: torch.Tensor, mode: str | None) -> torch.Tensor:
    """Mean 0, standard deviation 1 over the valid frames.

    Args:
        x: log-mel [B, mel, T].
        frames: valid frames [B].
        mode: ``per_feature`` (each mel bin alone), ``all_features`` (whole spectrogram), else unchanged.

    Returns:
        [B, mel, T]; (x - mean) / (std + 1e-5) with the unbiased standard deviation (0 for a single frame).
    """
    if mode not in ("per_feature", "all_features"):
        return x
    valid = (torch.arange(x.shape[-1]) < frames[:, None])[:, None]
    dims = [2] if mode == "per_feature" else [1, 2]
    count = frames[:, None, None] * (1 if mode == "per_feature" else x.shape[1])
    mean = torch.where(valid, x, 0.0).sum(dims, keepdim=True) / count
    square = torch.where(valid, x - mean, 0.0).pow(2).sum(dims, keepdim=True)
    std = torch.sqrt(square / (count - 1.0)).nan_to_num(0.0)
    return (x - mean) / (std + STD_GUARD)
