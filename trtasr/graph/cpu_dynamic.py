"""INT8 graph for ONNX Runtime on the CPU with one activation scale per position, computed at run time."""

from collections.abc import Collection
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper

from trtasr.graph.cpu_qdq import MICROSOFT, MIDDLE, TO_COLUMNS, TO_ROWS, Forms, Lowering, unsigned
from trtasr.graph.cpu_rules import framewise
from trtasr.graph.pointwise import ABSMAX, channels_read
from trtasr.graph.products import multiplied
from trtasr.graph.rotate import rotated_layers, rotation_constants, rotation_nodes
from trtasr.graph.tensors import attribute, output_axis
from trtasr.quant.scales import quantize_weight
from trtasr.values import ScaleTable

STEP = "position_step", np.float32(1) / np.float32(127)  # between the codes of a position whose largest magnitude is 1
QUIET = "quiet", np.finfo(np.float32).tiny  # largest magnitude of a position of zeros, which is divided by
WHOLE = np.iinfo(np.int64).max  # end of a Slice


def quantize_positions_for_cpu(model: onnx.ModelProto, table: ScaleTable, int8: Collection[str]) -> onnx.ModelProto:
    """Lower an FP32 graph to integer products of ONNX Runtime that no input can saturate.

        x -> MatMul(W) -> y
    becomes, with x float32 [..., C] and one position per row of C channels,
        x -> Abs -> ReduceMax(channels) -> a                                  a: float32 [..., 1]
        x -> Mul(1 / a) -> QuantizeLinear(1 / 127, 128) -> q                  q: uint8 codes [..., C]
        q -> MatMulIntegerToFloat(Wq, weight scales / 127) -> Mul(a) -> y

    - Per-token dynamic quantization: the scale a / 127 of a position depends on nothing but its own channels. Neither
      calibration nor other utterances of a batch decide what it can represent; of the table only scales of weights and
      products are read. Nodes that read the same tensor share its codes.
    - Where a product has factors, x is divided by them, and W multiplied (`trtasr.quant.smoothing`). In front of some
      layers x is rotated then, and so is W (`trtasr.graph.rotate`).
    - A pointwise convolution is that product over channels last; its bias is added in float32.
    - A wider convolution (over one or two axes, strides and dilations too) is one product per tap: the taps of an
      output read positions of different scales. y[t] = b + sum_k a[s t + k] (q[s t + k] W_k).
    - A mask multiplies ``a`` instead of a tensor, and is dropped in front of kernel-1 convolutions where
      `quantize_for_cpu` drops it: a padded frame changes nothing but itself.
    - Depthwise convolutions stay in float32, between products that give and take float32. Those over one axis run as
      [B, C, 1, T]: ONNX Runtime has blocked kernels (NCHWc) for two axes only.

    Args:
        model: FP32 graph of opset >= 18; not changed.
        table: scales of the weights.
        int8: names of the weighted nodes that are lowered; those that `trtasr.graph.cpu_rules.dynamic_rules` allows.

    Returns:
        the graph; it needs ONNX Runtime (domain com.microsoft).

    Raises:
        UsageError: a scale is missing, not positive or not finite.
    """
    return PositionLowering(model, table, int8).run()


