import pytest
from tiny_network import CHANNELS, CLASSES, MEL

from trtasr.graph.tensors import sites
from trtasr.graph.traffic import layer_traffic, macs_per_second


def test_every_weighted_layer_of_the_tiny_network_by_hand(fp32):
    """101 frames halve to 51; batch 3."""
    before, after = 3 * 101, 3 * 51
    c = CHANNELS
    expected = [  # in channels, out channels, weights, positions read, positions written, depthwise
        (MEL, MEL, MEL * 5, before, after, True),
        (MEL, c, MEL * c, after, after, False),
        (c, c, c * 7, after, after, True),
        (c, c, c * c, after, after, False),
        (c, c, c * 7, after, after, True),
        (c, c, c * c, after, after, False),
        (c, c, c * c, after, after, False),
        (c, c, c * c * 3, after, after, False),
        (c, CLASSES, c * CLASSES, after, after, False),
    ]
    found = layer_traffic(fp32, 3, 101)
    rows = [(t.macs, t.inputs, t.outputs, t.weights, t.depthwise) for t in found]
    assert sorted(rows) == sorted(
        (w * written, i * read, o * written, w, depthwise) for i, o, w, read, written, depthwise in expected
    )
    assert [t.node for t in found] == [site.node for site in sites(fp32)]


def test_one_second_costs_what_the_layer_table_says(fp32):
    """Both modules count the same work where no rounding of frames interferes."""
    assert {t.node: t.macs for t in layer_traffic(fp32, 1, 100)} == macs_per_second(fp32, 100)


@pytest.mark.parametrize("factor", [2, 5])
def test_work_and_activations_grow_with_the_batch_and_weights_do_not(fp32, factor):
    for one, more in zip(layer_traffic(fp32, 1, 64), layer_traffic(fp32, factor, 64), strict=True):
        assert (more.macs, more.inputs, more.outputs) == (factor * one.macs, factor * one.inputs, factor * one.outputs)
        assert more.weights == one.weights


def test_every_run_reads_the_weights_again(fp32):
    for one, more in zip(layer_traffic(fp32, 2, 1), layer_traffic(fp32, 2, 1, runs=7), strict=True):
        assert (more.macs, more.inputs, more.outputs) == (7 * one.macs, 7 * one.inputs, 7 * one.outputs)
        assert (more.weights, more.readers) == (7 * one.weights, one.readers)
