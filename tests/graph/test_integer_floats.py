"""The proof that nothing is floating: every tensor of another type is found, and named with what makes or reads it."""

import numpy as np
import pytest
from integer_graphs import LONGEST, QUANTIZE, lines, model_of

from trtasr.errors import QualityError
from trtasr.graph.check import run_graph
from trtasr.graph.integer_proof import inspect_integer, prove


@pytest.mark.parametrize(
    ("maker", "floats"),
    [
        ("[floating] f = Cast <to=1> (q) g = Mul(f, one) y = Cast <to=7> (g)", ("f", "one", "g")),
        ("d = DequantizeLinear(q, s, z) y = Cast <to=7> (d)", ("s", "d")),
        ("i = Cast <to=7> (q) m = Greater(i, seven) y = Cast <to=7> (m)", ("m",)),  # bool
        ("h = Cast <to=10> (q) y = Cast <to=7> (h)", ("h",)),
        ("f = Cast <to=7> (features) i = Cast <to=7> (q) y = Add(f, i)", ("features",)),
        ("i = Cast <to=7> (q) c = Constant <value_float=0.5> () t = Cast <to=7> (c) y = Add(i, t)", ("c",)),
        (
            "h = Shape(features) i = Cast <to=7> (q) k = Constant <value_int=2> () e = Gather(h, k) y = Add(e, i)",
            ("features",),
        ),
    ],
)
def test_every_tensor_of_another_type_is_found(maker, floats):
    assert inspect_integer(lines(maker), LONGEST).floats == floats
    assert not inspect_integer(lines(maker), LONGEST).integer_only


def test_a_float_tensor_is_named_with_the_node_that_makes_it():
    model = lines("[floating] f = Cast <to=1> (q) [times] g = Mul(f, one) [back] y = Cast <to=7> (g)")
    run_graph(model, {"features": np.ones((1, 4, 2), np.float32)})
    with pytest.raises(QualityError, match=r"'f', .*'floating' \(Cast\), is float"):
        prove(model, LONGEST)


@pytest.mark.parametrize(
    ("maker", "words"),
    [
        ("[greater] m = Greater(q, z) y = Cast <to=7> (m)", r"'m', .*'greater' \(Greater\), is bool"),
        (
            "[cast] f = Cast <to=7> (features) y = Identity(f)",
            r"'features', .*'cast' \(Cast\)",
        ),
        ("[times] f = Mul(one, one) y = Cast <to=7> (q)", r"'one', .*'times' \(Mul\), is float"),
        (
            "[cast] i = Cast <to=7> (s) l = Cast <to=7> (q) y = Add(i, l)",
            r"'s', .*'cast' \(Cast\), is float",
        ),
        (
            "several = SequenceConstruct(q, q) y = Cast <to=7> (q)",
            r"'several' \(SequenceConstruct\): .*type",
        ),
    ],
)
def test_other_tensors_are_named_too(maker, words):
    with pytest.raises(QualityError, match=words):
        prove(lines(maker), LONGEST)


def test_a_float_output_is_found():
    model = model_of(f"{QUANTIZE} y = Cast <to=7> (q)", output="int64[B,4,T] y, float[B,4,T] features")
    with pytest.raises(QualityError, match=r"'features', .* an output, is float"):
        prove(model, LONGEST)


def test_only_a_graph_input_with_a_constant_scale_is_a_boundary():
    computed = lines("t = Mul(one, one) i = QuantizeLinear(features, t, z) y = Cast <to=7> (i)")
    assert inspect_integer(computed, LONGEST).floats == ("one", "t", "features")
    behind = lines("f = DequantizeLinear(q, s, z) i = QuantizeLinear(f, s, z) y = Cast <to=7> (i)")
    assert inspect_integer(behind, LONGEST).floats == ("s", "f")
    assert inspect_integer(behind, LONGEST).boundary == ("quantize",)


def test_the_scale_may_be_a_constant_node():
    model = model_of(
        "t = Constant <value_float=0.5> () [quantize] q = QuantizeLinear(features, t, z) y = Cast <to=7> (q)",
        output="int64[B,4,T] y",
    )
    proof = prove(model, LONGEST)
    assert (proof.tensors, proof.boundary) == (2, ("quantize",))
