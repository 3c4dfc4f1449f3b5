"""Scales per output channel of matrix products -> one scale, and a gain per channel behind the product."""

import math
from collections import defaultdict

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from trtasr.graph.edit import constants, producers, rebuilt, tensor
from trtasr.graph.halve import SMALLEST_NORMAL
from trtasr.graph.lint import LARGEST_HALF
from trtasr.graph.tensors import attribute

GAIN = "/gain"  # ends the name of the node behind a product


def channel_gains(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let quantized matrix products have one weight scale each, which their kernel can apply to its accumulator.

        x -> MatMul(DQ(Wq, s_1 ... s_O)) -> y      becomes      x -> MatMul(DQ(Wq, s)) -> Mul(s_1 / s ... s_O / s) -> y

    s is the smallest power of two that is no smaller than any scale of the products that read x: their gains are exact
    in FP16, as the scales are, and the builder can still make one product of them.

    TensorRT for RTX multiplies an INT8 product by one FP32 number before it rounds it to FP16, and by the rest in the
    FP16 kernel behind it. With scales per channel that number is 1: sums of codes above 65504 become infinite, as they
    do in products over thousands of channels, and the factor s_x s_o behind them is subnormal. With one scale the
    number is s_x s, and what is rounded is y s / s_o, of the magnitude of the result.

    Args:
        model: graph with per-channel int8 weights of MatMul behind DequantizeLinear; not changed. Codes stay.
    """
    stored, made_by = constants(model), producers(model)
    weights = {node.name: made_by[node.input[1]] for node in model.graph.node if is_per_channel(node, made_by, stored)}
    largest: dict[str, float] = defaultdict(float)
    for node in model.graph.node:
        if node.name in weights:
            scales = numpy_helper.to_array(stored[weights[node.name].input[1]])
            source = quantized_source(node, made_by)
            largest[source] = max(largest[source], float(scales.max()))
    replaced = {item.name for item in weights.values()}
    nodes: list[NodeProto] = []
    added: list[TensorProto] = []
    for node in model.graph.node:
        if node.name in weights:
            made, constant = with_gain(node, weights[node.name], largest[quantized_source(node, made_by)], stored)
            nodes += made
            added += constant
        elif node.name not in replaced:
            nodes.append(node)
    return rebuilt(model, nodes, [*stored.values(), *added])


def gain_lint(model: onnx.ModelProto) -> tuple[list[str], list[str]]:
    """Products of a graph with gains whose FP16 form comes near the limits of that format.

    Returns:
        names of products with a gain below the smallest normal FP16 number (6.1e-5), which loses bits; names of
        products that inputs at the end of their range could take beyond 65504 before the gain:
        127 s_x s max_o sum_k |q_ko|.
    """
    stored, made_by = constants(model), producers(model)
    gains = {node.name: node.input[1] for node in model.graph.node if node.op_type == "Mul"}
    subnormal, overflowing = [], []
    for node in model.graph.node:
        if node.op_type == "MatMul" and f"{node.name}{GAIN}" in gains:
            gain, weight = numpy_helper.to_array(stored[gains[f"{node.name}{GAIN}"]]), made_by[node.input[1]]
            codes = np.abs(numpy_helper.to_array(stored[weight.input[0]]).astype(np.float32)).sum(axis=0)
            steps = [
                float(numpy_helper.to_array(stored[item.input[1]]))
                for item in (made_by[quantized_source(node, made_by)], weight)
            ]
            if gain.min() < SMALLEST_NORMAL:
                subnormal.append(node.name)
            if 127 * steps[0] * steps[1] * float(codes.max()) > LARGEST_HALF:
                overflowing.append(node.name)
    return subnormal, overflowing


def gained(model: onnx.ModelProto) -> set[str]:
    """Names of the products that have a gain behind them."""
    behind = [node.name for node in model.graph.node if node.op_type == "Mul" and node.name.endswith(GAIN)]
    return {name.removesuffix(GAIN) for name in behind}


def is_per_channel(node: NodeProto, made_by: dict[str, NodeProto], stored: dict[str, TensorProto]) -> bool:
    """Whether a node is a product with a stored int8 weight of one scale per output channel."""
    weight = made_by.get(node.input[1]) if node.op_type == "MatMul" else None
    if weight is None or weight.op_type != "DequantizeLinear" or weight.input[0] not in stored:
        return False
    return len(stored[weight.input[1]].dims) == 1 and attribute(weight, "axis", 1) in (1, -1)


def quantized_source(node: NodeProto, made_by: dict[str, NodeProto]) -> str:
    """The quantized tensor behind a product's rows; without one, its input."""
    name = str(node.input[0])
    while name in made_by and made_by[name].op_type in ("Transpose", "DequantizeLinear"):
        name = str(made_by[name].input[0])
    return name


def with_gain(
    node: NodeProto, weight: NodeProto, scale: float, stored: dict[str, TensorProto]
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Weight, product and gain, and the constants they read."""
    base, output = node.name, node.output[0]
    scales, power = numpy_helper.to_array(stored[weight.input[1]]), np.float32(2.0 ** math.ceil(math.log2(scale)))
    constant = [tensor(f"{base}_scale", power), tensor(f"{base}_gain", scales / power)]
    values = f"{base}_weight_dequantized"
    return [
        helper.make_node("DequantizeLinear", [weight.input[0], f"{base}_scale"], [values], name=weight.name),
        helper.make_node("MatMul", [node.input[0], values], [f"{output}_ungained"], name=base),
        helper.make_node("Mul", [f"{output}_ungained", f"{base}_gain"], [output], name=f"{base}{GAIN}"),
    ], constant
