import math
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtasr.report.speed_view import Point
from trtasr.report.svg import Axis, range_scatter, sqnr_stems, tradeoff_scatter
from trtasr.values import TensorScale

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


def points(rows):
    return [Point(i, f"e{i}", "15 s", rtfx, wer, "int8") for i, (rtfx, wer) in enumerate(rows, start=1)]


@given(st.lists(st.tuples(st.none() | st.floats(0.1, 1e5), st.floats(0, 100)), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_tradeoff_draws_every_engine_inside_the_picture(rows):
    drawing = tradeoff_scatter(points(rows))
    if all(rtfx is None for rtfx, _ in rows):
        assert drawing == ""
        return
    assert_finite_numbers(drawing)
    dots = circles(drawing)
    assert len(dots) == len(rows)
    assert all(64 <= float(d.attrib["cx"]) <= 544 and 16 <= float(d.attrib["cy"]) <= 330 for d in dots)
    assert ["hollow" in d.attrib["class"] for d in dots] == [rtfx is None for rtfx, _ in rows]


def test_faster_is_further_right_and_a_lower_wer_is_lower():
    slow, fast, untimed = circles(tradeoff_scatter(points([(40.0, 13.2), (400.0, 13.0), (None, 13.1)])))
    assert float(untimed.attrib["cx"]) < float(slow.attrib["cx"]) < float(fast.attrib["cx"])
    assert float(slow.attrib["cy"]) < float(untimed.attrib["cy"]) < float(fast.attrib["cy"])


def test_numbers_of_close_engines_do_not_cover_each_other():
    drawing = ElementTree.fromstring(tradeoff_scatter(points([(100.0, 13.2), (101.0, 13.2), (102.0, 13.2)])))
    ranks = [t for t in drawing.iter("text") if "rank" in t.attrib["class"]]
    places = [(float(t.attrib["x"]), float(t.attrib["y"])) for t in ranks]
    assert [t.text for t in ranks] == ["1", "2", "3"]
    assert all(math.dist(a, b) > 13 for a in places for b in places if a is not b)


def test_hostile_names_are_escaped():
    drawing = sqnr_stems({"</title><script>x": TensorScale(1.0, "max", sqnr_db=30.0)})
    assert "<script>" not in drawing
    ElementTree.fromstring(drawing)
