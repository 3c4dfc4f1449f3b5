"""The proof that sums fit their type: bounds that are reached, what overflows, and what cannot be proved."""

import numpy as np
import onnx
import pytest
from integer_graphs import LONGEST, QUANTIZE, lines, model_of
from onnx import numpy_helper

from trtasr.errors import QualityError
from trtasr.graph.check import run_graph
from trtasr.graph.integer_proof import inspect_integer, prove

LAYER = f"""{QUANTIZE}
    [conv] sums = ConvInteger <kernel_shape=[3], pads=[1,1]> (q, w, z, z)
    [bias] biased = Add(sums, bias)
    [wide] long = Cast <to=7> (biased)
    [scale] scaled = Mul(long, multiplier)
    [round] raised = Add(scaled, addend)
    [divide] quotient = Div(raised, divisor)
    [clip] clipped = Clip(quotient, low, high)
    [codes] y = Cast <to=2> (clipped)"""


def layer(weight, bias, **changed):
    """A convolution as integer-only inference has it: sums, bias, dyadic rescaling, codes."""
    weights = {
        "w": (weight + 128).astype(np.uint8),
        "bias": np.int32(bias),
        "multiplier": np.int64(2**20),
        "addend": np.int64(2**29),
        "divisor": np.int64(2**30),
        "low": np.int64(0),
        "high": np.int64(255),
    }
    return model_of(LAYER, output=f"uint8[B,{len(weight)},U] y", **weights | changed)


def random_weight(channels):
    return np.random.default_rng(3).integers(-128, 128, (channels, 4, 3))


def worst_inputs(weight):
    """For each output channel the features that make its sum largest and smallest, [2 O, I, K]."""
    high = np.where(weight > 0, 127, -128)
    low = np.where(weight > 0, -128, 127)
    return np.concatenate([high, low]).astype(np.float32)


def ran_sums(model, weight, name):
    """Sums of the worst inputs in the runtime, each in the middle frame."""
    outlet = onnx.ModelProto()
    outlet.CopyFrom(model)
    outlet.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT32, None))
    return run_graph(outlet, {"features": worst_inputs(weight)}, [name])[name][:, :, 1]


def test_a_layer_is_proved():
    proof = prove(layer(random_weight(3), np.zeros((3, 1))), LONGEST)
    assert proof.integer_only
    assert (proof.tensors, proof.floats, proof.boundary) == (9, (), ("quantize",))
    assert proof.operators == {
        "Add": 2,
        "Cast": 2,
        "Clip": 1,
        "ConvInteger": 1,
        "Div": 1,
        "Mul": 1,
        "QuantizeLinear": 1,
    }
    assert list(proof.operators) == sorted(proof.operators)
    (sums,) = proof.accumulators
    assert (sums.node, sums.op, sums.products, sums.capacity) == ("conv", "ConvInteger", 12, 31)
    assert (sums.bits, sums.headroom) == (sums.bound.bit_length(), 31 - sums.bound.bit_length())
    assert proof.widest == (sums.bound * 2**20 + 2**29).bit_length()


def test_the_bound_is_reached():
    weight = random_weight(3)
    model = layer(weight, np.zeros((3, 1)))
    (sums,) = prove(model, LONGEST).accumulators
    assert sums.bound == np.abs(ran_sums(model, weight, "sums")).max()


@pytest.mark.parametrize("bias", [50_000, -50_000])
def test_the_bound_with_a_bias_is_reached(bias):
    weight = random_weight(1)
    model = layer(weight, np.full((1, 1), bias))
    (sums,) = prove(model, LONGEST).accumulators
    assert sums.bound == np.abs(ran_sums(model, weight, "biased")).max()


def test_a_matrix_product_is_proved():
    weight = np.random.default_rng(4).integers(-128, 128, (6, 5))
    model = model_of(
        f"{QUANTIZE} [linear] y = MatMulInteger(q, w, z, z)",
        "float[T,6] features",
        "int32[T,5] y",
        w=(weight + 128).astype(np.uint8),
    )
    (sums,) = prove(model, LONGEST).accumulators
    made = run_graph(model, {"features": worst_inputs(weight.T)})["y"]
    assert (sums.products, sums.bound) == (6, np.abs(made).max())


def test_only_a_constant_counts_as_bias_and_only_computed_tensors_as_wide():
    weight = np.full((4, 4), 129, np.uint8)
    model = model_of(
        f"""{QUANTIZE} [linear] a = MatMulInteger(q, w, z, z) b = Add(a, a)
        far = Constant <value_int=4611686018427387904> () l = Cast <to=7> (b) y = Div(l, far)""",
        "float[T,4] features",
        "int64[T,4] y",
        w=weight,
    )
    proof = prove(model, LONGEST)
    assert (proof.accumulators[0].bound, proof.widest) == (4 * 128, (8 * 128).bit_length())
    alone = model_of(f"{QUANTIZE} y = MatMulInteger(q, w, z, z)", "float[T,4] features", "int32[T,4] y", w=weight)
    assert prove(alone, LONGEST).widest == 0


