"""INT8 graph for ONNX Runtime on the CPU: integer convolutions and linear layers on 8-bit codes, channels last."""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from trtasr.graph.cpu_rules import framewise
from trtasr.graph.edit import constants, consumers, producers, rebuilt, scale_of, tensor, weight_scales_of
from trtasr.graph.pointwise import is_pointwise
from trtasr.graph.tensors import attribute, data_path
from trtasr.quant.scales import quantize_weight
from trtasr.values import FloatArray, ScaleTable, TensorScale

MICROSOFT, LARGEST_BIAS = "com.microsoft", 2.0**30
MIDDLE = "uint8_middle", np.uint8(128)  # code of 0
ELEMENTWISE, LAYOUT = ("Add", "Relu", "Max"), ("Transpose", "Reshape")
SWAP = [0, 2, 1]
TO_ROWS = {3: SWAP, 4: [0, 2, 3, 1]}  # by rank: channels last
TO_COLUMNS = {3: SWAP, 4: [0, 3, 1, 2]}


def quantize_for_cpu(model: onnx.ModelProto, table: ScaleTable, int8: Collection[str]) -> onnx.ModelProto:
    """Lower an FP32 graph to integer operators of ONNX Runtime.

        x -> Mul(mask) -> Conv(W, b) -> Relu -> Mul(mask) -> Conv ...
    becomes
        q -> Where(mask, q, zero point) -> QLinearConv(Wq, bq) -> q -> Where ...            q: uint8 codes [B, T, C]

    - Activations are uint8. Where the table says non-negative: scale `unsigned_scale`, zero point 0, and saturation
      replaces Relu. Elsewhere: scale `scale`, zero point 128.
    - Weights are uint8 too, with zero point 128, except in depthwise convolutions. On x86 without VNNI, ONNX Runtime
      adds products of uint8 and int8 in pairs in 16 bits, which overflow; of uint8 and uint8 in 32 bits. With VNNI both
      are exact, and int8 weights took less than half the time on an AMD EPYC, in convolutions and matrix products alike
      (`trtasr.engine.signed_weights`).
    - A mask multiplies codes by 0 or 1, which is a choice between code and zero point: no float in between. In front of
      a kernel-1 convolution it is dropped: a padded frame then changes itself only, and each wider convolution masks
      again. Valid frames see no padding; log-probabilities of padded frames differ from the FP32 graph's.
    - Pointwise convolutions whose result is added (residual branches) or returned (logits) give float32 straight from
      the int32 accumulator (MatMulIntegerToFloat), so that a sum is rounded to 8 bits once, not three times.
    - Tensors are kept as [B, T, C], the layout of ONNX Runtime's integer kernels (convolutions over two axes:
      [B, T, F, C]); anything that is not Conv, MatMul, mask, Relu, Add or Max runs unchanged in float32 on the FP32
      graph's layout.
    - A linear layer reads uint8 codes and gives float32, bias included (MatMulIntegerToFloat); layers with the same
      input share its codes.
    - A bias is int32 with scale (input scale x weight scale). Where it would not fit, in a channel whose weights vanish
      beside its bias, the channel's weight scale is raised until it does.

    Args:
        model: FP32 graph of opset >= 18; not changed.
        table: scales of the tensors that convolutions read, and of the weights.
        int8: names of the weighted nodes that are lowered; those that `trtasr.graph.cpu_rules` allows.

    Returns:
        the graph; it needs ONNX Runtime (domain com.microsoft).

    Raises:
        UsageError: a scale is missing, not positive or not finite.
    """
    return Lowering(model, table, int8).run()


def unsigned(codes: npt.NDArray[np.int8]) -> npt.NDArray[Any]:
    """Codes around 0 as codes around 128."""
    return np.ascontiguousarray(codes.view(np.uint8) ^ np.uint8(128))


