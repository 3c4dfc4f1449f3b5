"""Rotation of channels by a small Hadamard matrix: what is spread over several of them rounds with less error.

    y = W x = (W R^T)(R x),   R orthogonal            QuaRot (Ashkboos et al. 2024, arXiv 2404.00456), QuIP# (Tseng et
                                                      al. 2024, arXiv 2402.04396, section 3)

A scale is set by the largest of the numbers that share it. Sums and differences of several have a smaller largest one
beside the same energy, of weights as of activations. R is block-diagonal here: a Hadamard matrix of order 4 over
channels that are a quarter of all apart, so that a kernel that reads a position anyway needs eight sums and no product.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from trtasr.values import FloatArray

ORDERS = (4, 2, 1)  # 4 is the largest that TensorRT for RTX computes inside of the kernel that rounds: docs/method.md

Part = TypeVar("Part")
Doubles = npt.NDArray[np.float64]


def order(channels: int) -> int:
    """How many channels are mixed: the largest of `ORDERS` that divides them."""
    return next(size for size in ORDERS if channels % size == 0)


def butterflies(
    parts: list[Part], add: Callable[[Part, Part], Part], subtract: Callable[[Part, Part], Part]
) -> list[Part]:
    """The Walsh-Hadamard transform of as many parts as a power of two, without its factor 1 / sqrt(parts).

    Args:
        parts: arrays, or names of tensors.
        add: one + other.
        subtract: one - other.
    """
    if len(parts) == 1:
        return parts
    half = len(parts) // 2
    pairs = list(zip(parts[:half], parts[half:], strict=True))
    sums, differences = [add(*pair) for pair in pairs], [subtract(*pair) for pair in pairs]
    return [*butterflies(sums, add, subtract), *butterflies(differences, add, subtract)]


def rotated(values: FloatArray, axis: int) -> FloatArray:
    """R x along the channel axis of activations, or W R^T along that of the input channels of a weight: R is symmetric.

    Twice is the identity.

    Args:
        values: any rank, C channels along `axis`.
        axis: of the channels.
    """
    return mixed(values, axis).astype(np.float32)


def rotated_covariance(covariance: Doubles) -> Doubles:
    """R C R^T, the covariance [C, C] of R x."""
    return mixed(mixed(covariance, 0), 1)


def mixed(values: npt.NDArray[Any], axis: int) -> Doubles:
    """The same as `rotated` in double precision."""
    size = order(values.shape[axis])
    parts = butterflies(np.split(values.astype(np.float64), size, axis), np.add, np.subtract)
    return np.asarray(np.concatenate(parts, axis) / np.sqrt(size))
