"""Weights alone in few bits, per channel and in groups, beside floating-point activations: the papers' simulation."""

from dataclasses import replace

import numpy as np
import pytest
from exported import initializers

from trtasr.graph.own_part import own_part
from trtasr.pipeline import correct as correcting
from trtasr.pipeline import scales
from trtasr.quant.groups import spans
from trtasr.quant.scales import quantize_weight


@pytest.mark.parametrize(
    "changes",
    [{}, {"correction": "fade"}, {"rounding": "gptq"}, {"correction": "qep", "rounding": "gptq", "damping": 1.0}],
)
def test_weights_alone_leave_activations_as_they_are(tiny, changes):
    """The graphs of a simulation: those of full precision with other weights."""
    table = tiny.table(weight_only=True, weight_bits=3, **changes)
    assert table.activations == {}
    assert table.offsets == {}
    for model, found in zip(tiny.models(), tiny.quantized(table), strict=True):
        assert [node.op_type for node in found.graph.node] == [node.op_type for node in model.graph.node]
        for name, values in own_part(table, model).corrected.items():
            np.testing.assert_array_equal(initializers(found)[name], values)
    weights = table.corrected.keys() & table.weights.keys()
    assert len(weights) == (2 * 6 + 2 * 10 + 1 if len(tiny.exported.files) > 1 else 6)
    for name in weights:
        entry = table.weights[name]
        assert np.abs(quantize_weight(table.corrected[name], entry.scales, entry.axis)).max() == 3
    assert tiny.sqnr(table) > tiny.sqnr(tiny.table(weight_bits=3, **changes)) - 1


GROUPED = [{}, {"rounding": "gptq"}, {"correction": "fade", "rounding": "gptq"}]


@pytest.mark.parametrize("changes", GROUPED)
def test_weights_in_groups_lie_on_the_grid_of_their_group(tiny, changes):
    """Three bits: within an output channel and group every value is a multiple, -3 to 3, of what the largest has."""
    group, coarse = 3, 0
    table = tiny.table(weight_only=True, weight_bits=3, weight_group=group, **changes)
    for model in tiny.models():
        layers = {node.input[1]: node for node in model.graph.node if len(node.input) > 1}
        for name in own_part(table, model).corrected.keys() & table.weights.keys():
            rows = correcting.grouped(layers[name], table.corrected[name])
            for span in spans(rows.shape[2], group):
                block = rows[:, :, span]
                steps = np.abs(block).max(axis=2, keepdims=True) / 3
                codes = np.divide(block, steps, out=np.zeros_like(block), where=steps > 0)
                # The largest weight of a group may have been compensated away from the edge of its grid.
                on_grid = [np.isclose(codes * k / 3, np.rint(codes * k / 3)).all(axis=2) for k in (1, 2, 3)]
                assert np.any(on_grid, axis=0).all()
            whole = np.abs(rows).max(axis=2, keepdims=True) / 3
            coarse += int((~np.isclose(rows / whole, np.rint(rows / whole))).sum())
    assert coarse > 100  # which a scale per channel could not hold


def test_a_group_of_all_columns_is_a_scale_per_channel(tiny):
    settings = {"weight_only": True, "weight_bits": 4}
    found, known = (tiny.table(**settings, weight_group=group) for group in (4096, 0))
    assert found.corrected.keys() == known.corrected.keys()
    for name, values in known.corrected.items():
        np.testing.assert_array_equal(found.corrected[name], values)


@pytest.mark.parametrize("group", [0, 3])
def test_gptq_is_damped_as_the_recipe_says(tiny, group):
    """With very much damping no column makes up for another: every weight is rounded to nearest."""
    settings = {"weight_only": True, "weight_bits": 4, "weight_group": group}
    plain, light, heavy = (
        tiny.table(**settings, **changes).corrected
        for changes in ({}, {"rounding": "gptq"}, {"rounding": "gptq", "gptq_damping": 1e6})
    )
    for name, values in plain.items():
        np.testing.assert_allclose(heavy[name], values, atol=2e-3 * np.abs(values).max())
    assert any(not np.allclose(light[name], values, atol=1e-3) for name, values in plain.items())


@pytest.mark.parametrize("changes", GROUPED)
def test_groups_are_nearer_to_full_precision_than_channels(tiny, changes):
    settings = {"weight_only": True, "weight_bits": 3, **changes}
    assert tiny.sqnr(tiny.table(**settings, weight_group=3)) > tiny.sqnr(tiny.table(**settings)) + 1


def test_vulnerability_is_that_of_the_groups(attention):
    fade = replace(attention.plain, correction="fade", weight_only=True, weight_bits=3)
    known, found = (
        scales.scores(attention.models(), [replace(s, weight_group=group) for s in (fade, replace(fade, exclude=()))])
        for group in (0, 3)
    )
    assert known.keys() == found.keys()
    assert all(0 < found[name] < known[name] for name in known)


def test_weights_alone_at_eight_bits_are_walked_too(tiny):
    assert tiny.sqnr(tiny.table(weight_only=True)) > tiny.sqnr(tiny.table()) + 3
