import json
from pathlib import Path

import msgspec
import pytest
import tiny_graphs

from trtasr.engine.inspect import (
    attribute_macs,
    layers_json,
    ort_layers,
    parse_layers,
    trtexec_layers,
)
from trtasr.results import LayerRow

# The VERBOSE "Layers:" record of tiny_graphs.lowered, built by TensorRT for RTX 1.7.1 for sm75.
RECORD = Path(__file__).with_name("rtx_layers.txt").read_text(encoding="utf-8")
MACS = {"dw": 100, "pw": 1000, "head": 400}


def test_recorded_log() -> None:
    layers = parse_layers(RECORD)
    assert [layer.kind for layer in layers].count("kgen") == 8
    by_name = {layer.name: layer for layer in layers}
    gemm = by_name["pw_MatMul_myl0_7"]
    assert gemm.int8
    assert gemm.operands == ("Int8", "Int8")
    assert gemm.outputs == ("Half",)
    assert gemm.onnx_nodes == ("pw_MatMul", "node_of_restored", "node_of_weight")
    depthwise = by_name["dw_myl0_3"]
    assert depthwise.kind == "correlation"
    assert depthwise.operands == ("Half", "Half")
    assert not depthwise.int8
    assert by_name["__mye1630_0_myl0_0"].operands == ()
    assert not any(layer.int8 for layer in layers if layer.kind == "kgen")


def test_a_whole_indented_log_parses_to_the_same_rows() -> None:
    log = "[I] Detected 2 inputs\n" + "\n".join(f"    {line}" for line in RECORD.splitlines()) + "\nNames: x"
    assert parse_layers(log) == parse_layers(RECORD)


def test_a_quantized_input_with_a_float_weight_is_not_int8() -> None:
    line = next(line for line in RECORD.splitlines() if line.startswith("Name: dw_"))
    faked = line.replace("Datatype: Half", "Datatype: Int8", 1)
    assert parse_layers(faked)[0].operands == ("Int8", "Half")
    assert not parse_layers(faked)[0].int8


def test_macs_of_the_recorded_log() -> None:
    layers = attribute_macs(parse_layers(RECORD), MACS)
    assert {layer.name: layer.macs for layer in layers if layer.macs} == {
        "dw_myl0_3": 100,
        "pw_MatMul_myl0_7": 1000,
        "head_myl0_9": 400,
    }


def _gemm(*nodes: str) -> LayerRow:
    return LayerRow("g", "gemm", ("Int8", "Int8"), ("Half",), nodes, int8=True)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (("/a/Conv_1_MatMul",), 20),  # not /a/Conv
        (("/a/Conv_output_0_DequantizeLinear", "/a/Conv_1_MatMul"), 20),  # the pair in front belongs to another node
        (("/a/Conv_tin",), 10),
        (("/a/Conv_MatMul", "/a/Conv_1_MatMul"), 30),  # two products fused into one layer
        (("/a/Convolution",), 0),
    ],
)
def test_macs_go_to_the_layer_of_their_node(nodes: tuple[str, ...], expected: int) -> None:
    (row,) = attribute_macs([_gemm(*nodes)], {"/a/Conv": 10, "/a/Conv_1": 20})
    assert row.macs == expected


def test_no_node_is_counted_twice() -> None:
    layers = [_gemm("/a/Conv_MatMul"), _gemm("/a/Conv_tout", "/b/Conv_MatMul")]
    rows = attribute_macs(layers, {"/a/Conv": 1, "/b/Conv": 2})
    assert [row.macs for row in rows] == [1, 2]


def test_onnx_runtime_layers(tmp_path: Path) -> None:
    layers = ort_layers(tiny_graphs.cpu(tmp_path / "cpu.onnx"), MACS)
    rows = {layer.onnx_nodes[0]: (layer.kind, layer.operands, layer.int8, layer.macs) for layer in layers}
    assert rows["dw"] == ("Conv", ("Float", "Float"), False, 100)
    assert rows["head"] == ("Conv", ("Float", "Float"), False, 400)
    (pointwise,) = [row for row in rows.values() if row[2]]
    assert pointwise == ("QLinearConv", ("UInt8", "Int8"), True, 1000)


def test_json_round_trip() -> None:
    layers = attribute_macs(parse_layers(RECORD), MACS)
    assert msgspec.json.decode(json.dumps(layers_json(layers)), type=tuple[LayerRow, ...]) == layers


def test_trtexec_keys() -> None:
    row = trtexec_layers([_gemm("a", "b")])["Layers"][0]
    assert (row["Name"], row["LayerType"]) == ("g", "gemm")
    assert row["Inputs"] == [{"Format/Datatype": "Int8"}] * 2
    assert row["Metadata"] == "[ONNX Layer: a][ONNX Layer: b]"
