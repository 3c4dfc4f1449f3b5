import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trtasr.quant.centering import ChannelRange, centering, collect_channels
from trtasr.quant.ranges import CODES, representable

values = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 12), st.integers(1, 40)), elements=st.floats(-100, 100, width=32)
)


@given(values, st.floats(1.0, 2.0))
@settings(max_examples=100, deadline=None)
def test_no_calibration_value_is_clipped_and_the_range_never_grows(x: np.ndarray, headroom: float) -> None:
    channels = collect_channels([("x", x)])["x"]
    offsets, amax = centering(channels, headroom)
    assert np.abs(x - offsets[:, None]).max() <= amax * (1 + 1e-5) + 1e-6
    assert amax <= headroom * np.abs(x).max() * (1 + 1e-5)


@given(values)
@settings(max_examples=60, deadline=None)
def test_zero_stays_on_the_grid(x: np.ndarray) -> None:
    offsets, amax = centering(collect_channels([("x", x)])["x"], 1.0)
    codes = offsets / representable(amax / CODES)
    assert np.abs(codes - np.rint(codes)).max() < 1e-3


def test_a_range_below_the_smallest_float_is_left_alone() -> None:
    tiny = np.array([1e-45], np.float32)
    offsets, amax = centering(ChannelRange(tiny, tiny), 1.0)
    assert not offsets.any()
    assert 0 < amax < 1e-44


def test_one_sided_channels_halve_the_range() -> None:
    offsets, amax = centering(ChannelRange(np.zeros(3, np.float32), np.array([4.0, 2.0, 1.0], np.float32)), 1.0)
    assert abs(amax - 2.0) < 0.02
    assert np.allclose(offsets, [2.0, 1.0, 0.5], atol=0.02)


def test_symmetric_channels_are_left_alone() -> None:
    offsets, amax = centering(ChannelRange(np.array([-1.0, -3.0], np.float32), np.array([1.0, 3.0], np.float32)), 1.0)
    assert not offsets.any()
    assert amax == 3.0


def test_silence_is_left_alone() -> None:
    offsets, amax = centering(ChannelRange(np.zeros(2, np.float32), np.zeros(2, np.float32)), 1.3)
    assert not offsets.any()
    assert amax == 0.0


def test_ranges_add_up_over_the_stream() -> None:
    parts = [("a", np.array([[1.0, -2.0]], np.float32)), ("a", np.array([[5.0]], np.float32))]
    channels = collect_channels(parts)["a"]
    assert (channels.minimum[0], channels.maximum[0]) == (-2.0, 5.0)
