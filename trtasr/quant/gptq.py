"""GPTQ: rounding of weights in which the inputs still to be rounded make up for the errors of those already rounded."""

from typing import cast

import numpy as np
import numpy.typing as npt

from trtasr.errors import QualityError
from trtasr.quant.groups import block_scales, spans
from trtasr.quant.ranges import CODES
from trtasr.values import FloatArray

BLOCK = 128  # columns whose corrections are carried out at once on the columns that follow

Codes = npt.NDArray[np.int8]
Doubles = npt.NDArray[np.float64]


def gptq_codes(
    weight: FloatArray | Doubles, gram: Doubles, scales: FloatArray, levels: int = CODES, damping: float = 0.01
) -> Codes:
    """Codes that approximately minimise tr((W - Wq) H (W - Wq)^T) with Wq = s codes (GPTQ, arXiv 2210.17323).

    Algorithm 1: with U upper triangular, U^T U = (H + lambda I)^-1, lambda = damping mean(diag H), column i is rounded
    (half to even) and each later column j becomes W_j - (W_i - Wq_i) U_ij / U_ii. Columns are taken by descending
    diag(H). Columns whose diag(H) is zero are rounded to nearest and correct nobody. Each group is solved by itself.

    Args:
        weight: [G, O, d]: groups of the convolution (1 when dense), output channels per group, inputs.
        gram: H = sum x x^T over the quantized inputs x, float64 [G, d, d], symmetric, positive semidefinite.
        scales: one per output channel, float32 [G, O].
        levels: largest code, 127 for 8 bits, 7 for 4.
        damping: lambda relative to the mean of diag(H).

    Returns:
        int8 [G, O, d], within -levels..levels.

    Raises:
        ValueError: shapes that do not belong together, or levels outside 1..127.
        QualityError: values that are NaN or infinite, a scale that is not positive, or H + lambda I not positive
            definite.
    """
    check_inputs(weight, gram, levels)
    check_scales(scales, weight.shape[:2])
    diagonal = np.diagonal(gram, axis1=1, axis2=2)
    order = np.argsort(-diagonal, axis=1, kind="stable")
    steps = np.asarray(weight, np.float64) / np.asarray(scales, np.float64)[:, :, None]
    sorted_gram = np.take_along_axis(np.take_along_axis(gram, order[:, :, None], 1), order[:, None, :], 2)
    factor = inverse_factor(sorted_gram, damping)
    codes, _ = round_columns(np.take_along_axis(steps, order[:, None, :], 2), factor, levels)
    return cast(Codes, np.take_along_axis(codes, np.argsort(order, axis=1)[:, None, :], 2))


def gptq_in_groups(
    weight: FloatArray | Doubles, gram: Doubles, group: int, levels: int = CODES, damping: float = 0.01
) -> tuple[Codes, FloatArray]:
    """`gptq_codes` with a scale per output channel and group of N columns.

    Columns are taken in their own order, not by descending diag(H): as in the authors' code with a group size and
    without act-order. A group's scales are fixed before its first column is rounded, from its weights as the errors of
    all columns before them have changed these. (The authors' code carries errors on only once in 128 columns, so that
    with smaller groups its scales lack the newest of them; with N = 128 both are the same.)

    Args:
        weight: [G, O, d].
        gram: H, float64 [G, d, d].
        group: columns N of a group; 0: all. The last group has what is left.
        levels: largest code.
        damping: lambda relative to the mean of diag(H).

    Returns:
        codes int8 [G, O, d], within -levels..levels, and scales float32 [G, O, ceil(d / N)].

    Raises:
        ValueError, QualityError: as `gptq_codes`.
    """
    check_inputs(weight, gram, levels)
    factor, left = inverse_factor(gram, damping), np.array(weight, np.float64)
    codes, scales = np.empty(weight.shape, np.int8), []
    for span in spans(weight.shape[2], group):
        scales.append(block_scales(left[:, :, span], levels))
        step = scales[-1].astype(np.float64)[:, :, None]
        codes[:, :, span], errors = round_columns(left[:, :, span] / step, factor[:, span, span], levels)
        left[:, :, span.stop :] -= (errors * step) @ factor[:, span, span.stop :]
    return codes, np.stack(scales, axis=2)


