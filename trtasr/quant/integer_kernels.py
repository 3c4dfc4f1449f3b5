"""Integer kernels of the executor: every operator of the integer graph on numpy arrays, without a float in it.

Sums and products are computed in int64, whatever type the graph gives them; the executor then requires that they fit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from onnx import NodeProto, helper, numpy_helper

from trtasr.errors import QualityError
from trtasr.quant import integer_math
from trtasr.values import Array, IntArray

Inputs = Sequence[Array]
Kernel = Callable[[Inputs, Mapping[str, Any]], Array]


def attributes(node: NodeProto) -> dict[str, Any]:
    """Attributes by name."""
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def quantize(x: Array, scale: Array, zero: Array) -> Array:
    """clip(round(x / s) + z), half to even, float32 as ONNX has it: the one float operator, at the boundary."""
    limits = np.iinfo(zero.dtype)
    codes: Array = np.clip(np.rint(x / scale) + zero, limits.min, limits.max).astype(zero.dtype)
    return codes


def multiplied(first: IntArray, second: IntArray) -> IntArray:
    """Matrix product of int64 arrays, exact: numpy's own is a plain loop, torch's is vectorized."""
    ours = (torch.from_numpy(np.require(item, requirements=["C", "W"])) for item in (first, second))
    found: IntArray = torch.matmul(*ours).numpy()
    return found


def matmul_integer(inputs: Inputs, _: Mapping[str, Any]) -> Array:
    """(a - za) (b - zb) over codes."""
    first, second, first_zero, second_zero = wide(inputs)
    return multiplied(first - first_zero, second - second_zero)


def conv_integer(inputs: Inputs, given: Mapping[str, Any]) -> Array:
    """Convolution of codes [B, C, *] with weights [O, C / groups, *], padded with the zero point, hence with zeros.

    Over one or two axes, as a matrix product over unfolded windows; depthwise ones by a sum of their own.
    """
    x, weight, x_zero, weight_zero = wide(inputs)
    x, weight = x - x_zero, weight - weight_zero
    axes, groups = x.ndim - 2, int(given.get("group", 1))
    pads = given.get("pads", [0] * 2 * axes)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)])
    dilations, strides = given.get("dilations", [1] * axes), given.get("strides", [1] * axes)
    span = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilations, strict=True)]
    windows = sliding_window_view(padded, span, tuple(range(2, 2 + axes)))
    taken = [slice(None), slice(None), *(slice(None, None, step) for step in (*strides, *dilations))]
    windows = windows[tuple(taken)]
    if groups == x.shape[1] and weight.shape[1] == 1 and weight.shape[0] == groups:
        return depthwise(windows, weight[:, 0])
    parts = zip(np.split(windows, groups, 1), np.split(weight, groups, 0), strict=True)
    return np.concatenate([unfolded(part, kernel) for part, kernel in parts], 1)


def depthwise(windows: IntArray, weight: IntArray) -> IntArray:
    """Windows [B, C, *out, *kernel], weights [C, *kernel] -> [B, C, *out]: a sum over the kernel, no window copied."""
    axes = weight.ndim - 1
    out, kernel = list(range(2, 2 + axes)), list(range(2 + axes, 2 + 2 * axes))
    found: IntArray = np.einsum(windows, [0, 1, *out, *kernel], weight, [1, *kernel], [0, 1, *out])
    return found


def unfolded(windows: IntArray, weight: IntArray) -> IntArray:
    """Windows [B, C, *out, *kernel], weights [O, C, *kernel] -> [B, O, *out]."""
    axes = weight.ndim - 2
    out = windows.shape[2 : 2 + axes]
    order = (0, *range(2, 2 + axes), 1, *range(2 + axes, 2 + 2 * axes))
    rows = windows.transpose(order).reshape(windows.shape[0], -1, weight[0].size)
    found = multiplied(rows, weight.reshape(len(weight), -1).T)
    # In the order of its axes: everything behind this keeps the order, and sums over windows want time to be innermost.
    return np.ascontiguousarray(np.moveaxis(found, 2, 1)).reshape(windows.shape[0], len(weight), *out)


def max_pool(inputs: Inputs, given: Mapping[str, Any]) -> Array:
    """Maximum over windows that do not overlap; the last ones may hang over the edge (ceil_mode)."""
    x, sizes = inputs[0], given["kernel_shape"]
    if given.get("strides", [1] * len(sizes)) != sizes or any(given.get("pads", ())):
        raise QualityError("MaxPool: overlapping or padded windows have no integer kernel", "report the checkpoint")
    for axis, size in enumerate(sizes, x.ndim - len(sizes)):
        whole = x.shape[axis] if given.get("ceil_mode") else x.shape[axis] // size * size
        x = np.maximum.reduceat(x.take(np.arange(whole), axis), np.arange(0, whole, size), axis)
    return x


def truncated_quotient(inputs: Inputs, _: Mapping[str, Any]) -> Array:
    """Integer division toward zero, as in ONNX."""
    first, second = wide(inputs)
    return np.abs(first) // np.abs(second) * np.sign(first) * np.sign(second)


def sliced(inputs: Inputs, _: Mapping[str, Any]) -> Array:
    """Slice along the given axes."""
    data, starts, ends = inputs[:3]
    axes = inputs[3] if len(inputs) > 3 else np.arange(len(starts))
    steps = inputs[4] if len(inputs) > 4 else np.ones(len(starts), np.int64)
    chosen = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        chosen[int(axis)] = slice(int(start), int(end), int(step))
    return data[tuple(chosen)]


def reshaped(inputs: Inputs, given: Mapping[str, Any]) -> Array:
    """Reshape; a 0 keeps the axis."""
    data, shape = inputs
    kept = not given.get("allowzero")
    return data.reshape([data.shape[axis] if size == 0 and kept else int(size) for axis, size in enumerate(shape)])


def padded(inputs: Inputs, _: Mapping[str, Any]) -> Array:
    """Zeros around an array."""
    count = inputs[0].ndim
    return np.pad(inputs[0], [(int(a), int(b)) for a, b in zip(inputs[1][:count], inputs[1][count:], strict=True)])


def flattened(inputs: Inputs, given: Mapping[str, Any]) -> Array:
    """Two axes: those before `axis` and the others."""
    axis = given.get("axis", 1)
    return inputs[0].reshape(int(np.prod(inputs[0].shape[:axis], dtype=np.int64)), -1)


def rescaled(inputs: Inputs, _: Mapping[str, Any]) -> Array:
    """`integer_math.rescale`."""
    x, multiplier, addend, divisor, low, high, zero = wide(inputs)
    return integer_math.rescale(x, (multiplier, addend, divisor), (low, high), zero)


def wide(inputs: Inputs) -> list[IntArray]:
    """Operands as int64."""
    return [item.astype(np.int64) for item in inputs]


KERNELS: Mapping[str, Kernel] = {
    "QuantizeLinear": lambda x, _: quantize(*x),
    "ConvInteger": conv_integer,
    "MatMulInteger": matmul_integer,
    "MatMul": lambda x, _: multiplied(*wide(x)),
    "Rescale": rescaled,
    "Sigmoid": lambda x, _: integer_math.sigmoid(wide(x)[0]),
    "Softmax": lambda x, _: integer_math.softmax(wide(x)[0]),
    "Normalize": lambda x, _: integer_math.normalize(wide(x)[0], wide(x)[4]),
    "Add": lambda x, _: np.add(*wide(x)),
    "Sub": lambda x, _: np.subtract(*wide(x)),
    "Mul": lambda x, _: np.multiply(*wide(x)),
    "Div": truncated_quotient,
    "Neg": lambda x, _: -wide(x)[0],
    "Max": lambda x, _: np.maximum(*x),
    "Relu": lambda x, _: np.maximum(x[0], 0),
    "Clip": lambda x, _: np.clip(x[0], x[1], x[2]),
    "Cast": lambda x, _: x[0].astype(np.int64) if x[0].dtype != np.uint64 else x[0],
    "ConstantOfShape": lambda x, given: np.full(x[0], numpy_helper.to_array(given["value"])[0]),
    "Shape": lambda x, _: np.array(x[0].shape, np.int64),
    "Range": lambda x, _: np.arange(int(x[0]), int(x[1]), int(x[2]), dtype=np.int64),
    "Gather": lambda x, given: np.take(x[0], x[1], axis=given.get("axis", 0)),
    "Concat": lambda x, given: np.concatenate(x, given["axis"]),
    "Transpose": lambda x, given: x[0].transpose(given["perm"]),
    "Identity": lambda x, _: x[0],
    "MaxPool": max_pool,
    "Reshape": reshaped,
    "Slice": sliced,
    "Unsqueeze": lambda x, _: np.expand_dims(x[0], tuple(x[1].tolist())),
    "Squeeze": lambda x, _: np.squeeze(x[0], tuple(x[1].tolist())),
    "Flatten": flattened,
    "Pad": padded,
}
