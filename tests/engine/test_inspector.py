"""The inspector's JSON: the documented example of a convolution (TensorRT 10), its form of version 11, and a region."""

import json

import msgspec
import pytest

from trtasr.engine.inspect import attribute_macs, is_weighted, layers_json
from trtasr.engine.inspector import data_type, inspector_layers, trtexec_profile, with_time_shares
from trtasr.results import LayerRow

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
    assert msgspec.convert(layers_json(rows), tuple[LayerRow, ...]) == rows


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