def check_inputs(weight: FloatArray | Doubles, gram: Doubles, levels: int) -> None:
    """Refuse what cannot be rounded.

    Raises:
        ValueError: shapes that do not fit, or levels out of bounds. QualityError: a value that is not finite.
    """
    groups, _, inputs = weight.shape
    if gram.shape != (groups, inputs, inputs):
        raise ValueError(f"weight {weight.shape} needs a gram matrix {(groups, inputs, inputs)}, got {gram.shape}")
    if not 1 <= levels <= CODES:
        raise ValueError(f"levels is {levels}, must be 1 to {CODES}")
    if not (np.isfinite(weight).all() and np.isfinite(gram).all()):
        raise QualityError(
            "a weight or input statistic is NaN or infinite", "check the checkpoint and the calibration batches"
        )


def check_scales(scales: FloatArray, shape: tuple[int, ...]) -> None:
    """Refuse scales that no weight can have.

    Raises:
        ValueError: not one per output channel. QualityError: one that is not positive and finite.
    """
    if scales.shape != shape:
        raise ValueError(f"scales of shape {shape} are needed, got {scales.shape}")
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise QualityError("a weight's scale is not positive and finite", "check the checkpoint for NaN weights")


def inverse_factor(gram: Doubles, damping: float) -> Doubles:
    """U [G, d, d], upper triangular, with U^T U = (H + lambda I)^-1; the row of a dead column is zero off the diagonal.

    Cholesky of H with rows and columns reversed gives H = R R^T with R upper triangular, hence U = R^-1.
    """
    diagonal = np.diagonal(gram, axis1=1, axis2=2)
    dead = diagonal <= 0
    damped = np.where(dead[:, :, None] | dead[:, None, :], 0.0, gram)
    index = np.arange(gram.shape[1])
    damped[:, index, index] = np.where(dead, 1.0, diagonal + damping * diagonal.mean(axis=1, keepdims=True))
    try:
        lower = np.linalg.cholesky(damped[:, ::-1, ::-1])
        return cast(Doubles, np.linalg.inv(lower[:, ::-1, ::-1]))
    except np.linalg.LinAlgError as error:
        raise QualityError(
            "the input statistics of a layer are not positive definite",
            "raise the damping or calibrate with more batches",
        ) from error


def round_columns(steps: Doubles, factor: Doubles, levels: int) -> tuple[Codes, Doubles]:
    """Codes and errors (W_i - Wq_i) / (s U_ii), both [G, O, d]; columns from the first to the last.

    Args:
        steps: W / s, [G, O, d]; used up.
        factor: U [G, d, d].
        levels: largest code.
    """
    codes, errors = np.empty(steps.shape, np.int8), np.empty(steps.shape)
    for start in range(0, steps.shape[2], BLOCK):
        stop = start + BLOCK
        within = factor[:, start:stop, start:stop]
        codes[:, :, start:stop], errors[:, :, start:stop] = round_block(steps[:, :, start:stop], within, levels)
        steps[:, :, stop:] -= errors[:, :, start:stop] @ factor[:, start:stop, stop:]
    return codes, errors


def round_block(steps: Doubles, factor: Doubles, levels: int) -> tuple[Codes, Doubles]:
    """Codes of one block and its errors (W_i - Wq_i) / (s U_ii), both [G, O, columns]."""
    steps, codes = steps.copy(), np.empty(steps.shape, np.int8)
    errors = np.empty(steps.shape)
    for i in range(steps.shape[2]):
        rounded = np.clip(np.rint(steps[:, :, i]), -levels, levels)
        codes[:, :, i] = rounded
        errors[:, :, i] = (steps[:, :, i] - rounded) / factor[:, i, i, None]
        steps[:, :, i + 1 :] -= errors[:, :, i, None] * factor[:, None, i, i + 1 :]
    return codes, errors