class PositionLowering(Lowering):
    """The walk over the FP32 graph; codes are `Forms.codes`, and `Forms.scale` names the largest magnitudes a."""

    def __init__(self, model: onnx.ModelProto, table: ScaleTable, int8: Collection[str]) -> None:
        super().__init__(model, table, quantized=())  # no tensor has codes of one scale
        self.int8 = int8
        self.rotated = rotated_layers(model, table, int8)
        self.coded: dict[tuple[str, bool], Forms] = {}  # by the name of the float32 tensor, channels last, and rotation

    def _lower(self, node: NodeProto) -> None:
        if node.name in self.int8 and node.op_type == "MatMul":
            self._linear(node)
        elif node.name in self.int8:
            self._convolution(node)
        elif self._is_depthwise(node):
            self._depthwise(node)
        elif self._mask_of(node.output[0]) and self.values[node.input[0]].rows:
            self._mask(node)
        else:
            super()._lower(node)

    def _linear(self, node: NodeProto) -> None:
        source, output = node.input[0], node.output[0]
        self.values.setdefault(source, Forms(columns=source))  # embeddings of distances are computed from no feature
        matrix, scales = self._int8(node)
        self._tap(self._positions(self._columns(source), node), matrix, scales, output, node.name)
        self.values[output] = Forms(columns=output)

    def _convolution(self, node: NodeProto) -> None:
        weight, scales = self._int8(node)
        output, codes = f"{node.output[0]}_rows", self._padded(node, self._read(node, weight.ndim))
        total = [name for name in node.input[2:] if name]
        for number, tap in enumerate(product(*map(range, weight.shape[2:])), 1):
            part, matrix = f"{output}_tap{number}", np.moveaxis(weight, (0, 1), (-1, -2))[tap]
            shifted = self._shifted(node, codes, tap, part)
            self._tap(shifted, matrix, scales, part, node.name if number == 1 else "")
            total = [self._emit("Add", [part, *total], f"{output}_sum{number}")] if total else [part]
        self.values[node.output[0]] = Forms(rows=total[0], rank=weight.ndim)

    def _int8(self, node: NodeProto) -> tuple[np.ndarray, str]:
        """A weight on the grid of its scales, as stored, smoothed or rotated, and the name of the scales."""
        weight, scales = multiplied(node, self._array(node.input[1]), self.table, node.name in self.rotated)
        codes = quantize_weight(weight, scales, output_axis(node, weight.ndim))
        return codes, self._constant(f"{node.name}/weight_scale", scales)

    def _tap(self, codes: Forms, matrix: np.ndarray, scales: str, output: str, layer: str) -> None:
        """Of one tap, a (q W): an integer product, and each row of it times the largest magnitude of its position.

        The nodes of a layer's first tap are named for it, as `dynamic_layers` and tables of layers look for them.
        """
        weight, middle = self._constant(f"{output}/weight", unsigned(matrix)), self._constant(*MIDDLE)
        inputs = [codes.codes, weight, self._constant(*STEP), scales, middle, middle]
        relative = self._emit("MatMulIntegerToFloat", inputs, f"{output}_relative", layer, domain=MICROSOFT)
        self._emit("Mul", [relative, codes.scale], output, f"{layer}{ABSMAX}" if layer else "")

    def _positions(self, rows: str, node: NodeProto) -> Forms:
        """Codes and largest magnitudes of what a node reads, float32, channels last; made once for all like readers."""
        smooth, turned = self._smoothed(rows, node), node.name in self.rotated
        if (smooth, turned) not in self.coded:
            self.coded[smooth, turned] = self._codes_of(self._rotated(smooth, node) if turned else smooth)
        return self.coded[smooth, turned]

    def _smoothed(self, rows: str, node: NodeProto) -> str:
        product = self.table.products.get(node.name)
        if product is None or not product.smoothing.size:
            return rows
        name = f"{node.input[0]}_smoothed"  # a tensor with and one without its mask are the same rows
        return self._once("Mul", [rows, self._constant(f"{name}/by", 1 / product.smoothing)], name)

    def _rotated(self, rows: str, node: NodeProto) -> str:
        nodes, found = rotation_nodes(rows, channels_read(node, self.weights[node.input[1]]))
        self.nodes += nodes
        self.initializers.update({item.name: item for item in rotation_constants()})
        return found

    def _codes_of(self, rows: str) -> Forms:
        magnitudes = self._emit("Abs", [rows], f"{rows}_magnitudes")
        most = self._emit("ReduceMax", [magnitudes, self._integers(-1)], f"{rows}_most", keepdims=1)
        largest = self._emit("Max", [most, self._constant(*QUIET)], f"{rows}_largest")
        inverse = self._emit("Reciprocal", [largest], f"{rows}_inverse")
        divided = self._emit("Mul", [rows, inverse], f"{rows}_divided")
        inputs = [divided, self._constant(*STEP), self._constant(*MIDDLE)]
        return Forms(codes=self._emit("QuantizeLinear", inputs, f"{rows}_codes"), scale=largest)

    def _read(self, node: NodeProto, rank: int) -> Forms:
        """What a convolution reads: where a mask is 0, a is 0."""
        source, mask = node.input[0], self._mask_of(node.input[0])
        if not mask:
            return self._positions(self._rows(source, rank), node)
        codes = self._positions(self._rows(self.made_by[source].input[0], rank), node)
        if self.masks_can_go and framewise(node):
            return codes
        factors = [codes.scale, self._mask_rows(mask, rank)]
        return replace(codes, scale=self._once("Mul", factors, f"{codes.scale}_masked_{mask}"))

    def _padded(self, node: NodeProto, codes: Forms) -> Forms:
        pads = attribute(node, "pads", [])
        if not any(pads):
            return codes
        begin, end = pads[: len(pads) // 2], pads[len(pads) // 2 :]
        by, name = self._integers(0, *begin, 0, 0, *end, 0), node.output[0]
        padded = self._emit("Pad", [codes.codes, by, self._constant(*MIDDLE)], f"{name}_padded")
        return Forms(codes=padded, scale=self._emit("Pad", [codes.scale, by], f"{name}_padded_largest"))

    def _shifted(self, node: NodeProto, codes: Forms, tap: tuple[int, ...], name: str) -> Forms:
        """The positions that one tap reads, one per position of the output."""
        kernel = self.weights[node.input[1]].dims[2:]
        strides, dilations = (attribute(node, key, [1] * len(tap)) for key in ("strides", "dilations"))
        if all(size == 1 for size in (*kernel, *strides)):
            return codes
        first = [index * step for index, step in zip(tap, dilations, strict=True)]
        behind = [(size - 1 - index) * step for size, index, step in zip(kernel, tap, dilations, strict=True)]
        axes = range(1, len(tap) + 1)
        bounds = [first, [-count if count else WHOLE for count in behind], axes, strides]
        where = [self._integers(*numbers) for numbers in bounds]
        return Forms(
            codes=self._emit("Slice", [codes.codes, *where], f"{name}_codes"),
            scale=self._emit("Slice", [codes.scale, *where], f"{name}_largest"),
        )

    def _integers(self, *numbers: int) -> str:
        return self._constant("integers_" + "_".join(map(str, numbers)), np.array(numbers, np.int64))

    def _mask(self, node: NodeProto) -> None:
        """A mask in front of what stays in floating point, channels last as its input."""
        name, value = node.output[0], self.values[node.input[0]]
        rows = self._emit("Mul", [value.rows, self._mask_rows(node.input[1], value.rank)], f"{name}_rows")
        self.values[name] = Forms(rows=rows, rank=value.rank)

    def _is_depthwise(self, node: NodeProto) -> bool:
        """Whether a node is a depthwise convolution over one axis."""
        if node.op_type != "Conv" or node.input[1] not in self.weights or attribute(node, "group", 1) == 1:
            return False
        _, channels, *kernel = self.weights[node.input[1]].dims
        return bool(channels == len(kernel) == 1)

    def _depthwise(self, node: NodeProto) -> None:
        """A convolution over one axis as one over two, in the layout in which its input is there."""
        source, name, weight = node.input[0], node.output[0], self._array(node.input[1])[:, :, None]
        rows = bool(self.values[source].rows)
        axis = self._integers(1 if rows else 2)
        data = self._emit("Unsqueeze", [self._rows(source) if rows else self._columns(source), axis], f"{name}_input")
        if rows:
            data = self._emit("Transpose", [data], f"{name}_input_columns", perm=TO_COLUMNS[4])
        inputs = [data, self._constant(f"{node.name}/weight", weight), *node.input[2:]]
        made = self._emit("Conv", inputs, f"{name}_image", node.name, **over_two_axes(node))
        if rows:
            made = self._emit("Transpose", [made], f"{name}_image_rows", perm=TO_ROWS[4])
        made = self._emit("Squeeze", [made, axis], f"{name}_rows" if rows else name)
        self.values[name] = Forms(rows=made) if rows else Forms(columns=made)


def over_two_axes(node: NodeProto) -> dict[str, Any]:
    """Attributes of a convolution over one axis for the same over two, the first of size 1."""
    kept = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    ones = {key: [1, *kept[key]] for key in ("kernel_shape", "strides", "dilations") if key in kept}
    pads = {"pads": [0, kept["pads"][0], 0, kept["pads"][1]]} if "pads" in kept else {}
    return kept | ones | pads
