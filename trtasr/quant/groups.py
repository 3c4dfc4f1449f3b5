"""Weights in groups: one symmetric scale per output channel and group of input columns (W4 g128, for instance).

Weights are [G, O, d]: groups of the convolution (1 when dense), output channels per group, input columns. Columns are
taken as they are stored, those of a convolution channel by channel and tap by tap. Column groups have N columns; where
N does not divide d, the last one has the rest. N = 0 stands for one group of all columns: a scale per output channel.
"""

import numpy as np
import numpy.typing as npt

from trtasr.quant.ranges import CODES, representable
from trtasr.quant.scales import DEAD_CHANNEL_FLOOR, quantize_weight
from trtasr.values import FloatArray

Codes = npt.NDArray[np.int8]
Doubles = npt.NDArray[np.float64]


def spans(inputs: int, group: int) -> list[slice]:
    """The columns of every group, in order.

    Args:
        inputs: columns d.
        group: columns N of a group; 0: all.
    """
    step = group or max(inputs, 1)
    return [slice(start, min(start + step, inputs)) for start in range(0, inputs, step)]


def block_scales(block: FloatArray | Doubles, levels: int) -> FloatArray:
    """Scales max |W| / levels of one column group, [G, O, columns] -> float32 [G, O]: FP16 values, never zero."""
    amax = np.abs(block).max(axis=2).astype(np.float64)
    return representable(np.maximum(amax, DEAD_CHANNEL_FLOOR) / levels)


def nearest_in_groups(weight: FloatArray, group: int, levels: int = CODES) -> tuple[Codes, FloatArray]:
    """Weights rounded to nearest (RTN), with a scale per output channel and column group.

    Args:
        weight: float32 [G, O, d], finite.
        group: columns N of a group; 0: all.
        levels: largest code, 127 for 8 bits, 7 for 4.

    Returns:
        codes int8 [G, O, d] within -levels..levels, and scales float32 [G, O, ceil(d / N)].
    """
    codes, scales = np.empty(weight.shape, np.int8), []
    for span in spans(weight.shape[2], group):
        block = weight[:, :, span]
        scales.append(block_scales(block, levels))
        rows = block.reshape(-1, block.shape[2])
        codes[:, :, span] = quantize_weight(rows, scales[-1].reshape(-1), 0, levels).reshape(block.shape)
    return codes, np.stack(scales, axis=2)


def dequantized(codes: Codes, scales: FloatArray, group: int) -> FloatArray:
    """Codes [G, O, d] times the scale [G, O, ceil(d / N)] of their channel and column group, float32 and exact."""
    inputs = codes.shape[2]
    return np.asarray(codes * np.repeat(scales, group or inputs, axis=2)[:, :, :inputs], np.float32)
