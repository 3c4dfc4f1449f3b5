"""Which tensors are masks by construction."""

import onnx
from onnx import parser

from trtasr.graph.zero_one import mask_tensors

HEADER = '<ir_version: 9, opset_import: ["" : 20]> agraph (int64[B] lengths, float[B,T] x) => (float[B,T] y)'
BODY = """
    zero = Constant<value = int64 {0}>()
    one = Constant<value = int64 {1}>()
    six = Constant<value = int64 {6}>()
    left = Sub(lengths, one)
    clipped = Clip(left, zero, one)
    mask = Cast<to=1>(clipped)
    half_mask = Cast<to=10>(clipped)
    wide = Clip(left, zero, six)
    frames = Cast<to=1>(wide)
    open_ended = Clip(left, zero)
    count = Cast<to=1>(open_ended)
    valid = Less(left, one)
    inside = Not(valid)
    from_condition = Cast<to=1>(inside)
    number = Cast<to=7>(inside)
    amount = Cast<to=1>(left)
    y = Mul(x, mask)
"""


def test_masks_are_conditions_and_what_is_clipped_to_zero_and_one():
    model = parser.parse_model(f"{HEADER} {{ {BODY} }}")
    assert mask_tensors(model) == ("mask", "half_mask", "from_condition")
    assert mask_tensors(onnx.ModelProto()) == ()
