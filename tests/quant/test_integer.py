"""The executor on hand-made graphs; on whole networks see tests/graph/test_integer.py."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from trtasr.errors import QualityError
from trtasr.quant.integer import REPAIR, IntegerExecutor, element_types, last_use

HEADER = '<ir_version: 9, opset_import: ["" : 20, "trtasr" : 1]>'
QUANTIZE = "[boundary] codes = QuantizeLinear(features, scale, zero)"
CONV = "[conv] sums = ConvInteger <pads=[1,1]> (codes, weight, zero, zero)"
OUTPUT = "int32[B,O,T] logits, int64[B] output_lengths"
LENGTHS = "[lengths] output_lengths = Identity(lengths)"
FEATURES = np.random.default_rng(0).normal(0, 40, (2, 4, 9)).astype(np.float32)
LONG = np.array([9, 5])
WEIGHT = np.random.default_rng(1).integers(0, 256, (3, 4, 3)).astype(np.uint8)


def made(*body, output=OUTPUT, **weights):
    """A graph of these lines behind the boundary, at scale 1 and zero point 128."""
    text = f"{HEADER} tiny (float[B,4,T] features, int64[B] lengths) => ({output}) {{ {' '.join((QUANTIZE, *body))} }}"
    model = onnx.parser.parse_model(text)
    stored = {"scale": np.float32(1), "zero": np.uint8(128), "weight": WEIGHT, **weights}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items())
    return model


def plain(**weights):
    """A convolution whose sums are the logits."""
    return made(CONV, "[end] logits = Identity(sums)", LENGTHS, **weights)


def expected_sums(weight=WEIGHT):
    """In float64, which is exact here."""
    codes = np.clip(np.rint(FEATURES.astype(np.float64)), -128, 127)
    padded = np.pad(codes, [(0, 0), (0, 0), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 3, 2)
    return np.einsum("bctk,ock->bot", windows, weight.astype(np.float64) - 128)


def test_logits_and_lengths_come_back_in_their_types():
    logits, lengths = IntegerExecutor(plain())(FEATURES, LONG)
    assert (logits.dtype, lengths.dtype) == (np.int32, np.int64)
    assert np.array_equal(logits, expected_sums())
    assert np.array_equal(lengths, LONG)


def test_any_tensor_can_be_had_and_only_those_that_were_asked_for_are_kept():
    found = IntegerExecutor(plain()).run({"features": FEATURES, "lengths": LONG}, ["codes", "sums"])
    assert set(found) == {"codes", "sums"}
    assert (found["codes"].dtype, found["sums"].dtype) == (np.uint8, np.int32)
    assert np.array_equal(found["codes"], np.clip(np.rint(FEATURES) + 128, 0, 255))


def test_feeds_are_not_changed_and_a_second_run_gives_the_same():
    features, executor = FEATURES.copy(), IntegerExecutor(plain())
    first, second = executor(features, LONG), executor(features, LONG)
    assert np.array_equal(features, FEATURES)
    assert np.array_equal(first[0], second[0])


# bounds


def test_a_sum_beyond_its_bound_names_the_node():
    largest = int(np.abs(expected_sums()).max())
    logits, _ = IntegerExecutor(plain(), {"conv": largest})(FEATURES, LONG)
    assert np.abs(logits).max() == largest
    with pytest.raises(QualityError, match=rf"conv \(ConvInteger\): .*bound {largest - 1}\n") as error:
        IntegerExecutor(plain(), {"conv": largest - 1})(FEATURES, LONG)
    assert error.value.repair == REPAIR


@pytest.mark.parametrize("sign", [-1, 1])
def test_bounds_hold_on_both_sides(sign):
    weight = np.full((1, 4, 3), 128 + sign, np.uint8)
    features = np.full_like(FEATURES, 100)
    IntegerExecutor(plain(weight=weight), {"conv": 1200})(features, LONG)
    with pytest.raises(QualityError, match=rf"{1200 if sign > 0 else -1200}\b.*bound 1199"):
        IntegerExecutor(plain(weight=weight), {"conv": 1199})(features, LONG)


@pytest.mark.parametrize("op", ["MatMulInteger", "MatMul"])
def test_matrix_products_have_bounds_too(op):
    cast = "" if op == "MatMulInteger" else "[wide] long = Cast <to=7> (codes)"
    inputs = "(codes, square, zero, zero)" if op == "MatMulInteger" else "(long, square)"
    kind = np.uint8 if op == "MatMulInteger" else np.int64
    model = made(
        cast,
        f"[product] sums = {op} {inputs}",
        "[end] logits = Cast <to=6> (sums)",
        LENGTHS,
        square=np.full((9, 2), 3, kind),
    )
    IntegerExecutor(model, {"product": 10**6})(FEATURES, LONG)
    with pytest.raises(QualityError, match=rf"product \({op}\): .*bound 10\n"):
        IntegerExecutor(model, {"product": 10})(FEATURES, LONG)


def test_other_operators_have_no_bound():
    IntegerExecutor(plain(), {"end": 0})(FEATURES, LONG)


# types


def wide_product(count):
    """One sum of `count` products 255 x 255."""
    model = made(
        "[flat] row = Reshape(codes, shape)",
        "[big] logits = MatMulInteger(row, column, none, none)",
        LENGTHS,
        output="int32[A,O] logits, int64[B] output_lengths",
        shape=np.array([1, -1]),
        none=np.uint8(0),
        column=np.full((count, 1), 255, np.uint8),
    )
    return IntegerExecutor(model), np.full((1, 4, count // 4), 1e9, np.float32)


def test_a_sum_that_leaves_int32_is_caught():
    """33026 products 255 x 255 are above 2^31 - 1, which int32 would wrap to a negative number."""
    executor, features = wide_product(33024)
    assert executor(features, LONG)[0].tolist() == [[33024 * 255 * 255]]
    executor, features = wide_product(33028)
    with pytest.raises(QualityError, match=rf"big .*: {33028 * 65025} .. {33028 * 65025} "):
        executor(features, LONG)


def test_a_bias_that_takes_a_sum_out_of_int32_is_caught():
    bias = np.full((3, 1), 2**31 - 1, np.int32)
    model = made(CONV, "[bias] logits = Add(sums, bias)", LENGTHS, bias=bias)
    with pytest.raises(QualityError, match=r"bias \(Add\): .*int32"):
        IntegerExecutor(model)(FEATURES, LONG)
    assert expected_sums().max() > 0


@pytest.mark.parametrize(("to", "kind"), [(2, "uint8"), (6, "int32"), (13, "uint64")])
def test_a_cast_that_would_wrap_is_caught(to, kind):
    model = made(
        CONV,
        "[wide] long = Cast <to=7> (sums)",
        "[shift] far = Mul(long, factor)",
        f"[cast] narrow = Cast <to={to}> (far)",
        "[end] logits = Cast <to=6> (sums)",
        LENGTHS,
        factor=np.int64(2**20),
    )
    with pytest.raises(QualityError, match=rf"cast \(Cast\): .*{kind}"):
        IntegerExecutor(model)(FEATURES, LONG)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "[planted] real = Cast <to=1> (sums) [back] logits = Cast <to=6> (real)",
            r"\(Cast\): real is float32",
        ),
        (
            "[planted] half = Cast <to=10> (sums) [back] logits = Cast <to=6> (half)",
            r"\(Cast\): half is float16",
        ),
        (
            "[planted] real = Constant <value = float {0.5}> () [back] logits = Identity(sums)",
            r"\(Constant\): real is float32",
        ),
        ("[planted] real = Add(scale, scale) [back] logits = Identity(sums)", r"\(Add\): reads"),
        (
            "[planted] real = Identity(features) [back] logits = Identity(sums)",
            r"\(Identity\): reads",
        ),
        (
            "[planted] whole = Cast <to=6> (scale) [back] logits = Add(sums, whole)",
            r"\(Cast\): reads",
        ),
        ("[planted] logits = Cast <to=6> (features)", r"\(Cast\): reads"),
        ("[planted] size = Shape(features) [back] logits = Identity(sums)", r"\(Shape\): reads"),
    ],
)
def test_a_planted_float_tensor_names_the_node(line, words):
    with pytest.raises(QualityError, match=f"planted {words}.* integer"):
        IntegerExecutor(made(CONV, line, LENGTHS))(FEATURES, LONG)


def test_booleans_are_no_integers():
    model = made(CONV, "[mask] same = Cast <to=9> (sums)", "[back] logits = Identity(sums)", LENGTHS)
    with pytest.raises(QualityError, match=r"mask \(Cast\): same is bool"):
        IntegerExecutor(model)(FEATURES, LONG)


def test_an_operator_without_a_kernel_is_refused_before_anything_runs():
    with pytest.raises(QualityError, match="odd: Sqrt "):
        IntegerExecutor(made(CONV, "[odd] root = Sqrt(scale)", "[end] logits = Identity(sums)", LENGTHS))


# order of use


def test_tensors_live_until_their_last_reader():
    model = made(
        CONV,
        "[a] double = Add(sums, sums)",
        "[b] triple = Add(double, sums)",
        "[c] logits = Sub(triple, sums)",
        LENGTHS,
    )
    assert np.array_equal(IntegerExecutor(model)(FEATURES, LONG)[0], 2 * expected_sums())
    assert last_use(list(model.graph.node))[1:5] == [["codes", "weight", "zero"], [], ["double"], ["triple", "sums"]]


def test_an_output_that_is_read_again_is_kept():
    model = made(CONV, "[a] logits = Add(sums, sums)", "[b] output_lengths = Shape(logits)")
    logits, lengths = IntegerExecutor(model)(FEATURES, LONG)
    assert np.array_equal(logits, 2 * expected_sums())
    assert lengths.tolist() == [2, 3, 9]


def test_the_parts_of_a_split_go_separate_ways():
    model = made(
        CONV,
        "[split] left, middle, right = Split <axis=2, num_outputs=3> (sums)",
        "[end] logits = Concat <axis=2> (right, middle, left)",
        LENGTHS,
    )
    sums = expected_sums()
    assert np.array_equal(IntegerExecutor(model)(FEATURES, LONG)[0], sums[:, :, [6, 7, 8, 3, 4, 5, 0, 1, 2]])


def test_constants_of_any_shape():
    model = made(CONV, "[one] seven = Constant <value = int32 {7}> ()", "[sum] logits = Add(sums, seven)", LENGTHS)
    assert np.array_equal(IntegerExecutor(model)(FEATURES, LONG)[0], expected_sums() + 7)


def test_types_are_known_for_every_tensor():
    types = element_types(plain())
    assert {name: str(kind) for name, kind in types.items()} == {
        "codes": "uint8",
        "sums": "int32",
        "logits": "int32",
        "output_lengths": "int64",
    }
