import json
from pathlib import Path

import msgspec
import pytest
import tiny_graphs

from trtasr.engine import sessions
from trtasr.engine.inspect import (
    attribute_macs,
    data_type,
    inspector_layers,
    is_weighted,
    ort_layers,
    parse_layers,
    trtexec_layers,
    trtexec_profile,
    with_time_shares,
)
from trtasr.results import LayerRow, plain

# The VERBOSE "Layers:" record of tiny_graphs.lowered, built by TensorRT for RTX 1.7.1 for sm75.
RECORD = Path(__file__).with_name("rtx_layers.txt").read_text(encoding="utf-8")
MACS = {"dw": 100, "pw": 1000, "head": 400}

# The inspector's JSON: the documented example of a convolution (TensorRT 10), and a region.
LAYOUT = "Thirty-two wide channel vectorized row major Int8 format."
CONV = {
    "Name": "weight + /b/Conv + /b/Relu",
    "LayerType": "CaskConvolution",
    "Inputs": [{"Name": "x", "Dimensions": [16, 512, 28, 28], "Format/Datatype": LAYOUT}],
    "Outputs": [{"Name": "y", "Dimensions": [16, 256, 28, 28], "Format/Datatype": "Row major linear FP16 format"}],
    "ParameterType": "Convolution",
    "Weights": {"Type": "Int8", "Count": 131072},
    "Bias": {"Type": "Float", "Count": 256},
    "TacticName": "turing_i8816_nchw_vect_c_32",
    "Metadata": "[ONNX Layer: /b/weight_QuantizeLinear]\u001e[ONNX Layer: /b/Conv]\u001e[ONNX Layer: /b/Relu]",
}
FAKE = CONV | {
    "Name": "/f/Conv",
    "Weights": {"Type": "Half", "Count": 1},
    "TacticName": "turing_h1688",
    "Metadata": "[ONNX Layer: /f/Conv]",
}
REFORMAT = {
    "Name": "Reformatting CopyNode for Input Tensor 0 to /b/Conv",
    "LayerType": "Reformat",
    "Inputs": [{"Format/Datatype": "Row major linear FP32"}],
    "Outputs": [{"Format/Datatype": LAYOUT}],
    "TacticName": "0x00000000000003e8",
}
GEMM = {
    "Name": "__myl_Fc_7",
    "LayerType": "gemm",
    "Inputs": [{"Name": "x", "Datatype": "Int8"}, {"Name": "w", "Datatype": "Int8"}],
    "Outputs": [{"Name": "y", "Datatype": "Half"}],
    "Metadata": "[ONNX Layer: /c/Conv_MatMul]",
}


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


def test_onnx_runtime_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "multiplies_codes_exactly", lambda: True)  # else nothing is INT8
    layers = ort_layers(tiny_graphs.cpu(tmp_path / "cpu.onnx"), MACS)
    rows = {layer.onnx_nodes[0]: (layer.kind, layer.operands, layer.int8, layer.macs) for layer in layers}
    assert rows["dw"] == ("Conv", ("Float", "Float"), False, 100)
    assert rows["head"] == ("Conv", ("Float", "Float"), False, 400)
    (pointwise,) = [row for row in rows.values() if row[2]]
    assert pointwise == ("QLinearConv", ("UInt8", "Int8"), True, 1000)


def test_json_round_trip() -> None:
    layers = attribute_macs(parse_layers(RECORD), MACS)
    assert msgspec.json.decode(json.dumps(plain(layers)), type=tuple[LayerRow, ...]) == layers


def test_trtexec_keys() -> None:
    row = trtexec_layers([_gemm("a", "b")])["Layers"][0]
    assert (row["Name"], row["LayerType"]) == ("g", "gemm")
    assert row["Inputs"] == [{"Format/Datatype": "Int8"}] * 2
    assert row["Metadata"] == "[ONNX Layer: a][ONNX Layer: b]"


def version_11(layer):
    """The same entry with the layout and the type in two fields."""
    split = {LAYOUT: "Int8", "Row major linear FP16 format": "Half", "Row major linear FP32": "Float"}

    def tensor(entry):
        phrase = entry.get("Format/Datatype")
        kept = {key: value for key, value in entry.items() if key != "Format/Datatype"}
        return kept | ({"Format": phrase, "DataType": split[phrase]} if phrase else {})

    return layer | {key: [tensor(entry) for entry in layer[key]] for key in ("Inputs", "Outputs")}


