"""The layer table of a built engine: what really runs in INT8, and what was kept in floating point.

It is read from the builder's log, from the JSON of TensorRT's engine inspector and layer profiler (versions 10 and 11),
or from ONNX Runtime's optimized graph.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from onnx import TensorProto

from trtasr.engine.sessions import load_model, open_session
from trtasr.files.disk import needing
from trtasr.files.look import is_file
from trtasr.files.scratch import scratch
from trtasr.results import LayerRow

COMPUTE = {"gemm", "correlation", "convolution", "runtime_fusion"}
ORT_FLOAT = {"Conv", "FusedConv", "NhwcFusedConv", "MatMul", "FusedMatMul", "Gemm", "FusedGemm"}
# Where the zero points of data, weight and output are among the inputs: their types are those of the tensors.
ORT_INT8 = {"QLinearConv": (2, 5, 7), "QLinearMatMul": (2, 5, 7), "QGemm": (2, 5, 8), "MatMulIntegerToFloat": (4, 5)}
ORT_TYPES = {"FLOAT": "Float", "FLOAT16": "Half", "INT8": "Int8", "UINT8": "UInt8"}

LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>.*?), Inputs: (?P<inputs>.*?), Constants: (?P<constants>.*?), "
    r"Outputs: (?P<outputs>.*?), TacticName: .*?Metadata: ?(?P<metadata>.*)"
)
TENSOR = re.compile(r"\{ Name: .*?, Dimensions: \[(.*?)\], .*?Datatype: (\w+),")
ONNX_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
# TensorRT 10 has one field for layout and type, TensorRT 11 one for each.
TYPE_KEYS = ("DataType", "Datatype", "Format/Datatype", "Format/DataType", "Format")
PHRASES = (
    ("Int8", r"\bint8\b"),
    ("Half", r"\b(half|fp16|float16)\b"),
    ("Float", r"\b(float|fp32|float32)\b"),
    ("Int64", r"\bint64\b"),
    ("Int32", r"\bint32\b"),
    ("Bool", r"\bbool\b"),
)
INT8_TACTIC = re.compile(r"i8i8|i8816|i16832|imma|tensor8x8x16|int8", re.IGNORECASE)
OTHER_PROFILE = re.compile(r"\[profile [1-9]\d*\]$")  # of a second optimization profile: the same layers once more
UNKNOWN = "Unknown"
MATRIX = re.compile(r"conv|gemm|matrix_?mul|correlation|runtime_fusion", re.IGNORECASE)


def parse_layers(text: str) -> tuple[LayerRow, ...]:
    """Reads the layer table that TensorRT logs at VERBOSE severity when built with detailed profiling verbosity.

    A layer computes in INT8 when its data operand and its weight (a constant of rank 2 or more) are Int8, or its first
    two data operands where the weight is none of its constants (attention; weights replicated over the batch).

    Args:
        text: the ``Layers:`` record, or a whole log that holds one.

    Returns:
        one row per layer after fusion, in the order of execution; MACs are 0.
    """
    matches = (LINE.match(line.strip()) for line in text.splitlines())
    return tuple(logged_row(match) for match in matches if match)


def logged_row(match: re.Match[str]) -> LayerRow:
    """A layer as the builder of TensorRT for RTX logs it."""
    inputs, constants, outputs = (TENSOR.findall(match[key]) for key in ("inputs", "constants", "outputs"))
    weights = [dtype for dims, dtype in constants if "," in dims]
    operands = tuple(dtype for _, dtype in inputs) + tuple(weights[:1])
    nodes, made = tuple(ONNX_NODE.findall(match["metadata"])), tuple(dtype for _, dtype in outputs)
    int8 = match["kind"] in COMPUTE and operands[:2] == ("Int8", "Int8")
    return LayerRow(match["name"], match["kind"], operands, made, nodes, int8=int8)


def inspector_layers(text: str) -> tuple[LayerRow, ...]:
    """Layer table from ``get_engine_information(LayerInformationFormat.JSON)``.

    A layer computes in INT8 when its data and its weight are Int8; where the inspector does not tell the weight's type
    (regions compiled by Myelin), when its data is Int8 and the kernel's name says so, or when its first two inputs are.
    Data types it leaves out ("N/A due to dynamic shapes") are ``Unknown``: there the weight or the kernel decides.

    Args:
        text: the inspector's JSON; empty when the engine could not be loaded.

    Returns:
        one row per layer after fusion, in the order of execution, of the first optimization profile; MACs are 0.
    """
    if not text:
        return ()
    layers = (layer for layer in json.loads(text).get("Layers", []) if isinstance(layer, Mapping))
    return tuple(inspected_row(layer) for layer in layers if not OTHER_PROFILE.search(str(layer.get("Name", ""))))


def inspected_row(layer: Mapping[str, Any]) -> LayerRow:
    """A layer as TensorRT's engine inspector tells: INT8 by its operands' types, else by its tactic's name."""
    inputs, outputs = (tuple(filter(None, map(data_type, layer.get(key, [])))) for key in ("Inputs", "Outputs"))
    kind, tactic = str(layer.get("LayerType", "")), str(layer.get("TacticName", ""))
    weight = weight_type(layer)
    operands = inputs + ((weight,) if weight else ())
    matrix = bool(MATRIX.search(kind)) and kind.lower() != "reformat"
    data = inputs[:1] in (("Int8",), (UNKNOWN,))
    by_types = (data and weight == "Int8") or inputs[:2] == ("Int8", "Int8")
    by_name = data and not weight and bool(INT8_TACTIC.search(tactic))
    nodes, int8 = ONNX_NODE.findall(str(layer.get("Metadata", ""))), matrix and (by_types or by_name)
    name = str(layer.get("Name", ""))
    return LayerRow(name, kind, operands, outputs, tuple(dict.fromkeys(nodes)), int8=int8, tactic=tactic)


