import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtasr.bench.roofline import BANDWIDTH, PEAKS, bound, roofline
from trtasr.results import Traffic

counts = st.integers(1, 10**9)
layers = st.builds(Traffic, st.just("n"), macs=counts, inputs=counts, outputs=counts, weights=counts)


def test_a_pointwise_convolution_by_hand():
    """256 x 256 channels, 700 positions: 45.9 M MACs, 179 200 elements each way, 65 536 weights."""
    layer = Traffic("pw", 256 * 256 * 700, 256 * 700, 256 * 700, 256 * 256)
    fp32, fp16, int8 = (bound(layer, precision) for precision in ("fp32", "fp16", "int8"))
    assert fp32.compute_ms == pytest.approx(0.0113272, rel=1e-5)  # 91.75 MFLOP / 8.1 TFLOPS
    assert fp16.compute_ms == pytest.approx(0.00141155, rel=1e-5)
    assert int8.compute_ms == pytest.approx(0.000705773, rel=1e-5)
    assert fp32.memory_ms == pytest.approx(4 * 423_936 / 320e9 * 1e3)
    assert fp16.memory_ms == pytest.approx(2 * 423_936 / 320e9 * 1e3)
    assert int8.memory_ms == pytest.approx((179_200 + 65_536 + 2 * 179_200) / 320e9 * 1e3)
    assert not fp32.memory_bound
    assert int8.memory_bound


@given(layers, st.sampled_from(sorted(PEAKS)))
def test_no_layer_is_faster_than_arithmetic_or_memory(layer, precision):
    found = bound(layer, precision)
    assert found.milliseconds >= 1e3 * 2 * layer.macs / PEAKS[precision] * (1 - 1e-12)
    assert found.milliseconds >= 1e3 * (layer.inputs + layer.weights + layer.outputs) / BANDWIDTH * (1 - 1e-12)


@given(layers)
def test_fewer_bits_are_never_slower(layer):
    fp32, fp16, int8 = (bound(layer, precision).milliseconds for precision in ("fp32", "fp16", "int8"))
    assert int8 <= fp16 <= fp32


def test_only_the_named_layers_are_int8_and_the_rest_fp16():
    layers = [Traffic("a", 10, 10, 10, 10), Traffic("dw", 10, 10, 10, 10, depthwise=True)]
    estimate = roofline(layers, {"a"}, batch=1, seconds=2.0)
    assert [item.precision for item in estimate.int8] == ["int8", "fp16"]
    assert [item.precision for item in estimate.int8_depthwise] == ["int8", "int8"]
    assert estimate.totals_ms["int8_depthwise"] < estimate.totals_ms["int8"] < estimate.totals_ms["fp16"]


def test_totals_are_the_sums_of_the_layers():
    layers = [Traffic("a", 10**9, 10, 10, 10), Traffic("b", 1, 10**6, 10**6, 10)]
    estimate = roofline(layers, set(), 1, 1.0)
    expected = 2e12 / 65e12 + 1e3 * 2 * (2 * 10**6 + 10) / 320e9
    assert estimate.totals_ms["fp16"] == pytest.approx(expected)
    assert estimate.totals_ms["int8"] == estimate.totals_ms["fp16"]
