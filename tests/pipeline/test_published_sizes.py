"""Published sizes of encoder-decoders with random weights become plans with every linear layer in INT8."""

import json

import pytest
from golden.write_published import SIZES, write

from trtasr.cli import main
from trtasr.pipeline.use import engine_layers

CONVOLUTIONS = {"whisper-tiny": 2, "moonshine-tiny": 3}
PER_ENCODER_LAYER, PER_DECODER_LAYER, LOGITS = 6, 10, 1  # q, k, v, out, feed-forward twice; cross-attention besides


def expected(config):
    """Weighted nodes that run in INT8: linear layers."""
    if config["model_type"] == "whisper":
        layers = config["encoder_layers"], config["decoder_layers"]
    else:
        layers = config["encoder_num_hidden_layers"], config["decoder_num_hidden_layers"]
    return PER_ENCODER_LAYER * layers[0] + PER_DECODER_LAYER * layers[1] + LOGITS


@pytest.mark.slow
@pytest.mark.parametrize("size", ["whisper-tiny", "moonshine-tiny"])
def test_every_linear_layer_of_the_plan_is_int8(size, tmp_path, capsys):
    write(tmp_path / size, size)
    out = tmp_path / "out"
    few = ["calibration.batches=1", "calibration.batch_size=2", "evaluation.bench_seconds=[1.0]"]
    few.append('quantization.fidelity="fast"')  # random weights decide between tokens by a hair: no layer goes back
    settings = [word for setting in few for word in ("--set", setting)]
    code = main(["compile", str(tmp_path / size), "-o", str(out), "--target", "t4-rtx", *settings])
    assert code in (0, 3), capsys.readouterr().err
    layers = engine_layers(out)["t4-rtx"]
    weighted = [layer for layer in layers if layer.macs]
    assert sum(not layer.int8 for layer in weighted) == CONVOLUTIONS[size]  # in front of the first linear layer
    decisions = json.loads((out / "scales.json").read_text())["decisions"]["t4-rtx"]
    assert sum(item["quantized"] for item in decisions) == expected(SIZES[size])
    assert json.loads((out / "bundle.json").read_text())["parity"] < 1e-3
