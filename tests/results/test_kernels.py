"""Tactics of Turing's kernels, as public logs of TensorRT 8 to 10 have them, and what they are called here."""

import pytest

from trtasr.results import LayerRow
from trtasr.results.kernels import KERNELS, kernel_counts, kernel_kind

INT8, HALF, FLOAT = ("Int8", "Int8"), ("Half", "Half"), ("Float", "Float")


def layer(tactic="", operands=INT8, kind="CaskConvolution", name="/a/Conv"):
    return LayerRow(name, kind, operands, ("Half",), (), int8=operands == INT8, tactic=tactic)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (layer("turing_int8_i8816cudnn_int8_256x64_ldg16_relu_small_t1r1s1"), "tensor-core INT8"),
        (layer("turing_fp16_i8816cudnn_int8_128x128_ldg16_relu_singleBuffer_small_nt_v1"), "tensor-core INT8"),
        (
            layer("sm75_xmma_fprop_implicit_gemm_i8i8_i8i32_f32_nhwckrsc_nhwc_tilesize64x64x64_tensor8x8x16"),
            "tensor-core INT8",
        ),
        (layer("ampere_int8_i16832cudnn_int8_128x64_ldg16_relu"), "tensor-core INT8"),
        (layer("turing_int8x4_icudnn_int8x4_128x32_relu_small_nn_v1"), "dp4a INT8"),
        (layer("sm50_xmma_fprop_i8i8_i8i32_f32_nchw_vect_c_4_simt_small"), "dp4a INT8"),
        (layer("turing_int8x4_icudnn_int8x4_128x32_relu_small_nn_v1", ("Int8",)), "dp4a INT8"),
        (layer("0x00000000000003e8"), "INT8 (kernel unknown)"),
        (layer("turing_h1688cudnn_256x64_ldg8_relu_exp_small_nhwc_tn_v1", HALF), "FP16"),
        (layer("turing_fp16_s1688cudnn_fp16_128x128_ldg8_relu_f2f_exp_medium_nhwc_tn_v1", HALF), "FP16"),
        (layer("sm75_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckcrs_nhwc_tensor16x8x8", HALF), "FP16"),
        (layer("turing_h1688cudnn_256x64_ldg8_relu_exp_small_nhwc_tn_v1", ()), "FP16"),
        (layer("volta_scudnn_128x64_relu_small_nn_v1", FLOAT), "FP32"),
        (layer("", ("Half", "Float"), kind="kgen"), "FP32"),
        (layer("", (), kind="Constant"), "other"),
        (
            layer("0x0000000000000000", ("Half",), "Reformat", "Reformatting CopyNode for Input Tensor 0 to /a/Conv"),
            "reformat",
        ),
        (layer("", INT8, "NoOp", "Reformatting CopyNode for Output Tensor 0 to /a/Conv"), "reformat"),
    ],
)
def test_kernels_are_named_by_their_tactics(row, kind):
    assert kernel_kind(row) == kind


def test_kinds_are_counted_in_their_order():
    rows = [layer("", HALF), layer("turing_int8_i8816cudnn"), layer("", HALF), layer("", HALF, "Reformat")]
    assert kernel_counts(rows) == {"tensor-core INT8": 1, "FP16": 2, "reformat": 1}
    assert list(kernel_counts(rows)) == [kind for kind in KERNELS if kind in kernel_counts(rows)]
    assert kernel_counts([]) == {}
