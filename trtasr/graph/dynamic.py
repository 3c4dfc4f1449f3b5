"""Quantization with one scale per position, computed at run time: nothing is calibrated and nothing clips."""

from collections.abc import Collection

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper
from onnx.helper import make_node

from trtasr.graph.edit import constants, rebuilt, tensor
from trtasr.graph.halve import SMALLEST_NORMAL
from trtasr.graph.lint import LARGEST_HALF
from trtasr.graph.pointwise import ABSMAX, per_position, product_nodes
from trtasr.graph.products import multiplied
from trtasr.graph.qdq import insert_qdq
from trtasr.graph.rotate import rotated_layers, rotation_constants, rotation_nodes
from trtasr.quant.ranges import CODES, representable
from trtasr.quant.scales import quantize_weight
from trtasr.values import ScaleTable

UNIT_SCALE = representable(1 / CODES)  # of what lies between -1 and 1


def insert_dynamic_qdq(model: onnx.ModelProto, table: ScaleTable, int8: Collection[str]) -> onnx.ModelProto:
    """Explicit quantization with a scale per frame or token where a layer is a matrix product in every one of them.

        x [B,I,T] -> Conv(W [O,I,1], b) -> y
    becomes
        x -> Transpose -> Mul(1 / s) -> R -> r [B,T,I] -> Abs -> ReduceMax(I) -> Clip(2^-14, 65504) -> a [B,T,1]
        r / a -> Q(u) -> DQ(u) -> MatMul(DQ(Wq)) -> Mul(a) -> Add(b) -> Transpose -> y

    with u = 1/127, raised to an FP16 value. A MatMul with a stored weight becomes the same without Transposes, a
    convolution over two axes the same with one axis more. Per-token dynamic quantization as in LLM.int8 (Dettmers et
    al. 2022, section 3: vector-wise) and SmoothQuant (Xiao et al. 2023, table 2: O1): codes of row t have the scale
    u max_i |r_ti|. Nodes that read the same tensor share a and the codes; y keeps its name. In rows [B,T,I] TensorRT
    for RTX makes one kernel of all in front of the product and one of all behind it; in [B,I,T] one more.

    Clip: a frame of silence must not be divided by 0, so a is at least the smallest normal FP16 number; an FP16 graph's
    infinity gets the largest code instead of NaN.
    The factors s are those of the layer's product in the table (`trtasr.quant.smoothing`); without any there is no Mul.
    R rotates the channels of some layers (`rotated_layers`), which may double the largest, so that they are clipped to
    half of what FP16 holds first: infinity less infinity would be NaN. Wq is W diag(s) R^T, rounded, with scales of its
    own (`multiplied`).

    Every other INT8 node (a kernel over several positions, Gemm) keeps the static pair of `insert_qdq`.

    Args:
        model: FP32 graph; not changed.
        table: scales of weights, and of the tensors that get static pairs.
        int8: names of the weighted nodes that are quantized.

    Raises:
        UsageError: a scale is missing, not positive or not finite.
    """
    chosen, turned = per_position(model).intersection(int8), rotated_layers(model, table, int8)
    static = insert_qdq(model, table, set(int8) - chosen)
    stored, nodes = constants(static), list[NodeProto]()
    added = {item.name: item for item in (*unit_constants(), *rotation_constants())}
    done: set[str] = set()
    for node in static.graph.node:
        if node.name not in chosen:
            nodes.append(node)
            continue
        weight, constant = matrix_of(node, table, stored, node.name in turned)
        rank, (lead, rows, divisor) = len(stored[node.input[1]].dims), smoothed_rows(node, table)
        mixed, source = mixed_rows(rows, constant[0].dims[0]) if node.name in turned else ([], rows)
        before = [*transposed(node, rank), *lead, *mixed, *unit_codes(rows, source)]
        nodes += [made for made in (*before, weight) if made.output[0] not in done]
        nodes += scaled_product(node, rows, weight.output[0], rank)
        done.update(made.output[0] for made in (*before, weight))
        added.update({item.name: item for item in (*constant, *divisor)})
    return rebuilt(static, nodes, {**stored, **added}.values())