def weight_type(layer: Mapping[str, Any]) -> str:
    """Type of a layer's weight; empty where it has none or does not tell."""
    weights = layer.get("Weights")
    if isinstance(weights, Mapping):
        return data_type({"DataType": weights.get("Type", "")})
    constants = [item for item in layer.get("Constants", []) if len(item.get("Dimensions", [])) > 1]
    return data_type(constants[0]) if constants else ""


def data_type(tensor: Mapping[str, Any]) -> str:
    """``Int8``, ``Half``, ``Float`` ... of a tensor entry; the type may be a word or part of a phrase on the layout.

    ``Unknown`` where the inspector says that it is not available; empty where the entry says nothing.
    """
    for key in TYPE_KEYS:
        phrase = str(tensor.get(key, ""))
        if phrase.startswith("N/A"):
            return UNKNOWN
        for name, pattern in PHRASES:
            if re.search(pattern, phrase, re.IGNORECASE):
                return name
    return ""


def ort_layers(path: Path, macs: Mapping[str, int]) -> tuple[LayerRow, ...]:
    """Layer table of a graph as ONNX Runtime executes it: the convolutions and matrix products after its fusions.

    Args:
        path: ONNX file.
        macs: FP32 node name -> multiply-accumulates per second of audio.

    Raises:
        BundleError: the file is missing or no ONNX model.
    """
    with scratch() as folder:
        optimized = folder / "optimized.onnx"
        with needing(folder, path.stat().st_size if is_file(path) else 0):
            open_session(path, threads=1, optimized=optimized)
        graph = load_model(optimized).graph
    names = {tensor.name: str(TensorProto.DataType.Name(tensor.data_type)) for tensor in graph.initializer}
    types = {tensor: ORT_TYPES.get(name, name) for tensor, name in names.items()}
    rows = (ort_row(node, types) for node in graph.node)
    return attribute_macs([row for row in rows if row is not None], macs)


