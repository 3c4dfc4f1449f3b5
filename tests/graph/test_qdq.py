import dataclasses

import pytest
from onnx import TensorProto, numpy_helper
from quantized import with_qdq
from tiny_network import sqnr_db

from trtasr.errors import RecipeError, UsageError
from trtasr.graph.check import check_model, run_graph
from trtasr.graph.qdq import decide, insert_qdq, int8_nodes
from trtasr.graph.tensors import sites
from trtasr.values import ScaleTable, TensorScale


def depthwise(site):
    return "depthwise" if site.groups > 1 else None


def initializers(model):
    return {item.name: item for item in model.graph.initializer}


def test_quantized_graph_stays_close_and_the_input_is_not_mutated(fp32, table, feeds):
    before = fp32.SerializeToString()
    result = with_qdq(fp32, table, [])
    check_model(result)
    assert fp32.SerializeToString() == before
    assert sqnr_db(run_graph(fp32, feeds), run_graph(result, feeds)) > 25


def test_scales_are_the_tables_bit_for_bit_and_rank_zero(fp32, table):
    found = initializers(with_qdq(fp32, table, []))
    names = {node.input[0] for node in fp32.graph.node if node.op_type == "Conv"}
    for name in names:
        scale = found[f"{name}_scale"]
        assert list(scale.dims) == []
        assert numpy_helper.to_array(scale).tobytes() == table.activations[name].scale.tobytes()
    for name, entry in table.weights.items():
        assert numpy_helper.to_array(found[f"{name}_scale"]).tobytes() == entry.scales.tobytes()
        assert found[f"{name}_int8"].data_type == TensorProto.INT8
        assert name not in found


def test_nodes_that_read_one_tensor_share_one_pair(fp32, table):
    model = with_qdq(fp32, table, [])
    readers = [node.input[0] for node in fp32.graph.node if node.op_type == "Conv"]
    assert len(set(readers)) < len(readers)
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) == len(set(readers))


def test_decisions_name_the_rule_and_float_nodes_are_untouched(fp32, table):
    decisions = decide(fp32, [depthwise], ["/decoder/*"])
    rules = {decision.node: decision.rule for decision in decisions}
    assert [decision.node for decision in decisions] == [site.node for site in sites(fp32)]
    assert rules["/mconv.0/conv/Conv"] == "depthwise"
    assert rules["/decoder/decoder.0/Conv"] == "exclude"
    assert rules["/mconv.1/conv/Conv"] == "int8"
    nodes = {node.name: node for node in insert_qdq(fp32, table, int8_nodes(decisions)).graph.node}
    assert nodes["/decoder/decoder.0/Conv"].input[1] == "decoder.0.weight"


def test_pattern_that_matches_nothing_is_an_error(fp32, table):
    with pytest.raises(RecipeError, match="nowhere"):
        decide(fp32, [], ["/nowhere/*"])


def test_missing_scale_names_the_tensor(fp32, table):
    fewer = dict(table.activations)
    del fewer["features"], fewer["/stem.0/Mul_output_0"]
    with pytest.raises(UsageError, match=r"/stem\.0/Mul_output_0"):
        with_qdq(fp32, ScaleTable(fewer, table.weights), [])


@pytest.mark.parametrize("amax", [0.0, -1.0, float("inf"), float("nan")])
def test_scales_that_are_not_positive_and_finite_are_refused(fp32, table, amax):
    broken = {**table.activations, "/stem.0/Mul_output_0": TensorScale(amax, "max")}
    with pytest.raises(UsageError, match="not positive and finite"):
        with_qdq(fp32, dataclasses.replace(table, activations=broken), [])
