"""Which masks change what anybody reads: graphs without the others compute the same bits in every valid frame."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from quantized import with_qdq
from t4_graphs import first_part
from tiny_network import ops, valid

from trtasr.engine.profile import bucketed
from trtasr.graph.check import check_model, run_graph
from trtasr.graph.conv2d import conv1d_to_conv2d
from trtasr.graph.halve import halve
from trtasr.graph.masks import drop_pointwise_masks, length_masks, mask_tensors, without_masks
from trtasr.targets import T4
from trtasr.zoo.network import bundled

pytestmark = pytest.mark.usefixtures("one_order_of_sums")
MASK = """m1 = Clip(d, zero, one) m2 = Cast<to=1>(m1) m = Unsqueeze(m2, axis)"""


def assert_same_frames(model, changed, feeds):
    """Valid frames of every utterance of a padded batch hold the same bits."""
    check_model(changed)
    first, second = run_graph(model, feeds), run_graph(changed, feeds)
    np.testing.assert_array_equal(first["output_lengths"], second["output_lengths"])
    for item in range(len(first["output_lengths"])):
        np.testing.assert_array_equal(valid(first, item), valid(second, item))


def assert_same_alone(model, changed, feeds):
    """One utterance without padding gives the same bits."""
    check_model(changed)
    frames = feeds["features"].shape[2]
    alone = {"features": feeds["features"][:1], "lengths": np.array([frames])}
    first, second = run_graph(model, alone), run_graph(changed, alone)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])


def assert_padding_is_free(model, changed, feeds):
    """Frames behind the longest utterance, up to a bucket as the runner has it, change no valid frame."""
    frames = feeds["features"].shape[2]
    behind = [(0, 0), (0, 0), (0, bucketed(frames, 10_000) - frames)]
    assert behind[2][1] > 0
    padded = feeds | {"features": np.pad(feeds["features"], behind)}
    first, second = run_graph(model, feeds), run_graph(changed, padded)
    np.testing.assert_array_equal(first["output_lengths"], second["output_lengths"])
    for item in range(len(first["output_lengths"])):
        np.testing.assert_allclose(valid(first, item), valid(second, item), atol=1e-4)


def masked(model):
    """Products with a mask."""
    masks = length_masks(model)
    return sum(node.op_type == "Mul" and any(name in masks for name in node.input) for node in model.graph.node)


@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("form", [lambda model: model, conv1d_to_conv2d], ids=["1d", "4d"])
def test_masks_stay_in_front_of_wide_kernels(fp32, table, feeds, quantize, form):
    model = form(with_qdq(fp32, table, T4.rules) if quantize else fp32)
    before = model.SerializeToString()
    changed = drop_pointwise_masks(model)
    assert model.SerializeToString() == before
    assert masked(model) == 7
    assert masked(changed) == 4  # in front of kernels of 5, 7 and 7, the first shared with a pointwise branch, and 3
    assert_same_frames(model, changed, feeds)
    assert_padding_is_free(model, changed, feeds)


@pytest.mark.parametrize("quantize", [False, True])
def test_a_graph_without_masks_is_for_utterances_that_fill_it(fp32, table, feeds, quantize):
    model = with_qdq(fp32, table, T4.rules) if quantize else fp32
    changed = without_masks(model)
    assert ops(changed, "Mul") == 0
    assert [value.name for value in changed.graph.input] == ["features", "lengths"]
    assert_same_alone(model, changed, feeds)
    with pytest.raises(AssertionError):
        assert_same_frames(model, changed, feeds)


def test_a_conformer_needs_all_its_masks(conformer):
    assert drop_pointwise_masks(conformer.fp32) is conformer.fp32
    changed = without_masks(conformer.fp32)
    assert masked(conformer.fp32) > 0
    assert masked(changed) == 0
    assert_same_alone(conformer.fp32, changed, conformer.feeds)
    assert_padding_is_free(conformer.fp32, conformer.fp32, conformer.feeds)
    with pytest.raises(AssertionError):
        assert_padding_is_free(conformer.fp32, changed, conformer.feeds)


def test_masks_of_fp16_graphs_are_known(fp32):
    assert masked(halve(fp32)) == masked(fp32)


def graph(body, outputs="float[B,4,T] y"):
    """x [B, 4, T] under mask m [B, 1, T] of d [B, T]."""
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[B,4,T] x, int64[B,T] d) => ({outputs}) {{ {MASK} {body} }}""")
    constants = {
        "zero": np.array(0),
        "one": np.array(1),
        "axis": np.array([1]),
        "point": np.ones((4, 4, 1), np.float32),
        "wide": np.ones((4, 4, 3), np.float32),
        "half": np.float32(0.5),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return model


@pytest.mark.parametrize(
    "body",
    [
        "a = Mul(x, m) y = Conv(a, point)",
        "a = Mul(m, x) y = Conv(a, point)",
        "a = Mul(x, m) b = Conv(a, point) c = Relu(b) e = Mul(c, m) y = Conv<pads=[1,1]>(e, wide)",
        "a = Mul(x, m) b = Transpose<perm=[0,2,1]>(a) c = LogSoftmax<axis=-1>(b) y = Transpose<perm=[0,2,1]>(c)",
        "a = Mul(x, m) b = Mul(a, half) y = Add(b, x)",
    ],
)
def test_a_mask_goes_where_every_frame_stays_alone(body):
    model = graph(body)
    assert masked(drop_pointwise_masks(model)) == masked(model) - 1


@pytest.mark.parametrize(
    "body",
    [
        "a = Mul(x, m) y = Conv<pads=[1,1]>(a, wide)",
        "a = Mul(x, m) b = Conv(a, point) c = Conv(b, point) y = Conv<pads=[1,1]>(c, wide)",
        "a = Mul(x, m) b = Conv(a, point) c = Conv<pads=[1,1]>(a, wide) y = Add(b, c)",
        "a = Mul(x, m) y = LogSoftmax<axis=2>(a)",
        "a = Mul(x, m) b = Transpose<perm=[0,2,1]>(a) c = LogSoftmax<axis=1>(b) y = Transpose<perm=[0,2,1]>(c)",
        "a = Mul(x, m) b = ReduceMean<keepdims=1>(a) y = Add(x, b)",
        "a = Mul(x, m) b = Transpose<perm=[0,2,1]>(a) c = MatMul(a, b) y = MatMul(c, x)",
        "a = Mul(x, m) y = Conv<strides=[2]>(a, point)",
        "y = Mul(x, m)",
    ],
)
def test_a_mask_stays_where_frames_meet(body):
    model = graph(body)
    assert drop_pointwise_masks(model) is model


def test_another_factor_is_no_mask():
    body = "a = Cast<to=1>(d) b = Unsqueeze(a, axis) c = Mul(x, b) y = Conv(c, point)"
    model = graph(body)
    assert "b" not in length_masks(model)
    assert without_masks(model) is model


@pytest.mark.parametrize(("name", "before", "after"), [("quartznet", 35, 17), ("jasper", 11, 10)])
def test_bundled_networks_compute_the_same_frames_with_fewer_masks(name, before, after, tmp_path):
    assert_fewer(first_part(bundled(name), tmp_path), before, after)


@pytest.mark.slow
def test_quartznet15x5_has_78_masks_fewer(shared, tmp_path):
    assert_fewer(first_part(shared / "data" / "models" / "quartznet15x5.nemo", tmp_path), 155, 77)


def assert_fewer(part, before, after):
    for model in (part.fp32, part.quantized()):
        changed = drop_pointwise_masks(model)
        assert (masked(model), masked(changed), masked(without_masks(model))) == (before, after, 0)
        assert_same_frames(model, changed, part.feeds)
        assert_same_frames(model, conv1d_to_conv2d(changed), part.feeds)
        assert_same_alone(model, without_masks(model), part.feeds)
        assert_same_alone(model, conv1d_to_conv2d(without_masks(model)), part.feeds)
        assert_padding_is_free(model, changed, part.feeds)


CLIPPED_HEADER = '<ir_version: 9, opset_import: ["" : 20]> agraph (int64[B] lengths, float[B,T] x) => (float[B,T] y)'
CLIPPED = """
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
    model = onnx.parser.parse_model(f"{CLIPPED_HEADER} {{ {CLIPPED} }}")
    assert mask_tensors(model) == ("mask", "half_mask", "from_condition")
    assert mask_tensors(onnx.ModelProto()) == ()