def ort_row(node: Any, types: Mapping[str, str]) -> LayerRow | None:
    """A node of an ONNX Runtime graph as a layer; None for one without a weight."""
    nodes = (node.name,)
    if node.op_type in ORT_INT8:
        found = [types.get(node.input[i], "") for i in ORT_INT8[node.op_type] if i < len(node.input)]
        return LayerRow(node.name, node.op_type, tuple(found[:2]), tuple(found[2:]) or ("Float",), nodes, int8=True)
    weight = types.get(node.input[1]) if len(node.input) > 1 else None
    if node.op_type not in ORT_FLOAT or weight is None:
        return None
    return LayerRow(node.name, node.op_type, (weight, weight), (weight,), nodes)


def attribute_macs(layers: Iterable[LayerRow], macs: Mapping[str, int]) -> tuple[LayerRow, ...]:
    """Gives each weighted layer the MACs of the FP32 nodes it came from.

    Args:
        layers: layer table.
        macs: FP32 node name -> multiply-accumulates per second of audio. Graph passes name what replaces a node
            ``<node>_MatMul`` or ``<node>_...``.

    Returns:
        the same rows with `LayerRow.macs`; no node is counted twice.
    """
    left, rows = dict(macs), []
    for layer in layers:
        owners = owning_nodes(layer.onnx_nodes, left) if is_weighted(layer) else ()
        rows.append(replace(layer, macs=sum(left.pop(owner) for owner in owners)))
    return tuple(rows)


def owning_nodes(nodes: Sequence[str], names: Iterable[str]) -> tuple[str, ...]:
    """FP32 nodes behind a layer's ONNX nodes: the same name or its MatMul, else the longest name that is a prefix."""
    known = set(names)
    exact = dict.fromkeys(node.removesuffix("_MatMul") for node in nodes)
    found = tuple(name for name in exact if name in known)
    if found:
        return found
    prefixes = (origin(node, known) for node in nodes)
    return tuple(name for name in prefixes if name)[:1]


def origin(node: str, known: Set[str]) -> str:
    """The FP32 node that a graph pass made `node` from: the longest known name it begins with; empty for none."""
    while node and node not in known:
        node = node.rpartition("_")[0]
    return node


def is_weighted(layer: LayerRow) -> bool:
    """True for convolutions and matrix products: the layers that INT8 is about."""
    known = layer.kind in COMPUTE or layer.kind in ORT_FLOAT or layer.kind in ORT_INT8
    return (known or "Conv" in layer.kind or "Gemm" in layer.kind) and len(layer.operands) > 1


def with_time_shares(layers: Iterable[LayerRow], times: Mapping[str, Sequence[float]]) -> tuple[LayerRow, ...]:
    """Gives each layer its share of the summed medians of layer times, in milliseconds of each profiled run by name."""
    medians = {name: median(values) for name, values in times.items() if values}
    total = sum(medians.values())
    return tuple(replace(row, time_share=medians.get(row.name, 0.0) / total if total else 0.0) for row in layers)


def trtexec_layers(layers: Iterable[LayerRow]) -> dict[str, Any]:
    """The layer table with the keys of ``trtexec --exportLayerInfo``; operand types stand for the inputs."""
    return {
        "Layers": [
            {
                "Name": layer.name,
                "LayerType": layer.kind,
                "Inputs": [{"Format/Datatype": dtype} for dtype in layer.operands],
                "Outputs": [{"Format/Datatype": dtype} for dtype in layer.outputs],
                "Metadata": "".join(f"[ONNX Layer: {node}]" for node in layer.onnx_nodes),
            }
            for layer in layers
        ]
    }


def trtexec_profile(times: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Layer times with the keys of ``trtexec --exportProfile``: the number of runs, then one entry per layer."""
    total = sum(sum(values) for values in times.values())
    entries = [
        {
            "name": name,
            "timeMs": sum(values),
            "averageMs": sum(values) / len(values),
            "medianMs": median(values),
            "percentage": 100 * sum(values) / total if total else 0.0,
        }
        for name, values in times.items()
        if values
    ]
    return [{"count": max(map(len, times.values()), default=0)}, *entries]
