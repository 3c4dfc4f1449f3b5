"""The fewest layers that must go: right where noise adds up, safe where it does not, and found in few measurements."""

import math

from hypothesis import given
from hypothesis import strategies as st

from trtasr.quant.fewest import fewest

NOISE = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=60)


def counted(used):
    """A measurement that notes what it was asked."""
    asked = []

    def measured(count):
        asked.append(count)
        return used(count)

    return asked, measured


@given(NOISE, st.floats(0, 1e3), st.floats(1.001, 1e4), st.sampled_from([0.5, 1.0, 2.0]))
def test_the_count_holds_and_the_one_before_does_not_where_noise_adds_up(noise, rest, start, exponent):
    noise = sorted(noise, reverse=True)
    whole = rest + sum(noise)
    _, used = counted(lambda count: start * ((rest + sum(noise[count:])) / whole) ** exponent)
    found = fewest(noise, rest, used, start)
    if found is None:
        assert used(len(noise)) > 1
    else:
        assert used(found) <= 1
        assert used(found - 1) > 1 - 1e-6


@given(NOISE, st.data())
def test_any_falling_use_is_brought_within_the_allowance(noise, data):
    steps = st.floats(0.01, 50) | st.just(math.inf)
    values = sorted(data.draw(st.lists(steps, min_size=len(noise), max_size=len(noise))), reverse=True)
    asked, used = counted(lambda count: values[count - 1])
    found = fewest(noise, 0.0, used, max(values[0], 2.0))
    assert (found is None) == (values[-1] > 1)
    assert found is None or values[found - 1] <= 1
    assert len(asked) == len(set(asked)) <= 5 + 2 * math.ceil(math.log2(len(noise) + 1))


def test_additive_noise_takes_two_measurements():
    noise = [1 / (place + 1) for place in range(80)]
    asked, used = counted(lambda count: 3 * sum(noise[count:]) / sum(noise))
    assert used(fewest(noise, 0.0, used, 3.0)) <= 1
    assert len(asked) <= 4


def test_a_miss_without_a_size_is_searched_by_doubling_and_halving():
    asked, used = counted(lambda count: 0.0 if count >= 11 else math.inf)
    assert fewest([1.0] * 40, 0.0, used, math.inf) == 11
    assert len(asked) <= 9
