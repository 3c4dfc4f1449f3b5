"""Tiny acoustic models: features [B, 16, T], lengths [B] -> log_probs [B, T, 8], output_lengths [B]."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

from trtasr.values import CalibrationSet

MELS, HIDDEN, TOKENS = 16, 32, 8
SCALE = 0.03
HEADER = '<ir_version: 9, opset_import: ["" : 20]>'
SIGNATURE = "(float[B,16,T] features, int64[B] lengths) => (float[B,T,8] log_probs, int64[B] output_lengths)"

MASK = """
    shape = Shape<start=2, end=3>(features)
    scalar = Squeeze(shape)
    steps = Range(zero64, scalar, one64)
    column = Unsqueeze(lengths, axis1)
    valid = Less(steps, column)
    flat = Cast<to=1>(valid)
    mask = Unsqueeze(flat, axis1)
    masked = Mul(features, mask)
"""

FP32 = """
    [dw] spread = Conv<group=16, kernel_shape=[3], pads=[1, 1]>(masked, dw_weight)
    [pw] mixed = Conv<kernel_shape=[1]>(spread, pw_weight, pw_bias)
    [act] active = Relu(mixed)
    [head] logits = Conv<kernel_shape=[1]>(active, head_weight)
"""

QDQ = """
    [dw] spread = Conv<group=16, kernel_shape=[3], pads=[1, 1]>(masked, dw_weight)
    quantized = QuantizeLinear(spread, spread_scale, zero8)
    restored = DequantizeLinear(quantized, spread_scale, zero8)
    weight = DequantizeLinear<axis=0>(pw_codes, pw_scale, pw_zero)
    [pw] mixed = Conv<kernel_shape=[1]>(restored, weight, pw_bias)
    [act] active = Relu(mixed)
    [head] logits = Conv<kernel_shape=[1]>(active, head_weight)
"""

TAIL = """
    frames = Transpose<perm=[0, 2, 1]>(logits)
    log_probs = LogSoftmax<axis=-1>(frames)
    output_lengths = Identity(lengths)
"""

# FP16 outside the INT8 matrix product, pointwise convolution as MatMul: what a Turing engine runs in INT8.
LOWERED = """
    half = Cast<to=10>(masked)
    [dw] spread = Conv<group=16, kernel_shape=[3], pads=[1, 1]>(half, dw_weight)
    quantized = QuantizeLinear(spread, spread_scale, zero8)
    restored = DequantizeLinear(quantized, spread_scale, zero8)
    [pw_tin] turned = Transpose<perm=[0, 2, 1]>(restored)
    weight = DequantizeLinear<axis=1>(pw_codes, pw_scale, pw_zero)
    [pw_MatMul] product = MatMul(turned, weight)
    [pw_bias] biased = Add(product, pw_bias)
    [pw_tout] mixed = Transpose<perm=[0, 2, 1]>(biased)
    [act] active = Relu(mixed)
    [head] narrow = Conv<kernel_shape=[1]>(active, head_weight)
    logits = Cast<to=1>(narrow)
"""

# FP16 outside the INT8 convolution, with a bias: the graph that ONNX Runtime's optimizer gets wrong.
HALF_CONV = """
    half = Cast<to=10>(masked)
    [dw] spread = Conv<group=16, kernel_shape=[3], pads=[1, 1]>(half, dw_weight)
    quantized = QuantizeLinear(spread, spread_scale, zero8)
    restored = DequantizeLinear(quantized, spread_scale, zero8)
    weight = DequantizeLinear<axis=0>(pw_codes, pw_scale, pw_zero)
    [pw] mixed = Conv<kernel_shape=[1]>(restored, weight, pw_bias)
    codes = QuantizeLinear(mixed, spread_scale, zero8)
    active = DequantizeLinear(codes, spread_scale, zero8)
    [head] narrow = Conv<kernel_shape=[1]>(active, head_weight)
    logits = Cast<to=1>(narrow)
"""

# What ONNX Runtime fuses into an integer convolution: quantized in and out, unsigned where it cannot be negative.
CPU = """
    [dw] spread = Conv<group=16, kernel_shape=[3], pads=[1, 1]>(masked, dw_weight)
    quantized = QuantizeLinear(spread, spread_scale, zero8)
    restored = DequantizeLinear(quantized, spread_scale, zero8)
    weight = DequantizeLinear<axis=0>(pw_codes, pw_scale, pw_zero)
    [pw] mixed = Conv<kernel_shape=[1]>(restored, weight, pw_bias)
    [act] relu = Relu(mixed)
    codes = QuantizeLinear(relu, spread_scale, zero_u8)
    active = DequantizeLinear(codes, spread_scale, zero_u8)
    [head] logits = Conv<kernel_shape=[1]>(active, head_weight)
"""

FP32_GEMM = """
    turned = Transpose<perm=[0, 2, 1]>(masked)
    [pw_MatMul] product = MatMul(turned, square)
    logits = Transpose<perm=[0, 2, 1]>(product)
"""


def _weights(half: bool, lowered: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    real = np.float16 if half else np.float32
    codes = rng.integers(-127, 128, (HIDDEN, MELS, 1)).astype(np.int8)
    scales = rng.uniform(1e-3, 3e-3, HIDDEN).astype(np.float32)
    return {
        "dw_weight": rng.normal(0, 0.5, (MELS, 1, 3)).astype(real),
        "pw_weight": codes.astype(np.float32) * scales[:, None, None],
        "pw_codes": codes[:, :, 0].T.copy() if lowered else codes,
        "pw_scale": scales.astype(real),
        "pw_zero": np.zeros(HIDDEN, np.int8),
        "pw_bias": rng.normal(0, 0.1, HIDDEN).astype(real),
        "head_weight": rng.normal(0, 1, (TOKENS, HIDDEN, 1)).astype(real),
        "square": rng.normal(0, 1, (MELS, TOKENS)).astype(real),
        "spread_scale": np.array(SCALE, real),
        "zero8": np.array(0, np.int8),
        "zero_u8": np.array(0, np.uint8),
        "zero64": np.array(0, np.int64),
        "one64": np.array(1, np.int64),
        "axis1": np.array([1], np.int64),
    }


def _write(path: Path, body: str, half: bool = False, lowered: bool = False) -> Path:
    model = parser.parse_model(f"{HEADER} tiny {SIGNATURE} {{ {MASK} {body} {TAIL} }}")
    used = {name for node in model.graph.node for name in node.input}
    for name, values in _weights(half, lowered).items():
        if name in used:
            model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def fp32(path: Path) -> Path:
    return _write(path, FP32)


def qdq(path: Path) -> Path:
    return _write(path, QDQ)


def lowered(path: Path) -> Path:
    return _write(path, LOWERED, half=True, lowered=True)


def half_conv(path: Path) -> Path:
    return _write(path, HALF_CONV, half=True)


def cpu(path: Path) -> Path:
    return _write(path, CPU)


def fp32_gemm(path: Path) -> Path:
    """A float matrix product, which the RTX builder refuses for compute capability 7.5."""
    return _write(path, FP32_GEMM)


def feeds(lengths: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """One utterance each: features [1, 16, T] and its length [1]."""
    rng = np.random.default_rng(1)
    return [(rng.normal(0, 1, (1, MELS, n)).astype(np.float32), np.array([n], np.int64)) for n in lengths]


def inputs(calibration: CalibrationSet) -> list[dict[str, np.ndarray]]:
    """Of each utterance alone."""
    return [{"features": item.features, "lengths": item.lengths} for item in calibration.examples()]
