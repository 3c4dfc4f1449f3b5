"""Graphs of two stretches whose codes are known by hand: first = 2 features, second = 2 first."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper, parser

from trtasr.engine.sessions import open_session
from trtasr.errors import BundleError, UsageError
from trtasr.pipeline.integer_codes import layer_steps, log_softmax, with_given
from trtasr.values import Example

STEP, ZERO = 0.1, 120  # scale of the features, twice that of `first` and `second`; zero point of all codes
HEADER = '<ir_version: 9, opset_import: ["" : 20]> tiny (float[B,3,T] features, int64[B] lengths) =>'
NUMBERS = {
    "two": np.float32(2),
    "features_scale": np.float32(STEP),
    "first_scale": np.float32(2 * STEP),
    "second_scale": np.float32(2 * STEP),
    "zero8": np.int8(0),
    "zero_u8": np.uint8(ZERO),
    "zero": np.int32(ZERO),
    "ten": np.int32(10),
    "low": np.int32(-ZERO),
    "high": np.int32(255 - ZERO),
    "two_steps": np.int32(2),
    "planted": np.int32(1),
}

FP32 = """
    first = Mul(features, two)
    log_probs = Mul(first, two)
    second = Identity(log_probs)
    output_lengths = Identity(lengths)"""
TWIN = """
    first = Mul(features, two)
    first_quantized = QuantizeLinear(first, first_scale, zero_u8)
    first_dequantized = DequantizeLinear(first_quantized, first_scale, zero_u8)
    log_probs = Mul(first_dequantized, two)
    second_quantized = QuantizeLinear(log_probs, second_scale, zero_u8)
    output_lengths = Identity(lengths)"""
# A code of `first` above ten is one too large; `second` doubles the codes it reads.
INTEGER = """
    features_quantized = QuantizeLinear(features, features_scale, zero_u8)
    wide = Cast<to=6>(features_quantized)
    codes = Sub(wide, zero)
    above = Greater(codes, ten)
    many = Cast<to=6>(above)
    extra = Mul(many, planted)
    sums = Add(codes, extra)
    clipped = Clip(sums, low, high)
    moved = Add(clipped, zero)
    first_quantized = Cast<to=2>(moved)
    read = Cast<to=6>(first_quantized)
    centered = Sub(read, zero)
    logits = Mul(centered, two_steps)
    limited = Clip(logits, low, high)
    raised = Add(limited, zero)
    second_quantized = Cast<to=2>(raised)
    output_lengths = Identity(lengths)"""
INPUT_CODES = """
    features_quantized = QuantizeLinear(features, features_scale, zero_u8)
    log_probs = DequantizeLinear(features_quantized, features_scale, zero_u8)
    output_lengths = Identity(lengths)"""


def write(path, body, output="float[B,3,T] log_probs", **changes):
    model = parser.parse_model(f"{HEADER} ({output}, int64[B] output_lengths) {{ {body} }}")
    used = {name for node in model.graph.node for name in node.input}
    numbers = {name: value for name, value in (NUMBERS | changes).items() if name in used and value is not None}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items())
    onnx.save(model, path)
    return path


def integer(path, **changes):
    return write(path, INTEGER, "int32[B,3,T] logits", **changes)


@pytest.fixture
def graphs(tmp_path):
    return write(tmp_path / "fp32.onnx", FP32), write(tmp_path / "twin.onnx", TWIN), integer(tmp_path / "integer.onnx")


def utterances(*lengths):
    generator = np.random.default_rng(5)
    return [
        Example(generator.uniform(-4, 4, (1, 3, frames)).astype(np.float32), np.array([frames], np.int64))
        for frames in lengths
    ]


SPEECH = utterances(40, 25)
CODES = np.concatenate([np.rint(item.features / np.float32(STEP)).ravel() for item in SPEECH])
PLANTED = CODES > 10  # codes of `first` that are one too large


def sqnr(real, codes, scale):
    return 10 * np.log10(np.sum(real**2) / np.sum((real - scale * codes) ** 2))


def test_differences_of_a_stretch_and_those_that_add_up(graphs):
    first, second = layer_steps(*graphs, SPEECH)
    assert (first.tensor, second.tensor) == ("first", "second")
    assert first.codes == second.codes == 3 * 65
    assert (first.differing, first.largest) == (PLANTED.sum(), 1)
    assert (first.own_differing, first.own_largest) == (PLANTED.sum(), 1)
    assert (second.differing, second.largest) == (PLANTED.sum(), 2)
    assert (second.own_differing, second.own_largest) == (0, 0)


def test_what_a_later_stretch_adds_by_itself(graphs, tmp_path):
    off = integer(tmp_path / "off.onnx", planted=np.int32(0), two_steps=np.int32(3))
    first, second = layer_steps(*graphs[:2], off, SPEECH)
    assert (first.differing, first.own_differing) == (0, 0)
    assert second.differing == second.own_differing == (CODES != 0).sum()
    assert second.largest == second.own_largest == np.abs(CODES).max()  # 3 c for 2 c


def test_both_are_judged_against_fp32(graphs):
    first, second = layer_steps(*graphs, SPEECH)
    real = np.concatenate([item.features.ravel() for item in SPEECH]).astype(np.float64)
    assert first.qdq_sqnr_db == pytest.approx(sqnr(2 * real, CODES, 2 * STEP), abs=1e-3)
    assert first.integer_sqnr_db == pytest.approx(sqnr(2 * real, CODES + PLANTED, 2 * STEP), abs=1e-3)
    assert second.qdq_sqnr_db == pytest.approx(sqnr(4 * real, 2 * CODES, 2 * STEP), abs=1e-3)
    assert second.integer_sqnr_db < second.qdq_sqnr_db


def test_codes_of_an_input_are_compared_with_what_was_fed(graphs, tmp_path):
    twin = write(tmp_path / "input.onnx", INPUT_CODES)
    (found,) = layer_steps(graphs[0], twin, graphs[2], SPEECH)
    assert (found.tensor, found.differing, found.own_differing) == ("features", 0, 0)
    assert 30 < found.integer_sqnr_db == found.qdq_sqnr_db < 50


def test_the_given_codes_replace_those_that_are_read_and_not_those_that_are_made(graphs):
    session = open_session(with_given(graphs[2], ["first"]))
    features, lengths = SPEECH[1].features, SPEECH[1].lengths
    codes = np.full(features.shape, ZERO + 20, np.uint8)
    feed = {"features": features, "lengths": lengths, "first_quantized_given": codes}
    made, logits = session.run(["first_quantized", "logits"], feed)
    rounded = np.rint(features / np.float32(STEP))
    assert np.array_equal(made, (rounded + (rounded > 10) + ZERO).astype(np.uint8))
    assert np.all(logits == 40)


def test_a_bundle_of_graphs_that_do_not_belong_together(graphs, tmp_path):
    signed = write(tmp_path / "signed.onnx", TWIN.replace("first_scale, zero_u8", "first_scale, zero8"))
    with pytest.raises(BundleError, match="first_quantized are no uint8 codes"):
        layer_steps(graphs[0], signed, graphs[2], SPEECH)
    moving = TWIN.replace("first_scale", "made").replace("first_q", "made = Abs(first_scale)\n first_q", 1)
    with pytest.raises(BundleError, match="first_quantized are no uint8 codes of a constant scale"):
        layer_steps(graphs[0], write(tmp_path / "moving.onnx", moving), graphs[2], SPEECH)
    with pytest.raises(BundleError, match="shares no codes"):
        layer_steps(graphs[0], graphs[0], graphs[2], SPEECH)
    lacking = write(tmp_path / "lacking.onnx", FP32.replace("first", "other"))
    with pytest.raises(BundleError, match="has no tensor first"):
        layer_steps(lacking, *graphs[1:], SPEECH)


def test_nothing_to_compare(graphs):
    with pytest.raises(UsageError, match="every utterance is empty"):
        layer_steps(*graphs, [])


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=9), st.floats(1e-9, 10))
def test_log_softmax_is_that_of_the_reals(logits, scale):
    found = log_softmax(np.array([logits], np.int32), scale)
    exact = torch.log_softmax(torch.tensor([logits], dtype=torch.float64) * scale, -1).numpy()
    assert found.dtype == np.float32
    assert np.allclose(found, exact, rtol=1e-6, atol=1e-6)
    assert np.exp(found.astype(np.float64)).sum() == pytest.approx(1, abs=1e-6)
