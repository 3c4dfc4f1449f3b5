"""Graphs as the placing of a target makes them, for tests of what stands before and behind it."""

from trtasr.graph.cpu_dynamic import quantize_positions_for_cpu
from trtasr.graph.cpu_qdq import quantize_for_cpu
from trtasr.graph.cpu_rules import cpu_rules, dynamic_rules
from trtasr.graph.qdq import decide, insert_qdq, int8_nodes


def with_qdq(model, table, rules=(), exclude=()):
    """The Q/DQ graph by these rules."""
    return insert_qdq(model, table, int8_nodes(decide(model, rules, exclude)))


def for_cpu(model, table, exclude=()):
    """The INT8 graph for ONNX Runtime."""
    return quantize_for_cpu(model, table, int8_nodes(decide(model, cpu_rules(model), exclude)))


def for_cpu_per_position(model, table, exclude=()):
    """The INT8 graph for ONNX Runtime with one activation scale per position, computed at run time."""
    return quantize_positions_for_cpu(model, table, int8_nodes(decide(model, dynamic_rules(model), exclude)))