@dataclass(frozen=True)
class Forms:
    """Forms in which an FP32 tensor exists in the lowered graph.

    Attributes:
        columns: float32 in the FP32 graph's layout, [B, C, T] in front of convolutions.
        rows: float32 with channels last, [B, T, C].
        codes: uint8 with channels last; with ``scale`` and ``zero`` the names of its scale and zero point.
        plain: uint8 in the FP32 graph's layout, for linear layers; of the same scale and zero point.
        rank: number of axes; 4 for convolutions over two axes.
    """

    columns: str = ""
    rows: str = ""
    codes: str = ""
    scale: str = ""
    zero: str = ""
    plain: str = ""
    rank: int = 3


class Lowering:
    """Walks the FP32 graph once and collects the nodes of the lowered graph."""

    def __init__(self, model: onnx.ModelProto, table: ScaleTable, quantized: Collection[str]) -> None:
        self.model, self.table, self.quantized = model, table, quantized
        self.weights, self.readers, self.made_by = constants(model), consumers(model), producers(model)
        self.on_path = set(data_path(model))
        self.outputs = {value.name for value in model.graph.output}
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = dict(self.weights)
        self.values = {item.name: Forms(columns=item.name) for item in model.graph.input if item.name in self.on_path}
        self.masks_can_go = all(
            self._mask_of(node.input[0]) for node in model.graph.node if node.op_type == "Conv" and not framewise(node)
        )

    def run(self) -> onnx.ModelProto:
        """The lowered graph."""
        for node in self.model.graph.node:
            if node.output[0] in self.values:
                continue  # a Relu that its convolution applied, the bias of a linear layer
            self._lower(node)
        self._name_outputs()
        lowered = rebuilt(self.model, self.nodes, self.initializers.values())
        lowered.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
        return lowered

    def _lower(self, node: NodeProto) -> None:
        """One node of the FP32 graph, with what it needs."""
        if node.name in self.quantized and node.op_type == "MatMul":
            self._matmul(node)
        elif node.name in self.quantized:
            self._conv(node)
        elif node.op_type == "Shape" and node.input[0] in self.values:
            self._shape(node)
        elif self._mask_of(node.output[0]) and self._only_codes_read(node.input[0]):
            pass  # each convolution masks the codes it reads
        elif node.op_type in ELEMENTWISE and all(name in self.values for name in node.input):
            self._elementwise(node)
        elif node.op_type in LAYOUT and self._moves_codes(node):
            self._move(node)
        elif node.op_type == "Transpose" and attribute(node, "perm", []) == SWAP and node.input[0] in self.values:
            self._swap(node)
        else:
            self._keep(node)

    def _emit(self, op: str, inputs: Sequence[str], output: str, name: str = "", **attributes: Any) -> str:
        """Append a node named like its output, or for the node whose work it does."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=name or output, **attributes))
        return output

    def _product(self, node: NodeProto, data: Forms, codes: str, bias: Sequence[str], output: str) -> str:
        """MatMulIntegerToFloat of codes and a matrix of codes, which gives float32, bias included."""
        weight, scales = self._weight(node, data)
        matrix = weight if node.op_type == "MatMul" else weight.reshape(weight.shape[:2]).T
        stored = self._constant(f"{node.name}/weight", unsigned(matrix))
        weight_scales = self._constant(f"{node.name}/weight_scale", scales)
        inputs = [codes, stored, data.scale, weight_scales, data.zero, self._constant(*MIDDLE), *bias]
        return self._emit("MatMulIntegerToFloat", inputs, output, node.name, domain=MICROSOFT)

    def _constant(self, name: str, value: object) -> str:
        self.initializers.setdefault(name, tensor(name, value))
        return name

    def _conv(self, node: NodeProto) -> None:
        source, mask = node.input[0], self._mask_of(node.input[0])
        if mask:
            source = self.made_by[source].input[0]
        data = self._codes(source, len(self.weights[node.input[1]].dims))
        if mask and not (self.masks_can_go and framewise(node)):
            data = replace(data, codes=self._masked_codes(data, mask))
        output = node.output[0]
        relu = self._fused_relu(output)
        if relu or self._only_codes_read(output):
            made = self._integer_conv(node, data, relu or output)
            self.values |= {output: made, relu or output: made}
        elif is_pointwise(node, self.weights[node.input[1]]):
            rows = self._product(node, data, data.codes, node.input[2:], f"{output}_rows")
            self.values[output] = Forms(rows=rows, rank=data.rank)
        else:
            self.values[output] = self._integer_conv(node, data, output)

    def _integer_conv(self, node: NodeProto, data: Forms, result: str) -> Forms:
        codes, scales = self._weight(node, data)
        entry = scale_of(self.table, self._scale_name(result))
        scale, zero = self._quantizer(result, entry)
        if attribute(node, "group", 1) == 1:
            stored, middle = unsigned(codes), self._constant(*MIDDLE)
        else:  # one product at a time, in 32 bits
            stored, middle = codes, self._constant("int8_zero", np.int8(0))
        weight = [self._constant(f"{node.name}/weight", stored), self._constant(f"{node.name}/weight_scale", scales)]
        inputs = [data.codes, data.scale, data.zero, *weight, middle, scale, zero]
        if len(node.input) > 2 and node.input[2]:
            bias = self._array(node.input[2]).astype(np.float64) / (self._float(data.scale) * scales.astype(np.float64))
            inputs.append(self._constant(f"{node.name}/bias", np.rint(bias).astype(np.int32)))
        kept = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        layout = {"domain": MICROSOFT, "channels_last": 1}
        output = self._emit("QLinearConv", inputs, f"{result}_codes", node.name, **layout, **kept)
        return Forms(codes=output, scale=scale, zero=zero, rank=data.rank)

    def _matmul(self, node: NodeProto) -> None:
        """A linear layer, with the bias that is added to its product and to nothing else."""
        data, width = self._plain(node.input[0]), self.weights[node.input[1]].dims[-1]
        bias, output = self._bias(node.output[0], width)
        self.values[output] = Forms(columns=self._product(node, data, data.plain, bias, output))

    def _bias(self, product: str, width: int) -> tuple[list[str], str]:
        """The bias that alone reads a product, if there is one, and what their sum is called."""
        readers = self.readers.get(product, [])
        if [reader.op_type for reader in readers] == ["Add"] and product not in self.outputs:
            for name in readers[0].input:
                if name in self.weights and list(self.weights[name].dims) == [width]:
                    return [name], readers[0].output[0]
        return [], product

    def _weight(self, node: NodeProto, data: Forms) -> tuple[npt.NDArray[Any], FloatArray]:
        """int8 weight and scales, raised where the bias would overflow int32."""
        entry = weight_scales_of(self.table, node.input[1])
        scales = np.asarray(entry.scales, np.float32)
        if len(node.input) > 2 and node.input[2]:
            floor = np.abs(self._array(node.input[2])) / (self._float(data.scale) * LARGEST_BIAS)
            scales = np.maximum(scales, floor.astype(np.float32))
        return quantize_weight(self._array(node.input[1]), scales, entry.axis), scales

    def _elementwise(self, node: NodeProto) -> None:
        name, inputs = node.output[0], [self.values[i] for i in node.input]
        if all(value.columns for value in inputs) and not all(value.rows for value in inputs):
            self._keep(node)
            return
        rows = self._emit(node.op_type, [self._rows(i) for i in node.input], f"{name}_rows")
        self.values[name] = Forms(rows=rows, rank=inputs[0].rank)
        if node.op_type == "Relu" and self._only_codes_read(name):
            entry = scale_of(self.table, self._scale_name(name))
            if entry.non_negative:
                self.values[name] = self._quantize(self._rows(node.input[0]), name, entry)

    def _swap(self, node: NodeProto) -> None:
        """Channels last in the FP32 graph as well: rows of one tensor are columns of the other."""
        value = self.values[node.input[0]]
        if not value.columns and not value.rows:
            self._rows(node.input[0])
            value = self.values[node.input[0]]
        self.values[node.output[0]] = Forms(columns=value.rows, rows=value.columns)

    def _moves_codes(self, node: NodeProto) -> bool:
        """Whether only codes of a tensor exist, and only linear layers read it behind this change of layout."""
        value = self.values.get(node.input[0], Forms())
        moved = value.plain or (value.codes and node.op_type == "Transpose")
        readers = self._code_readers(node.output[0])
        linear = bool(readers) and all(r.op_type == "MatMul" and r.name in self.quantized for r, _ in readers)
        return bool(moved) and not (value.columns or value.rows) and linear

    def _move(self, node: NodeProto) -> None:
        """Change the layout of codes instead of floats."""
        value, output = self.values[node.input[0]], node.output[0]
        if node.op_type == "Reshape":
            moved = self._emit("Reshape", [value.plain, node.input[1]], f"{output}_codes")
        else:
            where = range(value.rank) if value.plain else TO_COLUMNS[value.rank]
            perm = [where[axis] for axis in attribute(node, "perm", [])]
            moved = self._emit("Transpose", [value.plain or value.codes], f"{output}_codes", perm=perm)
        self.values[output] = replace(value, codes="", plain=moved)

    def _keep(self, node: NodeProto) -> None:
        kept = copy.deepcopy(node)
        for index, name in enumerate(node.input):
            if name in self.values:
                kept.input[index] = self._columns(name)
        self.nodes.append(kept)
        self.values.update({name: Forms(columns=name) for name in node.output if name in self.on_path})

    def _shape(self, node: NodeProto) -> None:
        value = self.values[node.input[0]]
        if value.columns:
            self._keep(node)
        elif value.plain:
            self._emit("Shape", [value.plain], node.output[0])
        else:
            shape = self._emit("Shape", [value.rows or value.codes], f"{node.output[0]}_rows")
            order = self._constant(f"swap_{value.rank}", np.array(TO_COLUMNS[value.rank]))
            self._emit("Gather", [shape, order], node.output[0])

    def _name_outputs(self) -> None:
        """Restore graph outputs that exist in another layout only, or under another name."""
        made = {name for node in self.nodes for name in node.output}
        for value in self.model.graph.output:
            if value.name not in made:
                self._emit("Identity", [self._columns(value.name)], value.name)

    def _columns(self, name: str) -> str:
        value = self.values[name]
        if not value.columns:
            columns = self._emit("Transpose", [self._rows(name)], f"{name}_columns", perm=TO_COLUMNS[value.rank])
            self.values[name] = replace(self.values[name], columns=columns)
        return self.values[name].columns

    def _rows(self, name: str, rank: int = 0) -> str:
        value = replace(self.values[name], rank=rank or self.values[name].rank)
        if not value.rows and value.codes:
            rows = self._emit("DequantizeLinear", [value.codes, value.scale, value.zero], f"{name}_rows")
            self.values[name] = replace(value, rows=rows)
        elif not value.rows:
            rows = self._emit("Transpose", [value.columns], f"{name}_rows", perm=TO_ROWS[value.rank])
            self.values[name] = replace(value, rows=rows)
        return self.values[name].rows

    def _codes(self, name: str, rank: int) -> Forms:
        value = self.values[name]
        if not value.codes and value.plain:  # a linear layer reads it too
            codes = self._emit("Transpose", [value.plain], f"{name}_turned", perm=TO_ROWS[rank])
            self.values[name] = replace(value, codes=codes, rank=rank)
        elif not value.codes:
            made = self._quantize(self._rows(name, rank), name, scale_of(self.table, self._scale_name(name)))
            self.values[name] = replace(self.values[name], codes=made.codes, scale=made.scale, zero=made.zero)
        return self.values[name]

    def _plain(self, name: str) -> Forms:
        """Codes in the FP32 graph's layout."""
        value = self.values.setdefault(name, Forms(columns=name))  # positions are computed from no feature
        if not value.plain and value.codes:  # a convolution reads it too
            plain = self._emit("Transpose", [value.codes], f"{name}_plain", perm=TO_COLUMNS[value.rank])
            self.values[name] = replace(value, plain=plain)
        elif not value.plain:
            made = self._quantize(self._columns(name), name, scale_of(self.table, name))
            self.values[name] = replace(self.values[name], plain=made.codes, scale=made.scale, zero=made.zero)
        return self.values[name]

    def _quantize(self, rows: str, name: str, entry: TensorScale) -> Forms:
        scale, zero = self._quantizer(name, entry)
        codes = self._emit("QuantizeLinear", [rows, scale, zero], f"{name}_codes")
        return Forms(codes=codes, scale=scale, zero=zero)

    def _quantizer(self, name: str, entry: TensorScale) -> tuple[str, str]:
        scale = entry.unsigned_scale if entry.non_negative else entry.scale
        zero = ("uint8_zero", np.uint8(0)) if entry.non_negative else MIDDLE
        return self._constant(f"{name}_scale", scale), self._constant(*zero)

    def _masked_codes(self, data: Forms, mask: str) -> str:
        output, keep = f"{data.codes}_masked_{mask}", f"{mask}_keep"
        self._once("Cast", [self._mask_rows(mask, data.rank)], keep, to=TensorProto.BOOL)
        return self._once("Where", [keep, data.codes, data.zero], output)

    def _mask_rows(self, mask: str, rank: int) -> str:
        """A mask with channels last."""
        return self._once("Transpose", [mask], f"{mask}_rows", perm=TO_ROWS[rank])

    def _once(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Emit what several nodes read, unless it is there."""
        if all(output not in node.output for node in self.nodes):
            self._emit(op, inputs, output, **attributes)
        return output

    def _mask_of(self, name: str) -> str:
        """The mask that makes tensor ``name`` = Mul(data, mask), or nothing."""
        node = self.made_by.get(name)
        if node is None or node.op_type != "Mul" or node.input[0] not in self.on_path:
            return ""
        return node.input[1] if self._is_mask(node.input[1]) else ""

    def _is_mask(self, name: str) -> bool:
        """Whether a tensor is Clip(integers, 0, 1), cast and unsqueezed."""
        node = self.made_by.get(name)
        while node is not None and node.op_type in ("Unsqueeze", "Cast"):
            node = self.made_by.get(node.input[0])
        return node is not None and node.op_type == "Clip" and not self.on_path.intersection(node.input)

    def _code_readers(self, name: str) -> list[tuple[NodeProto, str]]:
        """Nodes that read a tensor, masks seen through, each with the FP32 name of what it reads; Shape left out."""
        found = []
        for node in self.readers.get(name, []):
            masked = bool(self._mask_of(node.output[0])) and node.input[0] == name
            seen = node.output[0] if masked else name
            if node.op_type in LAYOUT and node.input[0] == name:
                found += self._code_readers(node.output[0])
                continue
            found += [(reader, seen) for reader in (self.readers.get(seen, []) if masked else [node])]
        return [(reader, seen) for reader, seen in found if reader.op_type != "Shape"]

    def _only_codes_read(self, name: str) -> bool:
        readers = self._code_readers(name)
        return bool(readers) and all(reader.name in self.quantized for reader, _ in readers)

    def _scale_name(self, name: str) -> str:
        """The tensor whose scale the codes of ``name`` have: what the first integer convolution reads, else itself."""
        return next((seen for reader, seen in self._code_readers(name) if reader.name in self.quantized), name)

    def _fused_relu(self, name: str) -> str:
        """Output of the Relu that saturation at code 0 can replace, or nothing."""
        readers = [reader for reader in self.readers.get(name, []) if reader.op_type != "Shape"]
        if len(readers) != 1 or readers[0].op_type != "Relu" or not self._only_codes_read(readers[0].output[0]):
            return ""
        output = readers[0].output[0]
        return output if scale_of(self.table, self._scale_name(output)).non_negative else ""

    def _array(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self.weights[name])

    def _float(self, name: str) -> float:
        return float(numpy_helper.to_array(self.initializers[name]))
