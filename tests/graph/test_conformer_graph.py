"""Every pass over a Conformer: the function before and after, and what runs in INT8."""

import numpy as np
import pytest
from onnx import TensorProto, shape_inference
from quantized import for_cpu, with_qdq
from tiny_network import sqnr_db, valid

from trtasr.graph.check import assert_parity, check_model, run_graph
from trtasr.graph.cpu_qdq import quantize_for_cpu
from trtasr.graph.cpu_rules import cpu_rules
from trtasr.graph.halve import halve
from trtasr.graph.pointwise import pointwise_to_matmul
from trtasr.graph.qdq import decide, int8_nodes
from trtasr.graph.tensors import activation_tensors, data_path, sites
from trtasr.graph.traffic import layer_traffic, macs_per_second
from trtasr.targets import T4, T4_RTX

LAYERS = 2
LINEAR = 9  # per layer: two feed-forward modules of two, q, k, v, out, pos


def names(model, *kinds):
    return [node.name for node in model.graph.node if node.op_type in kinds]


def rules_of(decisions):
    return {rule: sum(item.rule == rule for item in decisions) for rule in {item.rule for item in decisions}}


def test_ranges_are_observed_around_weights_only(conformer):
    chosen, path = activation_tensors(conformer.fp32), data_path(conformer.fp32)
    described = {site.node for site in sites(conformer.fp32)}
    weighted = [node for node in conformer.fp32.graph.node if node.name in described]
    assert set(chosen) == {name for node in weighted for name in (node.input[0], node.output[0])}
    positions = {node.input[0] for node in weighted if "linear_pos" in node.name}
    assert set(chosen) - set(path) - positions == {node.output[0] for node in weighted if "linear_pos" in node.name}


@pytest.mark.parametrize("target", [T4, T4_RTX])
def test_linear_and_pointwise_layers_are_int8_and_each_other_product_has_its_rule(conformer, target):
    found = rules_of(decide(conformer.fp32, target.rules))
    assert found["int8"] >= LAYERS * (LINEAR + 2) + 1
    assert found["activations"] == 3 * LAYERS  # content, distance, attended
    assert found["depthwise"] >= LAYERS
    assert set(found) <= {"int8", "activations", "depthwise", "kernel", "alignment"}


def test_quantized_and_lowered_graph_computes_the_same(conformer):
    quantized = with_qdq(conformer.fp32, conformer.table, T4_RTX.rules)
    lowered = pointwise_to_matmul(quantized)
    check_model(lowered)
    reference, found = run_graph(conformer.fp32, conformer.feeds), run_graph(quantized, conformer.feeds)
    assert sqnr_db(reference, found) > 30
    assert sqnr_db(found, run_graph(lowered, conformer.feeds)) > 40
    assert not [name for name in names(lowered, "Conv") if "pointwise" in name]


