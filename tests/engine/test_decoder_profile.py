"""Shapes of encoder and decoder plans, and that a real builder takes them."""

import numpy as np
import onnx
import pytest
import tiny_pair

from trtasr.engine.build import build_rtx, rtx_version
from trtasr.engine.profile import DecoderProfile, Profile
from trtasr.engine.sessions import open_session
from trtasr.errors import UsageError

WHISPER = {
    "batches": (1, 2, 8),
    "positions": (10, 250, 1500),
    "layers": 4,
    "heads": 6,
    "head_width": 64,
    "vocabulary": 51865,
    "max_length": 448,
    "prompt": 4,
}
TINY = DecoderProfile(
    batches=(1, 2, 3),
    positions=(1, 8, 16),
    layers=tiny_pair.LAYERS,
    heads=tiny_pair.HEADS,
    head_width=tiny_pair.WIDTH,
    vocabulary=tiny_pair.VOCABULARY,
    max_length=9,
    prompt=3,
)


def test_the_decoder_takes_a_prompt_without_a_past_and_one_token_behind_the_longest():
    shapes = DecoderProfile(**WHISPER).shapes()
    assert shapes["tokens"] == [[1, 1], [2, 1], [8, 4]]
    assert shapes["past_value.3"] == [[1, 6, 0, 64], [2, 6, 32, 64], [8, 6, 448, 64]]
    assert shapes["cross_key.0"] == [[1, 6, 10, 64], [2, 6, 250, 64], [8, 6, 1500, 64]]
    assert shapes["positions"] == [[1], [2], [8]]
    assert shapes["token_bias"] == [[51865]] * 3
    assert len(shapes) == 3 + 4 * 4


def test_the_usual_past_is_never_longer_than_a_transcript():
    assert TINY.shapes()["past_key.0"] == [[1, 2, 0, 2], [2, 2, 9, 2], [3, 2, 9, 2]]


def test_the_names_are_the_inputs_of_a_decoder():
    graph = tiny_pair.decoder().graph
    assert set(TINY.shapes()) == {value.name for value in graph.input}


@pytest.mark.parametrize("corner", [0, 1, 2])
def test_a_decoder_runs_at_every_corner(corner):
    session = open_session(tiny_pair.decoder().SerializeToString(), 1)
    feeds = {
        name: np.ones(shapes[corner], np.int64 if name in ("tokens", "positions") else np.float32)
        for name, shapes in TINY.shapes().items()
    }
    present = session.run(["present_key.0"], feeds)[0]
    assert present.shape[2] == feeds["past_key.0"].shape[2] + feeds["tokens"].shape[1]


@pytest.mark.skipif(rtx_version() is None, reason="TensorRT for RTX is not installed")
def test_a_builder_takes_an_empty_past_and_a_bias_of_fixed_shape(tmp_path):
    onnx.save(tiny_pair.decoder(), tmp_path / "decoder.onnx")
    engine = build_rtx(tmp_path / "decoder.onnx", tmp_path / "decoder.plan", TINY, {}, "sm86")
    assert engine.details["profile"] == TINY.shapes()
    assert engine.size_bytes > 0


def test_the_encoder_is_cut_where_its_positions_end():
    profile = Profile(batches=(1, 1, 8), seconds=(0.2, 5.0, 30.0), frames_per_second=100, mel_bins=80, most_frames=3000)
    assert profile.shapes() == {"features": [[1, 80, 20], [1, 80, 512], [8, 80, 3000]], "lengths": [[1], [1], [8]]}


@pytest.mark.parametrize(
    ("change", "problem", "repair"),
    [
        ({"batches": (2, 1, 8)}, "batches=(2, 1, 8)", "put batches in that order"),
        ({"positions": (0, 10, 20)}, "positions=(0, 10, 20)", "put positions in that order"),
        ({"prompt": 449}, "a prompt of 449 tokens in a transcript of at most 448", "generation_config.json"),
        ({"prompt": 0}, "a prompt of 0 tokens", "generation_config.json"),
    ],
)
def test_shapes_out_of_order_are_refused(change, problem, repair):
    with pytest.raises(UsageError) as caught:
        DecoderProfile(**{**WHISPER, **change})
    assert problem in caught.value.problem
    assert repair in caught.value.repair
