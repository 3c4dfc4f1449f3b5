"""GPTQ: rounding whose error later columns make up for (Frantar et al. 2022, arXiv 2210.17323, Algorithm 1)."""

import numpy as np
import numpy.typing as npt

from trtasr.values import FloatArray

Matrix = npt.NDArray[np.float64]


def gptq_codes(weight: Matrix, gram: Matrix, scales: FloatArray, levels: int,
               damping: float = 0.01) -> npt.NDArray[np.int8]:  # fmt: skip
    """Codes that keep tr((W - Wq) H (W - Wq)^T) small, H = sum Xq Xq^T.

    Columns are rounded one after another, the most excited first; what rounding column i changes is taken off the
    columns still to come in proportion to the upper Cholesky factor U of H^-1 (H^-1 = U^T U):
    w_j -= (w_i - q_i) / U_ii U_ij.

    Args:
        weight: [groups, O, d].
        gram: H of each group, [groups, d, d].
        scales: of each output channel, [groups, O].
        levels: largest code.
        damping: of H, over the mean of its diagonal. Columns that nothing excites are rounded to nearest.

    Returns:
        int8 [groups, O, d].
    """
    codes = [_group_codes(*parts, levels, damping) for parts in zip(weight, gram, scales, strict=True)]
    return np.stack(codes)


def _group_codes(weight: Matrix, gram: Matrix, scales: FloatArray, levels: int, damping: float) -> npt.NDArray[np.int8]:
    power = np.diagonal(gram)
    live = np.flatnonzero(power > 0)
    order = live[np.argsort(-power[live], kind="stable")]
    step = scales.astype(np.float64)
    codes = np.clip(np.rint(weight / step[:, None]), -levels, levels)
    if order.size:
        ridge = damping * power.mean() * np.eye(order.size)
        factor = np.linalg.cholesky(np.linalg.inv(gram[np.ix_(order, order)] + ridge)).T
        codes[:, order] = _compensated(weight[:, order], factor, step, levels)
    return np.asarray(codes, np.int8)


def _compensated(weight: Matrix, factor: Matrix, step: Matrix, levels: int) -> Matrix:
    left, codes = weight.copy(), np.empty_like(weight)
    for index in range(weight.shape[1]):
        codes[:, index] = np.clip(np.rint(left[:, index] / step), -levels, levels)
        error = (left[:, index] - codes[:, index] * step) / factor[index, index]
        left[:, index + 1 :] -= np.outer(error, factor[index, index + 1 :])
    return codes
