"""Synthetic calibration features: inputs whose batch-norm statistics match the training data (Q-ASR).

Method: "Integer-only Zero-shot Quantization for Efficient Speech Recognition" (arXiv 2103.16827). The variable is the
encoder input, normalized log-mel [B, mel, T]; no audio is involved.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from trtasr.errors import CheckpointError, QualityError
from trtasr.values import CalibrationSet

logger = logging.getLogger(__name__)

VARIANCE_GUARD = 1e-6  # added to both variances, as in the authors' code
PLATEAU_PATIENCE = 12  # steps without a new best loss before a batch is done
PLATEAU_IMPROVEMENT = 5e-3  # smaller relative gains count as none
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # instructions, as torch names them; the last one is Arm's


@dataclass(frozen=True)
class SynthesisSettings:
    """How much synthetic data, and how hard to optimize it.

    Attributes:
        batches: independent batches.
        batch_size: utterances per batch.
        frames: length of each utterance in feature frames.
        steps: most Adam steps per batch; a plateau ends a batch earlier.
        learning_rate: of Adam on the features.
        seed: of the random start.
        bfloat16: run the network in bfloat16 autocast where the CPU has instructions for it; statistics and loss stay
            float32.
    """

    batches: int = 6
    batch_size: int = 4
    frames: int = 400
    steps: int = 30
    learning_rate: float = 0.05
    seed: int = 0
    bfloat16: bool = True


def gaussian_kl(target_mean: Tensor, target_std: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(N(mu, s^2) || N(m, t^2)), elementwise; zero where both agree.

    log(t / s) - 1/2 (1 - (s^2 + (mu - m)^2) / t^2), with mu, s the stored and m, t the batch statistics [C].
    """
    ratio = (target_std**2 + (target_mean - mean) ** 2) / std**2
    return torch.log(std / target_std) - 0.5 * (1 - ratio)


def synthesize(model: nn.Module, mel_bins: int, settings: SynthesisSettings) -> CalibrationSet:
    """Optimize features so that every batch norm sees the statistics it stored in training.

    The loss is the sum over batch norms of the channel mean of `gaussian_kl` on each layer's input, over batch and
    time. Each batch starts from `speech_shaped_noise` (the paper: uniform noise in -0.3..0.3) and is optimized alone by
    Adam with a learning rate that falls on a plateau; memory is bounded by one batch.

    Args:
        model: eval-mode network with `nn.BatchNorm1d` layers, called as ``model(features, lengths)``.
        mel_bins: feature rows.
        settings: amount and effort.

    Returns:
        batches [batch_size, mel, frames], all frames valid.

    Raises:
        CheckpointError: the network has no batch norm, or its stored statistics are not usable.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    check_statistics(norms)
    generator = torch.Generator().manual_seed(settings.seed)
    shape = (settings.batch_size, mel_bins, settings.frames)
    lengths = torch.full((settings.batch_size,), settings.frames, dtype=torch.int64)
    bfloat16 = settings.bfloat16 and has_bfloat16()
    if settings.bfloat16 and not bfloat16:
        logger.info("this CPU has no instructions for bfloat16: synthesis runs in float32")
    loss = partial(matching_loss, model, norms, lengths, bfloat16)
    batches = []
    bar: tqdm[Any]
    with tqdm(total=settings.batches * settings.steps, desc="synthesize", unit="step", disable=None) as bar:
        for index in range(settings.batches):
            start = speech_shaped_noise(shape, generator)
            features, first, last = optimize(start, loss, settings, bar)
            logger.info("synthetic batch %d of %d: loss %.2f -> %.2f", index + 1, settings.batches, first, last)
            batches.append(features.numpy())
            bar.update((index + 1) * settings.steps - bar.n)
    return CalibrationSet(tuple(batches), (lengths.numpy(),) * settings.batches, "synthetic", settings.seed)


def has_bfloat16() -> bool:
    """Whether this CPU has products in bfloat16; one that has none takes three times as long as in float32."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in BFLOAT16)


