"""Insert QuantizeLinear / DequantizeLinear pairs around the nodes that shall run in INT8."""

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper
from onnx.helper import make_node

from trtasr.graph.codes import Codes
from trtasr.graph.edit import constants, rebuilt, scale_of, tensor, weight_scales_of
from trtasr.graph.own_part import refuse_unmatched
from trtasr.graph.tensors import WEIGHTED, sites
from trtasr.quant.scales import quantize_weight
from trtasr.values import Decision, ScaleTable, Site

Rule = Callable[[Site], str | None]  # the name of a rule that keeps a site in floating point


def insert_qdq(
    model: onnx.ModelProto, table: ScaleTable, int8: Collection[str], formats: Mapping[str, Codes] | None = None
) -> onnx.ModelProto:
    """Explicit quantization by TensorRT's placement rules: inputs and weights of weighted nodes, never their outputs.

        x ---------> Conv(W, b) -> y
    becomes
        x -> Q -> DQ -> Conv(DQ(Wq), b) -> y

    Activations: per tensor, scale of rank 0, int8, zero point 0; nodes that read the same tensor share one pair.
    Weights: Wq = clamp(round_half_even(W / scale_o), -127, 127) stored as int8 behind a per-channel DequantizeLinear.
    Biases stay float. All scales are those of the table, unchanged.

    Args:
        model: FP32 graph; not changed.
        table: scales for every tensor and weight that is quantized.
        int8: names of the weighted nodes that are quantized.
        formats: tensor -> uint8 codes instead, for the comparison with integer-only inference.

    Raises:
        UsageError: a scale is missing, not positive or not finite.
    """
    weights = constants(model)
    nodes: list[NodeProto] = []
    added: dict[str, TensorProto] = {}
    done: set[str] = set()
    for original in model.graph.node:
        node = copy.deepcopy(original)
        if node.name in int8:
            for index, name in enumerate(node.input[:2]):
                if name not in done:
                    weight = index == 1
                    pair = dequantized_weight(name, table, weights) if weight else activation_pair(name, table, formats)
                    nodes += pair[0]
                    added.update({item.name: item for item in pair[1]})
                    done.add(name)
                node.input[index] = f"{name}_dequantized"
        nodes.append(node)
    return rebuilt(model, nodes, [*weights.values(), *added.values()])


def decide(model: onnx.ModelProto, rules: Sequence[Rule], exclude: Sequence[str] = ()) -> tuple[Decision, ...]:
    """Decide each Conv, MatMul and Gemm node, in graph order.

    The rule names that are not a target's: ``int8`` (quantized), ``exclude`` (a pattern of the recipe), ``activations``
    (both operands are computed, so there is no weight).

    Args:
        model: FP32 graph.
        rules: asked in order about each site; the first name returned keeps the site out of INT8.
        exclude: fnmatch patterns of node names that stay float.

    Raises:
        RecipeError: an exclude pattern that matches no weighted node.
    """
    described = {site.node: site for site in sites(model)}
    weighted = [node for node in model.graph.node if node.op_type in WEIGHTED]
    refuse_unmatched(exclude, [node.name for node in weighted])
    decisions = []
    for node in weighted:
        rule = skip_rule(node, described.get(node.name), rules, exclude)
        decisions.append(Decision(node.name, node.op_type, rule is None, rule or "int8"))
    return tuple(decisions)


def int8_nodes(decisions: Iterable[Decision]) -> tuple[str, ...]:
    """Names of the nodes that read INT8 operands."""
    return tuple(decision.node for decision in decisions if decision.quantized)


def skip_rule(node: NodeProto, site: Site | None, rules: Sequence[Rule], exclude: Sequence[str]) -> str | None:
    """Name of the rule that keeps a node out of INT8; None for none."""
    if any(fnmatchcase(node.name, pattern) for pattern in exclude):
        return "exclude"
    if site is None:
        return "activations"
    return next((name for rule in rules if (name := rule(site))), None)


Made = tuple[list[NodeProto], list[TensorProto]]


def activation_pair(name: str, table: ScaleTable, formats: Mapping[str, Codes] | None) -> Made:
    """QuantizeLinear and DequantizeLinear of a tensor, and the constants they read."""
    scale, zero = tensor(f"{name}_scale", scale_of(table, name).scale), tensor("int8_zero", np.int8(0))
    if formats and name in formats:
        scale = tensor(f"{name}_scale", formats[name].scale)
        zero = tensor(f"{name}_zero_point", np.uint8(formats[name].zero))
    codes, how = f"{name}_quantized", [scale.name, zero.name]
    return [
        make_node("QuantizeLinear", [name, *how], [codes], name=f"{name}/QuantizeLinear"),
        make_node("DequantizeLinear", [codes, *how], [f"{name}_dequantized"], name=f"{name}/DequantizeLinear"),
    ], [scale, zero]


def dequantized_weight(name: str, table: ScaleTable, weights: dict[str, TensorProto]) -> Made:
    """DequantizeLinear of a weight, its codes and scales."""
    entry = weight_scales_of(table, name)
    codes = tensor(f"{name}_int8", quantize_weight(numpy_helper.to_array(weights[name]), entry.scales, entry.axis))
    scales = tensor(f"{name}_scale", np.asarray(entry.scales, np.float32))
    whole, title = [f"{name}_dequantized"], f"{name}/DequantizeLinear"  # zero points are 0 and left out
    made = make_node("DequantizeLinear", [codes.name, scales.name], whole, name=title, axis=entry.axis)
    return [made], [codes, scales]
