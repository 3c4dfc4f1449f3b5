"""Quantization error in the report: the worst first, two calibrations side by side, corrections in numbers."""

import math

import numpy as np
import pytest

from trtasr.report.error_view import (
    WORST_GAPS,
    RangePair,
    activation_rows,
    corrections,
    range_gaps,
    range_note,
    range_pairs,
    weight_rows,
)
from trtasr.values import ScaleTable, TensorScale, WeightScale


def table(activations=(), weights=(), **more):
    return ScaleTable(dict(activations), dict(weights), **more)


def test_measured_activations_are_listed_the_worst_first():
    found = activation_rows(
        table(
            {
                "good": TensorScale(1.5, "mse", sqnr_db=40.0),
                "unmeasured": TensorScale(1.0, "max"),
                "bad": TensorScale(0.123456, "max", non_negative=True, sqnr_db=12.34),
                "exact": TensorScale(2.0, "max", sqnr_db=math.inf),
            }
        )
    )
    assert [(row.tensor, row.sqnr, row.amax, row.method, row.signed) for row in found] == [
        ("bad", "12.3", "0.1235", "max", "no"),
        ("good", "40.0", "1.5", "mse", "yes"),
    ]


def test_weights_count_their_channels_and_the_dead_ones():
    ones = np.ones(4, np.float32)
    found = weight_rows(
        table(
            weights={
                "good": WeightScale(ones, 0, 45.0),
                "bad": WeightScale(ones, 0, 30.0, (1, 3)),
                "unmeasured": WeightScale(ones, 0),
            }
        )
    )
    assert [(row.weight, row.sqnr, row.channels, row.dead) for row in found] == [
        ("bad", "30.0", 4, 2),
        ("good", "45.0", 4, 0),
    ]


def test_ranges_are_paired_by_name_in_graph_order():
    ours = table({name: TensorScale(amax, "max") for name, amax in (("b", 1.0), ("a", 2.0), ("only ours", 3.0))})
    real = table({name: TensorScale(amax, "max") for name, amax in (("a", 4.0), ("b", 5.0), ("only real", 6.0))})
    assert range_pairs(ours, real) == [RangePair("b", 5.0, 1.0), RangePair("a", 4.0, 2.0)]
    assert range_pairs(ours, None) == []


@pytest.mark.parametrize(
    ("ratios", "numbers"), [((1.0, 1.9, 0.5), ("3 of 3", "1.00")), ((0.4, 2.0, 3.0, 4.0), ("1 of 4", "2.50"))]
)
def test_the_note_counts_ranges_within_a_factor_of_two_and_has_the_median(ratios, numbers):
    note = range_note([RangePair("x", 2.0, 2.0 * ratio) for ratio in ratios])
    assert all(number in note for number in numbers)
    assert range_note([]) == ""


def test_the_largest_gaps_in_either_direction_come_first():
    pairs = [RangePair(f"x{index}", 1.0, 1.0 + 0.01 * index) for index in range(20)]
    found = range_gaps([*pairs, RangePair("small", 9.0, 1.0), RangePair("large", 1.0, 8.0)])
    assert found[:3] == [("small", "9", "1", "0.11"), ("large", "1", "8", "8.00"), ("x19", "1", "1.19", "1.19")]
    assert len(found) == WORST_GAPS


def test_the_correction_is_told_by_its_strengths():
    alphas = {"a": 0.25, "b": 0.5, "c": 0.9}
    found = corrections(table(alphas=alphas, settings={"quantization": {"correction": "qep"}}))
    for part in ("layers: 3", "0.25 to 0.90", "median 0.50", "QEP"):
        assert part in found
    assert "reconstruction" in corrections(table(alphas=alphas, settings={"quantization": {"correction": "fade"}}))
    assert corrections(table()) == ""
