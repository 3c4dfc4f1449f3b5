import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from trtasr.errors import QualityError
from trtasr.quant.integer_kernels import KERNELS, attributes, conv_integer, matmul_integer, multiplied

COMPOSITE = {"Rescale", "Sigmoid", "Softmax", "Normalize"}  # model-local functions: see tests/graph
NO_ZEROS = (np.zeros((), np.int64),) * 2  # zero points


def drawn(shape, low=-1000, high=1000, kind=np.int64, seed=0):
    return np.random.default_rng(seed).integers(low, high, shape).astype(kind)


def runtime(op, inputs, outputs="int64", **given_attributes):
    """One operator in ONNX Runtime."""
    inputs = [None if item is None else np.asarray(item) for item in inputs]
    names = [f"x{index}" if item is not None else "" for index, item in enumerate(inputs)]
    node = helper.make_node(op, names, ["y"], **given_attributes)
    kinds = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(item.dtype), item.shape)
        for name, item in zip(names, inputs, strict=True)
        if name
    ]
    made = helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(outputs)), None)
    model = helper.make_model(
        helper.make_graph([node], "one", kinds, [made]), ir_version=9, opset_imports=[helper.make_opsetid("", 20)]
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {name: item for name, item in zip(names, inputs, strict=True) if name})[0], node


X4 = drawn((2, 3, 8, 5))
CODES = drawn((2, 6, 11), 0, 256, np.uint8)
ZERO = np.uint8(128)


def longs(*values):
    return np.array(values, np.int64)