@pytest.mark.parametrize("comparison", ["Max(h, zero)", "Min(h, zero)", "Clip(h, zero, seven)"])
def test_comparisons_of_int64_that_onnx_runtime_gets_wrong_are_refused(comparison):
    made = "zero = Constant <value_int=0> () i = Cast <to=7> (q) {} y = " + comparison
    assert prove(lines(made.format("h = Mul(i, i)")), LONGEST).integer_only
    with pytest.raises(QualityError, match="compares int64"):
        prove(lines(made.format("square = Mul(i, i) h = Mul(square, square)")), LONGEST)


def test_long_sums_that_onnx_runtime_adds_in_floating_point_are_refused():
    made = "i = Cast <to=7> (q) p = Mul(i, i) h = Mul(p, p) k = Mul(h, p) a = Constant <value_ints=[0]> () "
    assert prove(lines(made, "y = ReduceSum(h, a)"), LONGEST).integer_only
    with pytest.raises(QualityError, match="adds in float64"):
        prove(lines(made, "y = ReduceSum(k, a)"), LONGEST)


FUNCTIONS = """
    <domain: "trtasr", opset_import: ["" : 20, "trtasr" : 1]> Outer (x) => (r) {{ a = Cast <to=7> (x)
        b = trtasr.Inner(a) two = Constant <value_int=2> () r = Mul(b, two) }}
    <domain: "trtasr", opset_import: ["" : {opset}]> Inner (x) => (r) {{ {body} }}"""


def nested(body, opset=20):
    return model_of(
        f"{QUANTIZE} [call] y = trtasr.Outer(q)",
        output="int64[B,4,T] y",
        functions=FUNCTIONS.format(body=body, opset=opset),
    )


def test_nested_functions_are_looked_through():
    proof = prove(nested("three = Constant <value_int=3> () r = Mul(x, three)"), LONGEST)
    assert proof.operators == {"Cast": 1, "Constant": 2, "Mul": 2, "QuantizeLinear": 1}
    assert proof.widest == (255 * 6).bit_length()


def test_a_float_constant_in_a_nested_function_is_found():
    model = nested("half = Constant <value_float=0.5> () f = Cast <to=1> (x) g = Mul(f, half) r = Cast <to=7> (g)")
    run_graph(model, {"features": np.ones((1, 4, 2), np.float32)})
    with pytest.raises(QualityError, match=r"'half__2' \(Constant\), is float"):
        prove(model, LONGEST)


def test_a_function_that_cannot_be_inlined_is_refused():
    """The inliner silently leaves calls of functions of another opset."""
    with pytest.raises(QualityError, match=r"trtasr\.Inner\b"):
        prove(nested("f = Cast <to=1> (x) r = Cast <to=7> (f)", opset=19), LONGEST)


def test_operators_of_others_are_refused():
    model = lines("y = Cast <to=7> (q)")
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    model.graph.node[-1].domain = "com.example"
    with pytest.raises(QualityError, match=r"'y' \(Cast\): .*com\.example\.Cast"):
        prove(model, LONGEST)


def test_declared_types_are_not_believed():
    model = lines("[floating] f = Cast <to=1> (q) y = Cast <to=7> (f)")
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("f", onnx.TensorProto.INT64, None))
    assert inspect_integer(model, LONGEST).floats == ("f",)
    model = lines("y = Cast <to=7> (q)")
    model.graph.node[-1].attribute[0].i = onnx.TensorProto.FLOAT  # the output stays declared as int64
    with pytest.raises(QualityError, match=r"types .*inferred: .*Cast"):
        prove(model, LONGEST)


def test_declared_shapes_are_not_believed():
    """The inliner brings what functions declare of their tensors along."""
    model = nested("t = Neg(x) two = Constant <value_ints=[2]> () r = ReduceSum(t, two)")
    function = next(item for item in model.functions if item.name == "Inner")
    function.value_info.append(onnx.helper.make_tensor_value_info("t", onnx.TensorProto.INT64, ["B", 4, 1]))
    assert prove(model, LONGEST).widest == (2 * 255 * LONGEST).bit_length()


def test_operands_of_two_types_are_an_error():
    model = lines("i = Cast <to=7> (q) y = Mul(i, seven)")
    model.graph.node[-1].input[1] = "z"
    with pytest.raises(QualityError, match=r"types .*inferred: .*Mul"):
        prove(model, LONGEST)


