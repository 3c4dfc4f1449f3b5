import math
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtasr.report.svg import Axis, latency_bars, range_scatter, sqnr_stems
from trtasr.values import BenchResult, Latency, TensorScale

POSITIVE = st.floats(1e-6, 1e6)


def circles(markup: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(markup).iter("circle"))


def assert_finite_numbers(markup: str) -> None:
    for element in ElementTree.fromstring(markup).iter():
        for key in ("x", "y", "cx", "cy", "r", "width", "height"):
            if key in element.attrib:
                assert math.isfinite(float(element.attrib[key]))
    assert "nan" not in markup
    assert "inf" not in markup


def test_axis():
    assert Axis(0, 10, 100, 200)(2.5) == 125
    assert Axis(1, 100, 0, 10, log=True)(10) == pytest.approx(5)


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_scatter_draws_every_tensor_inside_the_picture(pairs):
    drawing = range_scatter([(f"t{i}", audio, synthetic) for i, (audio, synthetic) in enumerate(pairs)])
    assert_finite_numbers(drawing)
    points = circles(drawing)
    assert len(points) == len(pairs)
    assert all(64 <= float(p.attrib["cx"]) <= 544 and 16 <= float(p.attrib["cy"]) <= 496 for p in points)
    far = sum(not 0.5 <= synthetic / audio <= 2.0 for audio, synthetic in pairs)
    assert sum("warn" in p.attrib["class"] for p in points) == far


@given(st.lists(st.floats(-20, 90), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_stems_are_lower_for_lower_sqnr(values):
    drawing = sqnr_stems({f"t{i}": TensorScale(1.0, "mse", sqnr_db=value) for i, value in enumerate(values)})
    assert_finite_numbers(drawing)
    heights = [-float(p.attrib["cy"]) for p in circles(drawing)]
    assert all(16 <= -height <= 250 for height in heights)
    order = sorted(range(len(values)), key=values.__getitem__)
    assert [heights[i] for i in order] == sorted(heights)
    assert sum("warn" in p.attrib["class"] for p in circles(drawing)) == min(5, len(values))


def test_unmeasured_tensors_are_left_out():
    tensors = {"a": TensorScale(1.0, "max"), "b": TensorScale(1.0, "max", sqnr_db=30.0)}
    assert len(circles(sqnr_stems(tensors))) == 1
    assert sqnr_stems({"a": TensorScale(1.0, "max")}) == ""
    assert range_scatter([]) == ""


def test_latency_bars_are_proportional_to_the_median():
    rows = [
        BenchResult("int8 cpu", "cpu", 1, (Latency(25.0, 30.0, 31.0, 50, 15.0, 1, 1, "CPU"),)),
        BenchResult("fp32", "fp32", 1, (Latency(100.0, 120.0, 130.0, 50, 15.0, 1, 1, "CPU"),)),
        BenchResult("int8 t4-rtx", "t4-rtx", 1),
    ]
    drawing = latency_bars(rows)
    assert_finite_numbers(drawing)
    bars = [r for r in ElementTree.fromstring(drawing).iter("rect") if r.attrib["height"] == "18"]
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert widths[0] == pytest.approx(4 * widths[1], rel=0.01)
    assert "100.0 / 120.0 ms" in drawing
    assert "t4-rtx" not in drawing
    assert latency_bars(rows[2:]) == ""


def test_different_devices_are_not_put_in_one_group():
    rows = [
        BenchResult("a", "cpu", 1, (Latency(25.0, 30.0, 31.0, 50, 15.0, 1, 1, "Some CPU"),)),
        BenchResult("b", "t4", 1, (Latency(2.0, 3.0, 3.1, 50, 15.0, 1, 0, "Tesla T4"),)),
    ]
    drawing = latency_bars(rows)
    assert "15 s of audio, Some CPU" in drawing
    assert "15 s of audio, Tesla T4" in drawing


def test_hostile_names_are_escaped():
    drawing = sqnr_stems({"</title><script>x": TensorScale(1.0, "max", sqnr_db=30.0)})
    assert "<script>" not in drawing
    ElementTree.fromstring(drawing)