# operator, inputs, type of the result, attributes
CASES = [
    ("QuantizeLinear", [np.linspace(-3, 3, 1001, dtype=np.float32), np.float32(0.011), ZERO], "uint8", {}),
    (
        "QuantizeLinear",
        [np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9, np.inf, -np.inf], np.float32), np.float32(1), ZERO],
        "uint8",
        {},
    ),
    ("ConvInteger", [CODES, drawn((4, 6, 3), 0, 256, np.uint8, 1), ZERO, ZERO], "int32", {"pads": [1, 1]}),
    (
        "ConvInteger",
        [CODES, drawn((6, 1, 3), 0, 256, np.uint8, 2), ZERO, ZERO],
        "int32",
        {"group": 6, "strides": [2], "dilations": [2], "pads": [2, 0]},
    ),
    (
        "ConvInteger",
        [drawn((2, 4, 9, 7), 0, 256, np.uint8), drawn((6, 2, 3, 3), 0, 256, np.uint8, 2), ZERO, ZERO],
        "int32",
        {"group": 2, "strides": [2, 1], "pads": [0, 1, 1, 1]},
    ),
    (
        "MatMulInteger",
        [drawn((2, 5, 6), 0, 256, np.uint8), drawn((6, 7), 0, 256, np.uint8, 1), ZERO, ZERO],
        "int32",
        {},
    ),
    ("MatMul", [drawn((2, 3, 5, 6), -(2**16), 2**16), drawn((2, 3, 6, 4), -(2**20), 2**20)], "int64", {}),
    ("MatMul", [drawn((5, 6), kind=np.int32), drawn((6, 4), kind=np.int32)], "int32", {}),
    ("Add", [drawn((2, 3, 5)), drawn((3, 1))], "int64", {}),
    ("Sub", [drawn((2, 3, 5)), drawn((3, 1))], "int64", {}),
    ("Mul", [drawn((2, 3, 5)), drawn((3, 1))], "int64", {}),
    ("Div", [longs(7, -7, 7, -7, 0, 2**62, -(2**62)), longs(2, 2, -2, -2, 5, 3, 3)], "int64", {}),
    ("Neg", [drawn((2, 3))], "int64", {}),
    ("Max", [drawn((2, 3, 5)), drawn((2, 3, 5), seed=1)], "int64", {}),
    ("Relu", [drawn((2, 3, 5), kind=np.int32)], "int32", {}),
    ("Clip", [drawn((2, 3, 5)), np.int64(-100), np.int64(300)], "int64", {}),
    ("Clip", [drawn((2, 3, 5), 0, 2**62, np.uint64), np.uint64(2**40), np.uint64(2**61)], "uint64", {}),
    ("Cast", [drawn((2, 3), -(2**31), 2**31, np.int32)], "int64", {"to": onnx.TensorProto.INT64}),
    ("Cast", [drawn((2, 3), 0, 2**62, np.uint64)], "int64", {"to": onnx.TensorProto.INT64}),
    ("ConstantOfShape", [longs(2, 0, 3)], "int64", {"value": numpy_helper.from_array(longs(7))}),
    ("ConstantOfShape", [longs(2, 3)], "int32", {"value": numpy_helper.from_array(np.array([-1], np.int32))}),
    ("ConstantOfShape", [longs()], "int64", {"value": numpy_helper.from_array(longs(7))}),
    ("Shape", [X4], "int64", {}),
    ("Range", [np.int64(7), np.int64(-6), np.int64(-2)], "int64", {}),
    ("Gather", [X4, np.int64(2)], "int64", {"axis": 2}),
    ("Gather", [longs(4, 5, 6), longs(2, 0)], "int64", {}),
    ("Concat", [drawn((2, 3)), drawn((2, 1)), drawn((2, 4))], "int64", {"axis": 1}),
    ("Transpose", [X4], "int64", {"perm": [0, 2, 3, 1]}),
    ("Identity", [X4], "int64", {}),
    ("MaxPool", [CODES], "uint8", {"kernel_shape": [2], "strides": [2]}),
    ("MaxPool", [CODES[..., :10]], "uint8", {"kernel_shape": [2], "strides": [2]}),
    ("MaxPool", [CODES], "uint8", {"kernel_shape": [2], "strides": [2], "ceil_mode": 1}),
    (
        "MaxPool",
        [drawn((2, 3, 7, 5), 0, 256, np.uint8)],
        "uint8",
        {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
    ),
    ("MaxPool", [drawn((2, 3, 7, 5), 0, 256, np.uint8)], "uint8", {"kernel_shape": [3, 2], "strides": [3, 2]}),
    ("Reshape", [X4, longs(2, -1, 10)], "int64", {}),
    ("Reshape", [X4, longs(0, 0, 40)], "int64", {}),
    ("Reshape", [drawn((0, 4)), longs(3, 0)], "int64", {"allowzero": 1}),
    ("Slice", [X4, longs(1), longs(2**62), longs(2)], "int64", {}),
    ("Slice", [X4, longs(0, -3), longs(2, -1), longs(1, 3)], "int64", {}),
    ("Slice", [X4, longs(7, 0), longs(-9, 5), longs(2, 3), longs(-2, 2)], "int64", {}),
    ("Slice", [X4, longs(1, 1), longs(2, 3)], "int64", {}),
    ("Unsqueeze", [drawn((3, 5)), longs(0, 2)], "int64", {}),
    ("Unsqueeze", [drawn((3, 5)), longs(-1)], "int64", {}),
    ("Squeeze", [drawn((3, 1, 5, 1)), longs(1, -1)], "int64", {}),
    ("Flatten", [X4], "int64", {"axis": 2}),
    ("Flatten", [X4], "int64", {"axis": -1}),
    ("Pad", [X4, longs(0, 0, 1, 2, 0, 0, 3, 0)], "int64", {}),
    ("Pad", [X4, longs(0, 0, 1, 2, 0, 0, 3, 0), None], "int64", {}),
]


def identity(case):
    return "-".join([case[0], *case[3]])


@pytest.mark.parametrize(("op", "inputs", "kind", "given_attributes"), CASES, ids=map(identity, CASES))
def test_kernel_equals_onnx_runtime(op, inputs, kind, given_attributes):
    expected, node = runtime(op, inputs, kind, **given_attributes)
    found = KERNELS[op]([np.asarray(item) for item in inputs if item is not None], attributes(node))
    assert found.shape == expected.shape
    assert found.dtype.kind in "iu"
    assert np.array_equal(found, expected)


def test_every_kernel_is_compared():
    assert {case[0] for case in CASES} == set(KERNELS) - COMPOSITE