@pytest.mark.parametrize("version", [10, 11])
def test_both_versions_give_the_same_rows(version):
    layers = [CONV, FAKE, REFORMAT, GEMM]
    document = {"Layers": layers, "Bindings": ["features", "log_probs"]}
    if version == 11:
        tensors = [{"Name": "features", "IOMode": "Input", "DataType": "Float"}]
        document = {"Layers": [version_11(layer) for layer in layers], "I/O Tensors": tensors}
    rows = inspector_layers(json.dumps(document))
    assert [row.int8 for row in rows] == [True, False, False, True]
    assert rows[0] == LayerRow(
        "weight + /b/Conv + /b/Relu",
        "CaskConvolution",
        ("Int8", "Int8"),
        ("Half",),
        ("/b/weight_QuantizeLinear", "/b/Conv", "/b/Relu"),
        int8=True,
        tactic="turing_i8816_nchw_vect_c_32",
    )
    assert rows[1].operands == ("Int8", "Half")
    assert [is_weighted(row) for row in rows] == [True, True, False, True]
    assert msgspec.convert(plain(rows), tuple[LayerRow, ...]) == rows


def test_macs_find_their_layer():
    rows = inspector_layers(json.dumps({"Layers": [REFORMAT, CONV, GEMM]}))
    rows = attribute_macs(rows, {"/b/Conv": 5, "/c/Conv": 7})
    assert [row.macs for row in rows] == [0, 5, 7]


def test_a_region_without_weight_types_goes_by_its_kernel():
    region = {
        "Name": "{ForeignNode[a...b]}",
        "LayerType": "gemm",
        "Inputs": [{"Datatype": "Int8"}, {"Datatype": "Half"}],
        "Outputs": [{"Datatype": "Half"}],
    }
    named = inspector_layers(json.dumps({"Layers": [region | {"TacticName": "sm75_xmma_gemm_i8i8_i8i32_f32_tn"}]}))
    other = inspector_layers(json.dumps({"Layers": [region | {"TacticName": "sm75_xmma_gemm_f16f16"}]}))
    assert (named[0].int8, other[0].int8) == (True, False)


def test_names_only_and_nothing_at_all():
    """Engines built without detailed verbosity list names, and an engine that does not load gives no text."""
    assert inspector_layers(json.dumps({"Layers": ["conv1", "conv2"]})) == ()
    assert inspector_layers("") == ()


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"Format/Datatype": "Int8"}, "Int8"),
        ({"Format/Datatype": "Half"}, "Half"),
        ({"Datatype": "Float"}, "Float"),
        ({"Format/Datatype": "Row major linear INT32"}, "Int32"),
        ({"Format": "N/A due to dynamic shapes"}, "Unknown"),
        ({"Format/Datatype": "Two wide channel vectorized row major FP16 format"}, "Half"),
        ({}, ""),
    ],
)
def test_types_in_words_and_phrases(entry, expected):
    assert data_type(entry) == expected


def test_time_shares_and_the_exported_profile():
    rows = inspector_layers(json.dumps({"Layers": [CONV, GEMM, REFORMAT]}))
    times = {CONV["Name"]: [3.0, 3.0, 30.0], GEMM["Name"]: [1.0, 1.0, 1.0]}
    shares = [row.time_share for row in with_time_shares(rows, times)]
    assert shares == [0.75, 0.25, 0.0]
    count, first, second = trtexec_profile(times)
    assert count == {"count": 3}
    assert first == {
        "name": CONV["Name"],
        "timeMs": 36.0,
        "averageMs": 12.0,
        "medianMs": 3.0,
        "percentage": pytest.approx(100 * 36 / 39),
    }
    assert second["percentage"] == pytest.approx(100 * 3 / 39)
    assert trtexec_profile({}) == [{"count": 0}]


def test_without_shapes_the_weight_or_the_kernel_decides():
    """TensorRT 10 leaves out the types of tensors whose shapes its context does not know."""
    unknown = {
        "Inputs": [{"Format/Datatype": "N/A due to dynamic shapes"}],
        "Outputs": [{"Format/Datatype": "N/A due to dynamic shapes"}],
    }
    bare = {key: value for key, value in CONV.items() if key != "Weights"}
    layers = [CONV | unknown, FAKE | unknown, bare | unknown]
    rows = attribute_macs(inspector_layers(json.dumps({"Layers": layers})), {"/b/Conv": 5, "/f/Conv": 7})
    assert [row.int8 for row in rows] == [True, False, True]
    assert rows[0].operands == ("Unknown", "Int8")
    assert [row.macs for row in rows[:2]] == [5, 7]


def test_layers_of_a_second_optimization_profile_are_not_counted_again() -> None:
    layers = [
        {"Name": name, "LayerType": "CaskConvolution"} for name in ("/a/Conv", "/a/Conv [profile 1]", "/b [profile 0]")
    ]
    assert [row.name for row in inspector_layers(json.dumps({"Layers": layers}))] == ["/a/Conv", "/b [profile 0]"]
