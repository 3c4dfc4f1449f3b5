"""What a correction of a layer is to lower."""

import numpy as np

from trtasr.quant.propagate import Columns, Matrix


def calibration_loss(weight: Matrix, change: Matrix, found: Columns) -> float:
    """||W X - (W + change) Xq||^2: squared error of the layer's output over the columns."""
    missing = np.matmul(weight, found.error) - np.matmul(change, found.quantized)
    return float(np.square(missing).sum())