@st.composite
def convolutions(draw, axes):
    """Input [B, C, *], weight [O, C / groups, *], attributes; windows fit."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inside, outside = (groups * draw(st.integers(1, 3)) for _ in range(2))
    if draw(st.booleans()):  # depthwise
        groups = inside = outside = draw(st.integers(1, 4))
    limits = {"kernel": (1, 4), "strides": (1, 3), "dilations": (1, 3), "pads": (0, 4)}
    numbers = {
        name: [draw(st.integers(low, high)) for _ in range(2 * axes if name == "pads" else axes)]
        for name, (low, high) in limits.items()
    }
    kernel, pads = numbers.pop("kernel"), numbers["pads"]
    spans = [(size - 1) * step + 1 for size, step in zip(kernel, numbers["dilations"], strict=True)]
    sizes = [
        draw(st.integers(max(1, span - first - last), span + 6))
        for span, first, last in zip(spans, pads[:axes], pads[axes:], strict=True)
    ]
    seed, batch = draw(st.integers(0, 99)), draw(st.integers(1, 2))
    x = drawn((batch, inside, *sizes), -255, 256, seed=seed)
    return x, drawn((outside, inside // groups, *kernel), -255, 256, seed=seed + 1), numbers | {"group": groups}


def by_torch(x, weight, given_attributes):
    """Padded by hand (torch has no asymmetric padding), convolved in float64, which is exact here."""
    axes, pads = x.ndim - 2, given_attributes["pads"]
    sides = [side for axis in reversed(range(axes)) for side in (pads[axis], pads[axes + axis])]
    padded = torch.nn.functional.pad(torch.from_numpy(x).double(), sides)
    convolve = torch.nn.functional.conv1d if axes == 1 else torch.nn.functional.conv2d
    return convolve(
        padded,
        torch.from_numpy(weight).double(),
        None,
        given_attributes["strides"],
        0,
        given_attributes["dilations"],
        given_attributes["group"],
    ).numpy()


@pytest.mark.parametrize("axes", [1, 2])
def test_convolution_equals_torch_in_float64(axes):
    @given(convolutions(axes))
    def compare(case):
        x, weight, attributes_given = case
        expected, found = by_torch(*case), conv_integer((x, weight, *NO_ZEROS), attributes_given)
        assert found.shape == expected.shape
        assert np.array_equal(found, expected)

    compare()


def test_convolution_has_the_defaults_of_onnx():
    x, weight = drawn((1, 2, 9)), drawn((3, 2, 4))
    plain = {"pads": [0, 0], "strides": [1], "dilations": [1], "group": 1}
    assert np.array_equal(conv_integer((x, weight, *NO_ZEROS), {}), by_torch(x, weight, plain))


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 99))
def test_codes_count_from_their_zero_points_and_padding_is_zero(first, second, seed):
    codes, weight = (drawn(shape, 0, 256, np.uint8, seed) for shape in ((1, 3, 5), (2, 3, 3)))
    expected = by_torch(
        codes.astype(np.int64) - first,
        weight.astype(np.int64) - second,
        {"pads": [2, 2], "strides": [1], "dilations": [1], "group": 1},
    )
    found = conv_integer([codes, weight, np.uint8(first), np.uint8(second)], {"pads": [2, 2]})
    assert np.array_equal(found, expected)
    product = matmul_integer([codes[0].T, weight[:, :, 0].T, np.uint8(first), np.uint8(second)], {})
    assert np.array_equal(product, (codes[0].T.astype(int) - first) @ (weight[:, :, 0].T.astype(int) - second))


def test_the_largest_products_of_codes_are_exact():
    codes, weight = np.full((1, 4096, 1), 255, np.uint8), np.full((1, 4096, 1), 255, np.uint8)
    zero = np.uint8(0)
    assert conv_integer([codes, weight, zero, zero], {}).tolist() == [[[4096 * 255 * 255]]]
    assert matmul_integer([codes[:, :, 0], weight[0], zero, zero], {}).tolist() == [[4096 * 255 * 255]]


def test_products_are_exact_beyond_what_a_float64_holds():
    first, second = drawn((3, 40), 2**29, 2**30), drawn((40, 3), 2**27, 2**28)
    expected = [
        [sum(int(a) * int(b) for a, b in zip(row, column, strict=True)) for column in second.T] for row in first
    ]
    assert multiplied(first, second).tolist() == expected
    assert max(map(max, expected)) > 2**61


@pytest.mark.parametrize(
    "given_attributes",
    [
        {"kernel_shape": [3], "strides": [2]},
        {"kernel_shape": [2]},
        {"kernel_shape": [2], "strides": [2], "pads": [1, 0]},
    ],
)
def test_windows_that_overlap_or_are_padded_are_refused(given_attributes):
    with pytest.raises(QualityError, match="MaxPool: overlapping"):
        KERNELS["MaxPool"]([CODES], given_attributes)