def speech_shaped_noise(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Noise with the coarse shape of speech in the log-mel plane, without any speech.

    A loudness contour shared by all mel bins (phrases and pauses, then syllables) plus texture that is smooth over
    neighbouring bins and frames; each bin is normalized to mean 0 and standard deviation 1 over time, as NeMo's
    ``per_feature`` front-end does.

    Args:
        shape: [B, mel, T].
        generator: of the random numbers.

    Returns:
        float32 [B, mel, T].
    """
    batch, mel, frames = shape
    phrases = smooth(torch.randn(batch, 1, frames, generator=generator), 30.0, 0.0)
    syllables = smooth(torch.randn(batch, 1, frames, generator=generator), 6.0, 0.0)
    texture = smooth(torch.randn(batch, mel, frames, generator=generator), 2.5, 3.0)
    loudness = torch.tanh(2.0 * phrases) + 0.7 * syllables
    voiced = torch.sigmoid(3.0 * loudness)
    noise = 1.5 * loudness + (0.3 + voiced) * texture
    return (noise - noise.mean(2, keepdim=True)) / (noise.std(2, keepdim=True) + 1e-5)


def smooth(noise: Tensor, time: float, frequency: float) -> Tensor:
    """Gaussian smoothing of [B, mel, T] with standard deviations in frames and bins, rescaled to unit variance."""
    for axis, sigma in ((2, time), (1, frequency)):
        if sigma > 0:
            taps = torch.arange(-int(3 * sigma), int(3 * sigma) + 1)
            kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
            kernel = (kernel / kernel.square().sum().sqrt())[None, None]
            moved = noise.movedim(axis, 2)
            flat = nn.functional.conv1d(moved.reshape(-1, 1, moved.shape[2]), kernel, padding=len(taps) // 2)
            noise = flat.reshape(moved.shape).movedim(2, axis)
    return noise


def check_statistics(norms: list[nn.BatchNorm1d]) -> None:
    """Refuse networks without usable stored statistics.

    Raises:
        CheckpointError: no batch norm, or a variance that is negative or not finite.
    """
    if not norms:
        raise CheckpointError(
            "the model has no batch norm: there are no statistics to match",
            'calibrate from audio with --set calibration.method="audio"',
        )
    for index, norm in enumerate(norms):
        mean, var = norm.running_mean, norm.running_var
        if mean is None or var is None or not bool(torch.isfinite(mean).all() and torch.isfinite(var).all()):
            raise CheckpointError(
                f"batch norm {index}: stored statistics are missing or not finite",
                "export the checkpoint again after training has seen data",
            )
        if bool((var < 0).any()):
            raise CheckpointError(f"batch norm {index}: negative running variance", "repair the checkpoint")


def optimize(
    start: Tensor, loss_of: Callable[[Tensor], Tensor], settings: SynthesisSettings, bar: "tqdm[Any]"
) -> tuple[Tensor, float, float]:
    """Adam on the features until the step limit or a plateau.

    Returns:
        the best features seen, the first and the best loss.

    Raises:
        QualityError: the loss was never finite.
    """
    features = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([features], lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, patience=PLATEAU_PATIENCE // 2, factor=0.3, min_lr=1e-4)
    best, best_features, first, since = float("inf"), start, float("nan"), 0
    for step in range(settings.steps):
        adam.zero_grad()
        loss = loss_of(features)
        value = loss.item()
        first = value if step == 0 else first
        since = 0 if value < best * (1 - PLATEAU_IMPROVEMENT) else since + 1
        if value < best:
            best, best_features = value, features.detach().clone()
        if since >= PLATEAU_PATIENCE:
            break
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        schedule.step(value)
        bar.set_postfix_str(f"loss {value:.2f}")
        bar.update(1)
    if not math.isfinite(best):
        raise QualityError(
            "synthesis: the batch-norm loss is not finite",
            "try --set calibration.bfloat16=false; if it stays, check the checkpoint",
        )
    return best_features, first, best


def matching_loss(
    model: nn.Module, norms: list[nn.BatchNorm1d], lengths: Tensor, bfloat16: bool, features: Tensor
) -> Tensor:
    """Sum over batch norms of the mean channel divergence between stored and batch statistics (scalar)."""
    losses: list[Tensor] = []

    def add(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        losses.append(layer_divergence(cast(nn.BatchNorm1d, norm), inputs[0]))

    hooks = [norm.register_forward_pre_hook(add) for norm in norms]
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            model(features, lengths)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(losses).sum()


def layer_divergence(norm: nn.BatchNorm1d, inputs: Tensor) -> Tensor:
    """Mean over channels of `gaussian_kl` for one batch norm's input [B, C, T] (scalar)."""
    with torch.autocast("cpu", enabled=False):
        var, mean = torch.var_mean(inputs.float(), dim=(0, 2), correction=0)
        stored_std = torch.sqrt(cast(Tensor, norm.running_var) + VARIANCE_GUARD)
        return gaussian_kl(cast(Tensor, norm.running_mean), stored_std, mean, torch.sqrt(var + VARIANCE_GUARD)).mean()