@pytest.mark.parametrize("quantized", [False, True])
def test_no_product_stays_in_fp32(conformer, quantized):
    """sm_75 has no FP32 matrix product in TensorRT for RTX: positions, which no feature reaches, are halved too."""
    model = with_qdq(conformer.fp32, conformer.table, T4_RTX.rules) if quantized else conformer.fp32
    halved = halve(pointwise_to_matmul(model))
    check_model(halved)
    graph = shape_inference.infer_shapes(halved, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    for node in halved.graph.node:
        if node.op_type in ("MatMul", "Conv", "Softmax", "LayerNormalization"):
            assert types[node.output[0]] == TensorProto.FLOAT16, node.name
        if node.op_type in ("Sin", "Cos", "LogSoftmax"):
            assert types[node.output[0]] == TensorProto.FLOAT, node.name
    assert sqnr_db(run_graph(model, conformer.feeds), run_graph(halved, conformer.feeds)) > 25


def test_cpu_graph_is_integer_but_for_attention_and_depthwise_before_swish(conformer):
    decisions = decide(conformer.fp32, cpu_rules(conformer.fp32))
    result = quantize_for_cpu(conformer.fp32, conformer.table, int8_nodes(decisions))
    check_model(result)
    found = rules_of(decisions)
    assert (found["activations"], found["swish"]) == (3 * LAYERS, LAYERS)
    assert set(found) == {"int8", "activations", "swish"}
    integer = names(result, "QLinearConv", "MatMulIntegerToFloat")
    assert sorted(integer) == sorted(int8_nodes(decisions))
    reference = run_graph(conformer.fp32, conformer.feeds)
    assert sqnr_db(reference, run_graph(result, conformer.feeds)) > 30


def test_layers_with_the_same_input_share_its_codes_on_the_cpu(conformer):
    made = {name: node for node in for_cpu(conformer.fp32, conformer.table).graph.node for name in (node.name,)}
    inputs = {made[f"/encoder/layers.0/self_attn/linear_{part}/MatMul"].input[0] for part in "qkv"}
    assert len(inputs) == 1
    assert len({made[f"/encoder/layers.{i}/self_attn/linear_pos/MatMul"].input[0] for i in range(LAYERS)}) == 1


def lower(conformer, kind):
    if kind == "cpu":
        return for_cpu(conformer.fp32, conformer.table)
    model = with_qdq(conformer.fp32, conformer.table, T4_RTX.rules)
    return {"fp32": conformer.fp32, "qdq": model, "lowered": pointwise_to_matmul(model)}[kind]


@pytest.mark.parametrize("kind", ["fp32", "qdq", "lowered", "cpu"])
def test_batch_of_mixed_lengths_equals_one_by_one(conformer, kind):
    model = lower(conformer, kind)
    together = run_graph(model, conformer.feeds)
    for item, length in enumerate(conformer.feeds["lengths"]):
        alone = run_graph(
            model,
            {
                "features": conformer.feeds["features"][item : item + 1, :, :length],
                "lengths": conformer.feeds["lengths"][item : item + 1],
            },
        )
        first, second = valid(together, item), valid(alone, 0)
        assert first.shape == second.shape
        if kind == "fp32":
            assert_parity({"log_probs": first}, {"log_probs": second}, 2e-4)
        else:  # a rounding of float32 may tip a code over to its neighbour
            assert np.abs(first - second).mean() < 0.02


@pytest.mark.parametrize("kind", ["fp32", "qdq", "cpu"])
def test_values_in_padded_frames_never_reach_valid_frames(conformer, kind):
    model = lower(conformer, kind)
    padded = np.arange(97) >= conformer.feeds["lengths"][:, None, None]
    noisy = {**conformer.feeds, "features": np.where(padded, np.float32(100), conformer.feeds["features"])}
    clean, dirty = run_graph(model, conformer.feeds), run_graph(model, noisy)
    assert all(np.array_equal(valid(clean, item), valid(dirty, item)) for item in range(3))


def test_macs_count_rows_of_frequency_and_both_directions_of_distance(conformer):
    macs = macs_per_second(conformer.fp32, 100)
    first = next(site for site in sites(conformer.fp32) if site.node == "/encoder/pre_encode/conv.0/Conv")
    halved = 1 if first.stride == (1, 1) else 2
    assert macs[first.node] == 9 * 32 * (100 // halved) * (64 // halved)
    assert macs["/encoder/layers.0/self_attn/linear_q/MatMul"] == 32 * 32 * 25
    assert macs["/encoder/layers.0/self_attn/linear_pos/MatMul"] == 2 * 32 * 32 * 25
    assert macs["/encoder/pre_encode/out/MatMul"] == 32 * 16 * 32 * 25
    assert len(macs) == len(sites(conformer.fp32))


def test_traffic_counts_the_same_work(conformer):
    macs = macs_per_second(conformer.fp32, 100)
    found = {item.node: item for item in layer_traffic(conformer.fp32, 1, 100)}
    assert {node: item.macs for node, item in found.items()} == macs
    out = found["/encoder/pre_encode/out/MatMul"]
    assert (out.inputs, out.outputs) == (25 * 32 * 16, 25 * 32)
