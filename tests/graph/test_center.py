import copy

import numpy as np
import pytest
from onnx import numpy_helper
from tiny_network import valid, with_outputs

from trtasr.errors import UsageError
from trtasr.graph.center import center, centerable, give_back_quantized, uncentered
from trtasr.graph.check import assert_parity, check_model, run_graph
from trtasr.quant.scales import quantize_weight
from trtasr.values import ScaleTable


def offsets(fp32, seed=0):
    generator = np.random.default_rng(seed)
    sizes = {item.name: item.dims[0] for item in fp32.graph.initializer}
    made = {node.output[0]: node.input[1] for node in fp32.graph.node if node.op_type == "Conv"}
    return {name: generator.normal(0, 1, sizes[made[name]]).astype(np.float32) for name in centerable(fp32)}


def test_depthwise_outputs_read_by_one_pointwise_convolution_are_found(fp32):
    found = centerable(fp32)
    assert len(found) == 3
    assert all(len(carried) == 2 and carried[0] == name for name, carried in found.items())


def test_valid_frames_compute_the_same(fp32, feeds):
    before = fp32.SerializeToString()
    centered = center(fp32, offsets(fp32))
    check_model(centered)
    first, second = run_graph(fp32, feeds), run_graph(centered, feeds)
    for item in range(3):
        assert_parity({"log_probs": valid(first, item)}, {"log_probs": valid(second, item)}, 1e-4)
    assert fp32.SerializeToString() == before


def test_the_tensor_moves_by_its_offset(fp32, feeds):
    moved = offsets(fp32)
    name = next(iter(moved))
    before = run_graph(with_outputs(fp32, [name]), feeds)[name]
    after = run_graph(with_outputs(center(fp32, moved), [name]), feeds)[name]
    assert np.abs(before - moved[name][None, :, None] - after).max() < 1e-5


def test_uncentering_gives_the_graph_back(fp32, feeds):
    moved = offsets(fp32)
    centered = center(fp32, moved)
    before = centered.SerializeToString()
    back = uncentered(centered, moved)
    check_model(back)
    assert_parity(run_graph(fp32, feeds), run_graph(back, feeds), 1e-4)  # padded frames too: centering moves those
    assert centered.SerializeToString() == before
    made = {name for node in back.graph.node for name in node.output}
    for name, carried in centerable(fp32).items():
        assert not made.intersection(carried)
        first = run_graph(with_outputs(fp32, [name]), feeds)[name]
        second = run_graph(with_outputs(back, [f"{name}_uncentered"]), feeds)[f"{name}_uncentered"]
        assert np.abs(first - second).max() < 1e-5


def test_without_offsets_there_is_nothing_to_give_back(fp32):
    assert uncentered(fp32, {}) is fp32


def test_zero_offsets_are_the_identity(fp32, feeds):
    zero = {name: np.zeros_like(offset) for name, offset in offsets(fp32).items()}
    assert_parity(run_graph(fp32, feeds), run_graph(center(fp32, zero), feeds), 1e-6)


def quantized_pointwise(fp32, table, moved):
    """The centered graph with every pointwise weight behind a centered tensor rounded to its INT8 grid."""
    rounded = copy.deepcopy(fp32)
    readers = {node.input[0]: node for node in fp32.graph.node if node.op_type == "Conv"}
    names = {readers[carried[-1]].input[1] for carried in centerable(fp32).values()}
    for item in rounded.graph.initializer:
        if item.name in names:
            scale = table.weights[item.name]
            codes = quantize_weight(numpy_helper.to_array(item), scale.scales, scale.axis)
            item.CopyFrom(numpy_helper.from_array((codes * scale.scales[:, None, None]).astype(np.float32), item.name))
    return rounded, {readers[carried[-1]].name for carried in centerable(fp32).values()}


def test_given_back_through_rounded_weights_centering_changes_nothing_at_all(fp32, table, feeds):
    """Wq (x - b) + b2 + W b + (Wq - W) b = Wq x + b2: the uncentered graph with rounded weights."""
    moved = {name: 5 * offset for name, offset in offsets(fp32).items()}
    plain, nodes = quantized_pointwise(fp32, table, moved)
    centered = center(fp32, moved)
    shifted = ScaleTable(table.activations, table.weights, offsets=moved)
    expected = run_graph(plain, feeds)
    with_it = run_graph(quantized_pointwise(give_back_quantized(centered, shifted, nodes), table, moved)[0], feeds)
    without = run_graph(quantized_pointwise(centered, table, moved)[0], feeds)
    for item in range(3):
        assert_parity({"log_probs": valid(expected, item)}, {"log_probs": valid(with_it, item)}, 1e-3)
    assert np.abs(valid(expected, 0) - valid(without, 0)).max() > 1e-2


def test_nodes_that_stay_float_get_nothing_more(fp32, table):
    moved = offsets(fp32)
    centered = center(fp32, moved)
    shifted = ScaleTable(table.activations, table.weights, offsets=moved)
    before = {item.name: item.raw_data for item in centered.graph.initializer}
    after = {item.name: item.raw_data for item in give_back_quantized(centered, shifted, ()).graph.initializer}
    assert before == after


def test_other_tensors_are_refused(fp32):
    with pytest.raises(UsageError, match="features"):
        center(fp32, {"features": np.zeros(16, np.float32)})
