"""Messages as builders wrote them (TensorRT issues 3972 and 4060; versions 8.6 to 10; TensorRT for RTX 1.7)."""

from pathlib import Path

import pytest
from parser_layers import one_dimensional, single

from trtasr.engine.child import Product, refusal
from trtasr.engine.fallback import nodes_to_free, unsupported, with_kin
from trtasr.engine.parsed import nodes_behind
from trtasr.errors import NoKernelError

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


# A block of QuartzNet in one dimension, as the parser reads it, and what builders say of such networks (TensorRT issues
# 1864, 2131 and 4060; the names of the parser's own layers are those of the real parser, see test_parsed.py).
PREFIX = "/encoder/encoder.1/mconv"
DEPTHWISE, POINTWISE, LAST = f"{PREFIX}.0/conv/Conv", f"{PREFIX}.1/conv/Conv", "/encoder/encoder.2/mconv.0/conv/Conv"
BLOCK = (DEPTHWISE, POINTWISE, f"{PREFIX}.3/Relu", LAST)
NETWORK = (
    *one_dimensional(("", ""), DEPTHWISE, "features", "spread"),
    *single("spread/QuantizeLinear", "spread", "codes"),
    *single("spread/DequantizeLinear", "codes", "restored"),
    *one_dimensional(("_45", "_49"), POINTWISE, "restored", "mixed"),
    *single(f"{PREFIX}.3/Relu", "mixed", "active"),
    *one_dimensional(("_613", "_615"), LAST, "active", "scores"),
)
WEIGHT = "encoder.encoder.1.mconv.1.conv.weight"
NONE_FOR = "Error Code 10: Internal Error (Could not find any implementation for node"
FACTS = [
    (f"{NONE_FOR} {{ForeignNode[ONNXTRT_unsqueezeTensor_45...ONNXTRT_squeezeTensor_49]}}.)", (POINTWISE,)),
    (
        f"IBuilder::buildSerializedNetwork: {NONE_FOR} "
        "{ForeignNode[ONNXTRT_unsqueezeTensor...ONNXTRT_squeezeTensor_615]}.)",
        (POINTWISE, LAST),
    ),
    (
        f"{NONE_FOR} {WEIGHT}_int8 + {WEIGHT}/DequantizeLinear + "
        f"ONNXTRT_unsqueezeTensor_45 + {POINTWISE} + ONNXTRT_squeezeTensor_49 + {PREFIX}.3/Relu.)",
        (POINTWISE,),
    ),
    (f"[optimizer.cpp::computeCosts::3728] {NONE_FOR} {POINTWISE}.)", (POINTWISE,)),
    (
        f"IBuilder::buildSerializedNetwork: {NONE_FOR} {POINTWISE}. In computeCosts at "
        "optimizer/common/tactic/optimizer.cpp:4115)",
        (POINTWISE,),
    ),
    (
        "[qdqGraphOptimizer.cpp::reportWeightlessTwoInputConvolutionAsError::230] Error Code 2: Internal Error "
        f"({POINTWISE}: Could not fuse 2nd input (kernel weights) of CONVOLUTION)",
        (POINTWISE,),
    ),
    (
        f"Error Code 2: Internal Error ({LAST} + /encoder/Relu: Could not fuse 2nd input (kernel weights) of "
        "CONVOLUTION)",
        (LAST,),
    ),
    (
        "Error Code 2: Internal Error (ONNXTRT_unsqueezeTensor_45: Could not fuse 2nd input (kernel weights) of "
        "CONVOLUTION)",
        (POINTWISE,),
    ),
    (f"Error Code 4: Internal Error ({POINTWISE}: Missing scale)", (POINTWISE,)),
]


@pytest.mark.parametrize(("message", "freed"), FACTS)
def test_every_message_of_the_fact_sheet_frees_its_nodes(message, freed):
    behind = nodes_behind(NETWORK, unsupported([message]))
    error = refusal(Path("model.onnx"), [message], Product("TensorRT", "tensorrt", "install it"), behind)
    assert isinstance(error, NoKernelError)
    assert nodes_to_free((*error.nodes, *error.behind), BLOCK, (POINTWISE, LAST)) == freed


def test_a_depthwise_convolution_takes_all_others_with_it():
    assert with_kin(("/b/dw",), ("/a/dw", "/b/dw", "/c/dw")) == ("/b/dw", "/a/dw", "/c/dw")
    assert with_kin(("/b/pw",), ("/a/dw",)) == ("/b/pw",)
    assert with_kin((), ("/a/dw",)) == ()
