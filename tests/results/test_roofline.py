"""A layer takes what binds it, and a network the sum."""

from trtasr.results.roofline import Bound, Roofline

ARITHMETIC, TRAFFIC = Bound("a", "fp16", 3.0, 1.0), Bound("b", "fp16", 0.5, 2.0)


def test_the_larger_bound_counts():
    assert (ARITHMETIC.milliseconds, ARITHMETIC.memory_bound) == (3.0, False)
    assert (TRAFFIC.milliseconds, TRAFFIC.memory_bound) == (2.0, True)


def test_a_network_takes_the_sum_of_its_layers():
    found = Roofline(1, 2.0, (ARITHMETIC, ARITHMETIC), (ARITHMETIC, TRAFFIC), (TRAFFIC,), ())
    assert found.totals_ms == {"fp32": 6.0, "fp16": 5.0, "int8": 2.0, "int8_depthwise": 0}