def dynamic_layers(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the layers of a quantized graph that have a scale per position, in graph order."""
    behind = [node.name for node in model.graph.node if node.op_type == "Mul" and node.name.endswith(ABSMAX)]
    return tuple(name.removesuffix(ABSMAX) for name in behind)


def matrix_of(
    node: NodeProto, table: ScaleTable, stored: dict[str, TensorProto], turn: bool
) -> tuple[NodeProto, list[TensorProto]]:
    """The DequantizeLinear of a node's weight as a matrix [I, O], and what it reads: codes and scales.

    Args:
        node: MatMul, or convolution.
        table: scales of weights, and products.
        stored: constants of the graph.
        turn: whether its rows are rotated.
    """
    name = node.input[1]
    values, scales = multiplied(node, numpy_helper.to_array(stored[name]), table, turn)
    matrix = values if node.op_type == "MatMul" else np.ascontiguousarray(values.reshape(values.shape[:2]).T)
    own = f"{name}_rotated" if turn else name  # another layer may read the weight as it is
    codes = tensor(f"{own}_int8_columns", quantize_weight(matrix, scales, 1))
    step = tensor(f"{own}_scale", scales)
    whole, title = [f"{codes.name}_dequantized"], f"{own}/DequantizeLinear"
    return make_node("DequantizeLinear", [codes.name, step.name], whole, name=title, axis=1), [codes, step]


def unit_constants() -> list[TensorProto]:
    """What `mixed_rows` and `unit_codes` read."""
    return [
        tensor("unit_scale", UNIT_SCALE),
        tensor("least_absmax", np.float32(SMALLEST_NORMAL)),
        tensor("largest_absmax", np.float32(LARGEST_HALF)),
        tensor("least_row", np.float32(-LARGEST_HALF / 2)),
        tensor("largest_row", np.float32(LARGEST_HALF / 2)),
        tensor("channels", np.array([-1])),
        tensor("int8_zero", np.int8(0)),
    ]


def rows_of(node: NodeProto) -> str:
    """The tensor that a node reads, with its channels last."""
    return f"{node.input[0]}_rows" if node.op_type == "Conv" else str(node.input[0])


def transposed(node: NodeProto, rank: int) -> list[NodeProto]:
    """The Transpose from channels first to channels last; nothing where a tensor has its channels there."""
    source, rows, order = node.input[0], rows_of(node), [0, *range(2, rank), 1]
    return [] if rows == source else [make_node("Transpose", [source], [rows], name=rows, perm=order)]


def smoothed_rows(node: NodeProto, table: ScaleTable) -> tuple[list[NodeProto], str, list[TensorProto]]:
    """From the rows that a node reads to these divided by its factors, their name, and 1 / s; no node without any."""
    rows, product = rows_of(node), table.products.get(node.name)
    if product is None or not product.smoothing.size:
        return [], rows, []
    smooth, inverse = f"{rows}_smoothed", tensor(f"{rows}_smoothing", 1 / product.smoothing)
    return [make_node("Mul", [rows, inverse.name], [smooth], name=f"{rows}/Smooth")], smooth, [inverse]


def mixed_rows(rows: str, channels: int) -> tuple[list[NodeProto], str]:
    """From rows to what FP16 can rotate, rotated, and its name; no node where their channels cannot be mixed."""
    bounded = f"{rows}_bounded"
    nodes, found = rotation_nodes(bounded, channels)
    bound = make_node("Clip", [rows, "least_row", "largest_row"], [bounded], name=f"{rows}/Bound")
    return ([bound, *nodes], found) if nodes else ([], rows)


def unit_codes(rows: str, source: str) -> list[NodeProto]:
    """From rows to their magnitudes ``<rows>_absmax`` and the dequantized codes ``<rows>_unit_dequantized``.

    The codes are of r / a, which lies between -1 and 1 in every row.

    Args:
        rows: names all that is made.
        source: r: the rows, or what they are rotated to.
    """
    absmax, unit, how = f"{rows}_absmax", f"{rows}_unit", ["unit_scale", "int8_zero"]
    bounds, codes = ["least_absmax", "largest_absmax"], f"{rows}_unit_quantized"
    return [
        make_node("Abs", [source], [f"{rows}_abs"], name=f"{rows}/Abs"),
        make_node("ReduceMax", [f"{rows}_abs", "channels"], [f"{rows}_max"], name=f"{rows}/ReduceMax", keepdims=1),
        make_node("Clip", [f"{rows}_max", *bounds], [absmax], name=f"{rows}/Clip"),
        make_node("Div", [source, absmax], [unit], name=f"{rows}/Div"),
        make_node("QuantizeLinear", [unit, *how], [codes], name=f"{rows}/QuantizeLinear"),
        make_node("DequantizeLinear", [codes, *how], [f"{unit}_dequantized"], name=f"{rows}/DequantizeLinear"),
    ]


def scaled_product(node: NodeProto, rows: str, weight: str, rank: int) -> list[NodeProto]:
    """A node's product with the codes of its rows, times the magnitude of every row.

    Args:
        node: MatMul, or convolution with a bias or none.
        rows: what `unit_codes` has named after.
        weight: matrix [I, O].
        rank: of a convolution's output.
    """
    unit, absmax = f"{rows}_unit_dequantized", f"{rows}_absmax"
    if node.op_type == "Conv":
        return product_nodes(node, unit, weight, rank, absmax)
    product = f"{node.output[0]}_product"
    return [
        make_node("MatMul", [unit, weight], [product], name=node.name),
        make_node("Mul", [product, absmax], node.output, name=f"{node.name}{ABSMAX}"),
    ]
