"""FP16 lint: where an INT8 layer of an FP16 network could lose its result to the range of FP16."""

from collections.abc import Set

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from trtasr.graph.edit import constants, scale_of, weight_scales_of
from trtasr.graph.tensors import WEIGHTED
from trtasr.quant.scales import quantize_weight
from trtasr.values import ScaleTable

LARGEST_HALF = float(np.finfo(np.float16).max)  # 65504
HEADROOM = 4  # louder than the calibration features by this factor, 12 dB, is still finite


def overflow_lint(model: onnx.ModelProto, table: ScaleTable, int8: Set[str]) -> list[str]:
    """Names of INT8 nodes whose integer accumulator could exceed 65504 on data like the calibration data.

    Engines that hand the accumulator on as FP16 before it is scaled would turn it into infinity there. For an output
    channel o with weight codes q_o, the accumulator is bounded by what codes can reach and by what was observed:

        |acc_o| <= min(127 sum_k |q_ok|, (amax(y) + |b_o|) / (s_x s_o))

    because y = s_x s_o acc + b with the bias b in floating point; amax(y) is the observed magnitude of the node's
    output. A node whose output has no range is bounded by the first term alone.

    Args:
        model: FP32 graph.
        table: scales of inputs and weights, ranges of outputs.
        int8: names of the nodes that read INT8 operands.
    """
    weights = constants(model)
    found = []
    for node in model.graph.node:
        if node.name in int8 and node.op_type in WEIGHTED:
            entry = weight_scales_of(table, node.input[1])
            codes = quantize_weight(numpy_helper.to_array(weights[node.input[1]]), entry.scales, entry.axis)
            bias = numpy_helper.to_array(weights[node.input[2]]) if len(node.input) > 2 else np.float32(0)
            if accumulator_bound(node, codes, np.abs(bias), table).max() > LARGEST_HALF:
                found.append(node.name)
    return found


def large_activations(table: ScaleTable) -> list[str]:
    """Names of activations that came within `HEADROOM` of FP16's largest number on the calibration features.

    What is louder than these features could turn them into infinity, and the transcript into nonsense. Conformers with
    ``xscaling`` have such activations in front of their first layer (compare NeMo issue 4590).
    """
    return [name for name, entry in table.activations.items() if entry.amax * HEADROOM > LARGEST_HALF]


def accumulator_bound(
    node: onnx.NodeProto, codes: npt.NDArray[np.int8], bias: npt.ArrayLike, table: ScaleTable
) -> npt.NDArray[np.float64]:
    """Bound of the integer accumulator of each output channel, float64 [O]; `bias` holds magnitudes, [O] or 0."""
    entry = weight_scales_of(table, node.input[1])
    axes = tuple(axis for axis in range(codes.ndim) if axis != entry.axis)
    reachable: npt.NDArray[np.float64] = 127.0 * np.abs(codes.astype(np.float64)).sum(axis=axes)
    observed = table.activations.get(node.output[0])
    if observed is None:
        return reachable
    step = float(scale_of(table, node.input[0]).scale) * entry.scales.astype(np.float64)
    bounded: npt.NDArray[np.float64] = np.minimum(reachable, (observed.amax + np.asarray(bias, np.float64)) / step)
    return bounded
