"""The name that people know a network by, from its configuration alone."""

from pathlib import Path

import pytest

from trtasr.checkpoint.architecture import architecture, conformer, convolutional, encoder_decoder
from trtasr.checkpoint.read import read_checkpoint

ZOO = Path(__file__).resolve().parents[2] / "trtasr" / "zoo"


def block(repeat: int, residual: bool = True, separable: bool = True) -> dict:
    return {"repeat": repeat, "residual": residual, "separable": separable}


@pytest.mark.parametrize(
    ("blocks", "name"),
    [
        ([block(1, False), *[block(5)] * 15, block(1, False), block(1, False, False)], "QuartzNet15x5"),
        ([block(1, False, False), *[block(5, separable=False)] * 10, block(1, False, False)], "Jasper10x5"),
        ([block(1), block(2)], "QuartzNet"),
        ([block(1, False), block(1, False)], "QuartzNet2x1"),
        ([{"repeat": 3, "residual": True}], "Jasper1x3"),  # NeMo's default: not separable
        ([block(1), block(1, separable=False)], "Jasper family, separable and dense convolutions"),
    ],
)
def test_separable_convolutions_make_a_quartznet(blocks, name):
    assert convolutional({"jasper": blocks}) == name


@pytest.mark.parametrize(
    ("encoder", "name"),
    [
        ({"n_layers": 16, "subsampling": "striding", "subsampling_factor": 4}, "Conformer-CTC, 16 layers"),
        ({"n_layers": 17, "subsampling": "dw_striding", "subsampling_factor": 8}, "FastConformer-CTC, 17 layers"),
        ({"n_layers": 4, "subsampling": "dw_striding", "subsampling_factor": 4}, "Conformer-CTC, 4 layers"),
        ({"n_layers": 2}, "Conformer-CTC, 2 layers"),
    ],
)
def test_eightfold_depthwise_subsampling_makes_a_fastconformer(encoder, name):
    assert conformer(encoder) == name


def test_encoder_decoders_have_two_numbers_of_layers():
    layers = {"encoder_num_hidden_layers": 6, "decoder_num_hidden_layers": 8}
    assert encoder_decoder("moonshine", layers) == "Moonshine, 6 + 8 layers"
    assert encoder_decoder("moonshine", {}) == "Moonshine"


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("quartznet.nemo", "QuartzNet5x3"),
        ("jasper.nemo", "Jasper"),
        ("conformer.nemo", "Conformer-CTC"),
        ("whisper", "Whisper, 4 + 2 layers"),
    ],
)
def test_bundled_checkpoints(name, called):
    assert architecture(read_checkpoint(ZOO / name)).startswith(called)
