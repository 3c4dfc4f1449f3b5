"""Graphs of one convolution each, which ask a builder and a card the first questions in seconds instead of minutes.

All have the inputs ``features`` float32 [B, C, T] and ``lengths`` int64 [B], as an acoustic model has, so that what
runs those runs these: ``log_probs`` is the convolution's output, float32 [B, C, T], ``counts`` are the lengths.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

CHANNELS, TAPS = 256, 33  # of QuartzNet's first blocks
OPSET = 20
LIMIT = 4.0  # largest magnitude of what is quantized, in standard deviations of the features


@dataclass(frozen=True)
class Trial:
    """One convolution in FP16, or in INT8 behind Q/DQ.

    Attributes:
        kernel: over T; (1, k) over [B, C, 1, T], (k, 1) over [B, C, T, 1].
        depthwise: each channel for itself; else every channel from all.
        int8: quantized, with int8 weights per channel.
    """

    kernel: tuple[int, ...]
    depthwise: bool = False
    int8: bool = False


TRIALS: Mapping[str, Trial] = {
    "Q/DQ convolution, 1-D": Trial((1,), int8=True),
    "Q/DQ convolution, 2-D": Trial((1, 1), int8=True),
    "FP16 depthwise, [1, k]": Trial((1, TAPS), depthwise=True),
    "FP16 depthwise, [k, 1]": Trial((TAPS, 1), depthwise=True),
    "INT8 depthwise": Trial((1, TAPS), depthwise=True, int8=True),
}


def trial_graph(trial: Trial, seed: int = 0) -> onnx.ModelProto:
    """The graph of a trial, strongly typed: what is not INT8 is FP16.

        features -> Cast -> (Unsqueeze) -> (Q -> DQ) -> Conv -> (Squeeze) -> Cast -> log_probs

    Args:
        trial: its convolution.
        seed: of the weights, which are normal and scaled to keep the variance.
    """
    axis = {1: None, 2: 2 if trial.kernel[0] == 1 else 3}[len(trial.kernel)]
    nodes = [make_node("Cast", ["features"], ["half"], "half", to=TensorProto.FLOAT16)]
    constants, read = [], "half"
    if axis is not None:
        constants.append(numpy_helper.from_array(np.array([axis], np.int64), "axis"))
        nodes.append(make_node("Unsqueeze", [read, "axis"], ["wide"], "unsqueeze"))
        read = "wide"
    convolution, stored = convolved(trial, read, seed)
    nodes, constants, made = [*nodes, *convolution], [*constants, *stored], "convolved"
    if axis is not None:
        nodes.append(make_node("Squeeze", [made, "axis"], ["narrow"], "squeeze"))
        made = "narrow"
    nodes.append(make_node("Cast", [made], ["log_probs"], "float", to=TensorProto.FLOAT))
    nodes.append(make_node("Identity", ["lengths"], ["counts"], "counted"))
    features, scores = (
        make_tensor_value_info(name, TensorProto.FLOAT, ["B", CHANNELS, "T"]) for name in ("features", "log_probs")
    )
    lengths, counts = (make_tensor_value_info(name, TensorProto.INT64, ["B"]) for name in ("lengths", "counts"))
    graph = make_graph(nodes, "trial", [features, lengths], [scores, counts], constants)
    return make_model(graph, opset_imports=[make_opsetid("", OPSET)], ir_version=10)


def convolved(trial: Trial, read: str, seed: int) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """Nodes from a tensor to ``convolved``, and their constants.

    Args:
        trial: the convolution.
        read: name of the tensor, FP16.
        seed: of the weights.
    """
    groups = CHANNELS if trial.depthwise else 1
    shape = (CHANNELS, CHANNELS // groups, *trial.kernel)
    spread = 1 / np.sqrt(np.prod(shape[1:]))
    weight = (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)
    pads = [size // 2 for size in trial.kernel] * 2
    if not trial.int8:
        node = make_node("Conv", [read, "weight"], ["convolved"], "convolution", group=groups, pads=pads)
        return [node], [numpy_helper.from_array(weight.astype(np.float16), "weight")]
    step = (np.abs(weight).reshape(CHANNELS, -1).max(axis=1) / 127).astype(np.float16)
    codes = np.rint(weight / step.astype(np.float32).reshape(-1, *[1] * (weight.ndim - 1)))
    stored = {
        "scale": np.float16(LIMIT / 127),
        "zero": np.int8(0),
        "weight_scale": step,
        "weight": np.clip(codes, -127, 127).astype(np.int8),
    }
    nodes = [
        make_node("QuantizeLinear", [read, "scale", "zero"], [f"{read}_quantized"], "quantize"),
        make_node("DequantizeLinear", [f"{read}_quantized", "scale", "zero"], [f"{read}_dequantized"], "dequantize"),
        make_node("DequantizeLinear", ["weight", "weight_scale"], ["weight_dequantized"], "weights", axis=0),
        make_node(
            "Conv",
            [f"{read}_dequantized", "weight_dequantized"],
            ["convolved"],
            "convolution",
            group=groups,
            pads=pads,
        ),
    ]
    return nodes, [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()]
