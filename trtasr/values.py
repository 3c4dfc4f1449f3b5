"""Value types that flow between stages (frozen; shapes and units beside each field).

Stages do not import each other; `compile.py` carries these values from one to the next. This module imports numpy
only, so that every stage, the report included, may name the types it receives.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Example:
    """What a network is run on: an utterance, or a batch.

    Attributes:
        features: float32 [B, rows, T]; lengths: valid frames, int64 [B].
        tokens: that a decoder reads, int64 [L] or [B, L], the prompt included; None where none are read.
    """

    features: FloatArray
    lengths: IntArray
    tokens: IntArray | None = None


@dataclass(frozen=True)
class CalibrationSet:
    """Network inputs that activation ranges are taken from.

    Attributes:
        batches: features, each float32 [B, mel, T], normalized as the network expects them.
        lengths: valid frames per item, each int64 [B], one array per batch.
        method: ``synthetic`` (batch-norm matching), ``noise`` or ``audio``.
        seed: of the random start; the same seed gives the same batches on one machine.
        tokens: of an encoder-decoder, what its decoder reads (teacher forcing): the prompt and the text of every item
            over all batches, each int64 [L]; without them its tables cannot be made.
    """

    batches: tuple[FloatArray, ...]
    lengths: tuple[IntArray, ...]
    method: str
    seed: int = 0
    tokens: tuple[IntArray, ...] = ()

    def examples(self) -> list[Example]:
        """Each item alone, cut to its valid length; empty items are left out."""
        said, found = iter(self.tokens), []
        for batch, lengths in zip(self.batches, self.lengths, strict=True):
            for item, length in zip(batch, lengths, strict=True):
                tokens = next(said, None)
                if length > 0:
                    features = np.ascontiguousarray(item[None, :, : int(length)])
                    found.append(Example(features, np.array([length], np.int64), tokens))
        return found


def alone(features: FloatArray, lengths: IntArray) -> Iterator[Example]:
    """Each utterance of a batch alone, cut to its valid length, so that no padded frame counts; none that is empty."""
    for item, length in zip(features, lengths, strict=True):
        if length > 0:
            yield Example(np.ascontiguousarray(item[None, :, : int(length)]), np.array([length], np.int64))


@dataclass(frozen=True)
class TensorScale:
    """Symmetric per-tensor scale of one activation.

    Attributes:
        amax: clipping magnitude in the tensor's own unit; positive and finite.
        method: observer that chose it (``max``, ``percentile``, ``mse``, ``entropy``).
        non_negative: True when no calibration value was below zero.
        sqnr_db: signal to quantization-noise ratio on the calibration data in dB; NaN when not measured.
    """

    amax: float
    method: str
    non_negative: bool = False
    sqnr_db: float = float("nan")

    @property
    def scale(self) -> np.float32:
        """Signed 8-bit scale, amax / 127, float32: the number in Q/DQ nodes and in the calibration cache."""
        return np.float32(self.amax) / np.float32(127)

    @property
    def unsigned_scale(self) -> np.float32:
        """Unsigned 8-bit scale, scale * 127 / 255: the same range on the codes 0..255 (zero point 0)."""
        return self.scale * np.float32(127) / np.float32(255)


@dataclass(frozen=True)
class WeightScale:
    """Symmetric per-channel scales of one weight.

    Attributes:
        scales: float32 [O], amax of each output channel / 127; positive and finite.
        axis: the output-channel axis of the weight as stored in the FP32 graph.
        sqnr_db: weight SQNR in dB.
        floored: indices of dead output channels whose scale was raised to the floor.
    """

    scales: FloatArray
    axis: int
    sqnr_db: float = float("nan")
    floored: tuple[int, ...] = ()


@dataclass(frozen=True)
class Product:
    """Weight of a layer that is a matrix product at every position, for activations with a scale per position.

    Attributes:
        codes: int8, in the shape of the weight as stored, of W diag(s), where the layer is rotated of W diag(s) R^T
            (`trtasr.quant.smoothing`, `trtasr.quant.rotation`).
        scales: float32 [O], positive and finite: codes times scales is that weight.
        bias: float32 [O], of the centered graph; empty where the layer has none.
        smoothing: s, float32 [I], at least 1, the same for all layers that read a tensor; empty where it is 1.
    """

    codes: npt.NDArray[np.int8]
    scales: FloatArray
    bias: FloatArray
    smoothing: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))


@dataclass(frozen=True)
class ScaleTable:
    """The single source of truth for every quantized number.

    Attributes:
        activations: ONNX tensor name of the FP32 graph -> scale.
        weights: ONNX initializer name of the FP32 graph -> per-channel scales.
        alphas: layer -> correction strength (empty: no error-propagation correction).
        offsets: output of a depthwise convolution -> float32 [C] subtracted behind it (centering); the FP32 graph of
            the bundle contains them.
        settings: the quantizer settings the table was made with (JSON types only).
        corrected: ONNX initializer name of the FP32 graph -> its corrected values, float32 as stored; weights lie on
            the grid of their scales. The FP32 graph of the bundle does not contain them.
        products: layer -> its weight where activations have a scale per position; other uses of the layer ignore it.
    """

    activations: Mapping[str, TensorScale]
    weights: Mapping[str, WeightScale]
    alphas: Mapping[str, float] = field(default_factory=dict)
    offsets: Mapping[str, FloatArray] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    corrected: Mapping[str, FloatArray] = field(default_factory=dict)
    products: Mapping[str, Product] = field(default_factory=dict)


@dataclass(frozen=True)
class Site:
    """A node with a constant weight: one that could read INT8 operands.

    Attributes:
        node: ONNX node name.
        op: ``Conv``, ``MatMul`` or ``Gemm``.
        weight_shape: as stored: (O, I / groups, *kernel) of a Conv, (I, O) of a MatMul, (O, I) of a Gemm with transB.
        in_channels: I, over all groups.
        out_channels: O.
        groups: channel groups of a Conv; 1 elsewhere.
        kernel: kernel size per spatial axis; empty for MatMul and Gemm.
        stride: likewise.
    """

    node: str
    op: str
    weight_shape: tuple[int, ...]
    in_channels: int
    out_channels: int
    groups: int = 1
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()


@dataclass(frozen=True)
class Decision:
    """Why a quantizable node was quantized or left alone.

    Attributes:
        node: ONNX node name.
        op: ONNX operator type.
        quantized: True when the node reads INT8 operands.
        rule: name of the rule that decided, for instance ``depthwise``; ``int8`` when quantized.
    """

    node: str
    op: str
    quantized: bool
    rule: str