def test_a_tensor_that_is_made_twice_is_refused():
    model = lines("i = Cast <to=7> (q) y = Neg(i)")
    model.graph.node.append(model.graph.node[-1])
    with pytest.raises(QualityError, match="'y' is made by more"):
        prove(model, LONGEST)


@pytest.mark.parametrize("bias", [2**31 - 1000, -(2**31) + 1000])
def test_a_bias_that_overflows_is_found(bias):
    with pytest.raises(QualityError, match=r"'bias' \(Add\): .* -?2\d{9} .*int32"):
        prove(layer(random_weight(1), np.full((1, 1), bias)), LONGEST)


@pytest.mark.parametrize(("terms", "fits"), [(2**31 // (128 * 127), True), (2**31 // (128 * 127) + 1, False)])
def test_a_sum_of_too_many_products_is_found(terms, fits):
    model = model_of(
        f"{QUANTIZE} [linear] y = MatMulInteger(q, w, z, z)",
        f"float[T,{terms}] features",
        "int32[T,1] y",
        w=np.full((terms, 1), 255, np.uint8),
    )
    if fits:
        (sums,) = prove(model, LONGEST).accumulators
        assert sums.headroom == 0
        low = np.full((1, terms), -128, np.float32)
        assert run_graph(model, {"features": low})["y"].item() == -sums.bound
    else:
        with pytest.raises(QualityError, match=r"'linear' .* -2147\d{6} .*int32"):
            prove(model, LONGEST)


def test_a_product_beyond_64_bits_is_found():
    with pytest.raises(QualityError, match=r"'scale' \(Mul\): .* -?2\^\d+ .*int64"):
        prove(layer(random_weight(1), np.zeros((1, 1)), multiplier=np.int64(2**50)), LONGEST)


def test_a_narrowing_cast_is_found():
    with pytest.raises(QualityError, match=r"'codes' \(Cast\): .* 256 .*uint8"):
        prove(layer(random_weight(1), np.zeros((1, 1)), multiplier=np.int64(2**22), high=np.int64(256)), LONGEST)


def test_a_division_by_zero_is_found():
    with pytest.raises(QualityError, match=r"'bad' \(Div\): .*zero.* 0 \.\. 255"):
        prove(lines("i = Cast <to=7> (q) [bad] y = Div(seven, i)"), LONGEST)
    prove(lines("i = Cast <to=7> (q) o = Constant <value_int=1> () m = Max(i, o) y = Div(seven, m)"), LONGEST)


def test_an_unknown_operator_is_refused():
    with pytest.raises(QualityError, match=r"'odd' \(BitwiseXor\): no .*rule"):
        prove(lines("i = Cast <to=7> (q) [odd] y = BitwiseXor(i, seven)"), LONGEST)


def test_a_loop_is_refused():
    """Its body is a graph of its own, here with a float tensor."""
    body = """steps (int64 n, bool go, int64[4] v) => (bool on, int64[4] w) {
        on = Identity(go) f = Cast <to=1> (v) w = Cast <to=7> (f) }"""
    model = model_of(
        f'[loop] y = Loop <body = {body}> (two, "", four)',
        "int64 unused",
        "int64[4] y",
        two=np.int64(2),
        four=np.arange(4),
    )
    assert run_graph(model, {"unused": np.array(0)})["y"].tolist() == [0, 1, 2, 3]
    with pytest.raises(QualityError, match=r"'loop' \(Loop\): no .*rule"):
        prove(model, LONGEST)


def test_a_branch_is_refused():
    branch = "{} () => (int64[4] {}) {{ {} = Identity(four) }}"
    model = model_of(
        f"y = If (cond) <then_branch = {branch.format('yes', 'a', 'a')}, "
        f"else_branch = {branch.format('no', 'b', 'b')}>",
        "bool cond",
        "int64[4] y",
        four=np.arange(4),
    )
    with pytest.raises(QualityError, match=r"'cond', .*'y' \(If\), is bool"):
        prove(model, LONGEST)


@pytest.mark.parametrize("longest", [10, 1000])
def test_a_sum_over_time_has_as_many_terms_as_the_longest(longest):
    model = lines("i = Cast <to=7> (q) axes = Constant <value_ints=[2]> () y = ReduceSum(i, axes)")
    assert prove(model, longest).widest == (255 * longest).bit_length()


def test_a_product_over_time_has_as_many_terms_as_the_longest():
    """Attention: scores over four channels, then over T frames."""
    model = model_of(
        f"""{QUANTIZE} i = Cast <to=6> (q) t = Transpose <perm=[0,2,1]> (i)
        [scores] a = MatMul(t, i) [wide] l = Cast <to=7> (a) v = Cast <to=7> (t) [mix] y = MatMul(l, v)""",
        output="int64[B,T,4] y",
    )
    scores, mix = prove(model, LONGEST).accumulators
    assert (scores.products, scores.bound, scores.capacity) == (4, 4 * 255**2, 31)
    assert (mix.products, mix.bound, mix.capacity) == (LONGEST, LONGEST * 4 * 255**3, 63)
    made = run_graph(model, {"features": np.full((1, 4, 3), 127, np.float32)})["y"]
    assert made.max() == 3 * 4 * 255**3


def test_dimensions_come_through_a_computed_reshape():
    """Heads, as in attention: what is summed over is known although B and T are not."""
    model = model_of(
        f"""{QUANTIZE} whole = Shape(q) two = Constant <value_ints=[0, 2]> () bt = Gather(whole, two)
        heads = Constant <value_ints=[2, 2]> () full = Concat <axis=0> (bt, heads)
        t = Transpose <perm=[0,2,1]> (q) i = Cast <to=6> (t) r = Reshape(i, full)
        a = Transpose <perm=[0,2,1,3]> (r) b = Transpose <perm=[0,2,3,1]> (r) [scores] y = MatMul(a, b)""",
        output="int32[B,2,T,T] y",
    )
    (scores,) = prove(model, LONGEST).accumulators
    assert scores.products == 2
    assert run_graph(model, {"features": np.zeros((2, 4, 5), np.float32)})["y"].shape == (2, 2, 5, 5)


def test_lengths_are_counts():
    """A mask without bool: 1 where a frame is below its length, lengths up to 2^31 - 1."""
    model = model_of(
        """[ahead] d = Sub(lengths, frames) [mask] y = Clip(d, zero, one)""",
        "int64[B,1] lengths",
        "int64[B,4] y",
        frames=np.arange(4),
        zero=np.int64(0),
        one=np.int64(1),
    )
    assert prove(model, LONGEST).widest == 31
    made = run_graph(model, {"lengths": np.array([[0], [2], [9]])})["y"]
    assert made.tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    model.graph.node[0].op_type = "Mul"
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.full(4, 2**33), "frames"))
    with pytest.raises(QualityError, match=r"'ahead' \(Mul\): .* 2\^64 .*int64"):
        prove(model, LONGEST)


def test_other_integer_inputs_have_any_value_of_their_type():
    model = model_of("[twice] y = Add(x, x)", "int32[N] x", "int32[N] y")
    with pytest.raises(QualityError, match=r"'twice' \(Add\): .* 4294967294 .*int32"):
        prove(model, LONGEST)


def test_signed_codes():
    model = model_of(
        "q = QuantizeLinear(features, s, zero) y = Cast <to=6> (q)", output="int32[B,4,T] y", zero=np.int8(0)
    )
    assert prove(model, LONGEST).widest == 8  # -128


def test_a_weight_that_callers_may_replace_is_no_constant():
    model = model_of(f"{QUANTIZE} y = Cast <to=7> (q)", "float[B,4,T] features, float s", "int64[B,4,T] y")
    with pytest.raises(QualityError, match="'s' is a graph input"):
        prove(model, LONGEST)


def test_floating_parts_do_not_stop_the_inspection():
    """What is computed from floats has no bound; sums that are not keep theirs."""
    model = model_of(
        f"""{QUANTIZE} [known] a = MatMulInteger(q, w, z, z) f = Cast <to=1> (a) e = Exp(f)
        i = Cast <to=7> (e) [unknown] b = MatMul(i, v) m = Mul(b, b) [again] c = QuantizeLinear(e, s, z)
        [behind] y = MatMulInteger(c, w, z, z)""",
        "float[T,3] features",
        "int32[T,3] y",
        w=np.full((3, 3), 130, np.uint8),
        v=np.ones((3, 3), np.int64),
    )
    proof = inspect_integer(model, LONGEST)
    assert [(item.node, item.bound) for item in proof.accumulators] == [("known", 768), ("behind", 768)]
    assert (proof.floats, proof.boundary) == (("f", "e", "s"), ("quantize",))


def test_overflow_is_found_beside_floating_parts():
    model = lines("f = Cast <to=1> (q) i = Cast <to=7> (q) [narrow] n = Cast <to=3> (i) y = Cast <to=7> (f)")
    with pytest.raises(QualityError, match=r"'narrow' \(Cast\): .* 255 .*int8"):
        inspect_integer(model, LONGEST)


def test_the_model_is_not_changed():
    model = nested("r = Neg(x)")
    before = model.SerializeToString()
    prove(model, LONGEST)
    assert model.SerializeToString() == before
