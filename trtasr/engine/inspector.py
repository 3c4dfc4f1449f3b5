"""TensorRT's engine inspector and layer profiler: their JSON, of versions 10 and 11, to the layer table."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from trtasr.engine.inspect import ONNX_NODE
from trtasr.results import LayerRow

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
INT8_TACTIC = re.compile(r"i8i8|i8816|i16832|imma|int8", re.IGNORECASE)
UNKNOWN = "Unknown"
MATRIX = re.compile(r"conv|gemm|matrix_?mul|correlation|runtime_fusion", re.IGNORECASE)


def inspector_layers(text: str) -> tuple[LayerRow, ...]:
    """Layer table from ``get_engine_information(LayerInformationFormat.JSON)``.

    A layer computes in INT8 when its data and its weight are Int8; where the inspector does not tell the weight's type
    (regions compiled by Myelin), when its data is Int8 and the kernel's name says so, or when its first two inputs are.
    Data types it leaves out ("N/A due to dynamic shapes") are ``Unknown``: there the weight or the kernel decides.

    Args:
        text: the inspector's JSON; empty when the engine could not be loaded.

    Returns:
        one row per layer after fusion, in the order of execution; MACs are 0.
    """
    if not text:
        return ()
    layers = json.loads(text).get("Layers", [])
    return tuple(_row(layer) for layer in layers if isinstance(layer, Mapping))


def _row(layer: Mapping[str, Any]) -> LayerRow:
    inputs, outputs = (tuple(filter(None, map(data_type, layer.get(key, [])))) for key in ("Inputs", "Outputs"))
    kind, tactic = str(layer.get("LayerType", "")), str(layer.get("TacticName", ""))
    weight = _weight_type(layer)
    operands = inputs + ((weight,) if weight else ())
    matrix = bool(MATRIX.search(kind)) and kind.lower() != "reformat"
    data = inputs[:1] in (("Int8",), (UNKNOWN,))
    by_types = (data and weight == "Int8") or inputs[:2] == ("Int8", "Int8")
    by_name = data and not weight and bool(INT8_TACTIC.search(tactic))
    return LayerRow(
        name=str(layer.get("Name", "")),
        kind=kind,
        operands=operands,
        outputs=outputs,
        onnx_nodes=tuple(dict.fromkeys(ONNX_NODE.findall(str(layer.get("Metadata", ""))))),
        int8=matrix and (by_types or by_name),
        tactic=tactic,
    )


def _weight_type(layer: Mapping[str, Any]) -> str:
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


def with_time_shares(layers: Iterable[LayerRow], times: Mapping[str, Sequence[float]]) -> tuple[LayerRow, ...]:
    """Gives each layer its share of the summed median layer times.

    Args:
        layers: layer table.
        times: layer name -> milliseconds of each profiled run.
    """
    medians = {name: median(values) for name, values in times.items() if values}
    total = sum(medians.values())
    return tuple(replace(row, time_share=medians.get(row.name, 0.0) / total if total else 0.0) for row in layers)


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
