"""Bits of sums: what they can reach, and what no input can."""

import pytest

from trtasr.results import Accumulator, IntegerGraph, Proof


@pytest.mark.parametrize(
    ("bound", "bits"), [(0, 0), (1, 1), (2**20 - 1, 20), (2**20, 21), (2**31 - 1, 31), (2**40, 41)]
)
def test_bits_of_a_bound_and_what_is_left(bound, bits):
    sums = Accumulator("conv", "ConvInteger", 9, bound, 63)
    assert (sums.bits, sums.headroom) == (bits, 63 - bits)


def proof(*accumulators, floats=()):
    return Proof(10, floats, (), {}, accumulators, 8)


def test_one_tensor_of_another_type_is_enough():
    assert proof().integer_only
    assert not proof(floats=("x",)).integer_only


def test_the_sidecar_has_the_largest_sum_in_an_int32():
    wide, narrow = Accumulator("a", "MatMul", 5, 2**50, 63), Accumulator("b", "ConvInteger", 5, 2**24, 31)
    graph = IntegerGraph("i.onnx", "q.onnx", 123, proof(narrow, wide, Accumulator("c", "ConvInteger", 5, 9, 31)))
    assert graph.sum_bits == 25
    assert IntegerGraph("i.onnx", "q.onnx", 123, proof(wide)).sum_bits == 0
    assert graph.to_json() == {
        "graph": "i.onnx",
        "reference": "q.onnx",
        "size_bytes": 123,
        "tensors": 10,
        "float_tensors": 0,
        "int32_sum_bits": 25,
    }
