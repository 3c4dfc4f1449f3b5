"""Messages as builders wrote them (TensorRT issues 3972 and 4060; versions 8.6 to 10; TensorRT for RTX 1.7)."""

import pytest

from trtasr.engine.fallback import nodes_to_free, unsupported

ORDER = ("/a/Conv", "/a/Relu", "/b/dw/Conv", "/b/pw/Conv", "/b/pw/Conv_1", "/c/Conv", "/d/Conv")
INT8 = ("/a/Conv", "/b/pw/Conv", "/b/pw/Conv_1", "/c/Conv")

RECORDED = [
    ("10: Could not find any implementation for node 002_convolutional.", "002_convolutional"),
    (
        "[optimizer.cpp::computeCosts::3897] Error Code 10: Internal Error (Could not find any implementation for node "
        "weights + node_of_weights_quantized + node_of_output.)",
        "weights + node_of_weights_quantized + node_of_output",
    ),
    (
        "Error Code: 10: Could not find any implementation for node {ForeignNode[/transformer/attention_4/"
        "Slice_4_output_0[Constant].../transformer/Reshape_6]}.",
        "{ForeignNode[/transformer/attention_4/Slice_4_output_0[Constant].../transformer/Reshape_6]}",
    ),
    (
        "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation for node "
        "/b/pw/Conv + /b/pw/Relu. In computeCosts at optimizer/common/tactic/optimizer.cpp:4115)",
        "/b/pw/Conv + /b/pw/Relu",
    ),
    (
        "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check_turing_op_compatibility] Cannot "
        "compile operation 'node_mm' for Turing (SM75): FP32 GEMM is not supported. In compileGraph at "
        "/_src/optimizer/myelin/codeGenerator.cpp:2012)",
        "node_mm",
    ),
]


@pytest.mark.parametrize(("message", "layer"), RECORDED)
def test_recorded_messages_name_their_layer(message, layer):
    assert unsupported([message]) == (layer,)


def test_a_layer_said_twice_is_one_and_other_errors_are_none():
    first = RECORDED[0][0]
    memory = (
        "Could not find any implementation for node /a/Conv due to insufficient workspace. See verbose log for "
        "requested sizes."
    )
    assert unsupported([memory]) == ()
    assert unsupported(["no importer for Foo", first, first]) == ("002_convolutional",)
    assert unsupported(["In node 3 (parseGraph): INVALID_NODE", "OutOfMemory (Requested size was 1 bytes.)"]) == ()


@pytest.mark.parametrize(
    ("layer", "freed"),
    [
        ("/b/pw/Conv", ("/b/pw/Conv",)),
        ("/b/pw/Conv_1", ("/b/pw/Conv_1",)),  # not /b/pw/Conv, of which it is no part
        ("weight_dequantized + /a/Conv + /a/Relu", ("/a/Conv",)),
        ("/c/Conv_MatMul", ("/c/Conv",)),
        ("/a/Conv + PWN(PWN(/a/Sigmoid), /a/Mul)", ("/a/Conv",)),
        ("{ForeignNode[/a/Relu.../b/pw/Conv_1]}", ("/b/pw/Conv", "/b/pw/Conv_1")),
        ("{ForeignNode[/b/pw/Conv.../c/Conv + /x/Reshape]}", ("/b/pw/Conv", "/b/pw/Conv_1", "/c/Conv")),
        ("/d/Conv", ()),  # FP16 already: INT8 is not what fails there
        ("features", ()),
    ],
)
def test_the_quantized_nodes_behind_a_layer(layer, freed):
    assert nodes_to_free([layer], ORDER, INT8) == freed
