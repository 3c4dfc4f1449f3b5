"""The Jasper-block encoder against NeMo's own output, and the promise that batching changes nothing."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import cases

from trtasr.errors import CheckpointError
from trtasr.models.jasper import JasperCtc
from trtasr.models.load import build_model

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "models.npz")
DECODER = {"num_classes": 28, "vocabulary": cases.VOCABULARY}
TOLERANCE = 1e-4


@cache
def model(name):
    """Ours, with every state-dict name of NeMo's: an exact load is part of the test."""
    encoder = cases.quartznet15x5() if name == "quartznet15x5" else cases.small_model(name)
    config = {"encoder": encoder, "decoder": DECODER}
    shapes = {key: tuple(value.shape) for key, value in JasperCtc(encoder, DECODER).state_dict().items()}
    ours = {
        key if key in shapes else key.removesuffix("weight") + "conv.weight": key
        for key in map(str, GOLDEN[f"{name}/names"])
    }
    weights = {key: torch.from_numpy(cases.random_weight(key, shapes[own])) for own, key in ours.items()}
    return build_model("jasper", config, weights)


def run(name, frames):
    features, lengths = cases.model_input(frames)
    probs, out = model(name)(torch.from_numpy(features), torch.from_numpy(lengths))
    return probs.numpy(), out.numpy()


@pytest.mark.parametrize(
    ("name", "key", "frames"),
    [
        ("quartznet15x5", "single", (200,)),
        ("quartznet15x5", "mixed", cases.MODEL_FRAMES),
        *(
            (name, "single" if name == "no_conv_mask" else "mixed", (45,) if name == "no_conv_mask" else (45, 30))
            for name in cases.SMALL_MODELS
        ),
    ],
)
def test_log_probabilities_equal_nemo(name, key, frames):
    probs, lengths = run(name, frames)
    np.testing.assert_array_equal(lengths, GOLDEN[f"{name}/{key}_lengths"])
    valid = np.concatenate([row[:count] for row, count in zip(probs, lengths, strict=True)])
    expected = GOLDEN[f"{name}/{key}"]
    assert expected.std() > 0.1  # the comparison would be empty if activations had died out
    assert np.abs(valid - expected).max() <= TOLERANCE


@pytest.mark.parametrize("name", ["quartznet15x5", *(n for n in cases.SMALL_MODELS if n != "no_conv_mask")])
def test_batching_never_changes_an_utterance(name):
    frames = cases.MODEL_FRAMES
    features, _ = cases.model_input(frames)
    probs, lengths = run(name, frames)
    for row, count in enumerate(frames):
        alone, out = model(name)(torch.from_numpy(features[row : row + 1, :, :count]), torch.tensor([count]))
        assert out[0] == lengths[row]
        together = probs[row, : out[0]]
        np.testing.assert_allclose(together, alone[0, : out[0]], atol=2e-5)
        np.testing.assert_array_equal(together.argmax(-1), alone[0, : out[0]].argmax(-1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"se": True}, "squeeze-and-excitation"),
        ({"groups": 2}, "groups"),
        ({"heads": 4}, "heads"),
        ({"stride": [2], "dilation": [2]}, "stride and dilation"),
        ({"residual_mode": "mul"}, "residual_mode"),
        ({"kernels": 3}, "kernels"),
    ],
)
def test_unsupported_block_names_block_and_key(change, words):
    with pytest.raises(CheckpointError, match=rf"(?s)jasper\[1\].*{words}"):
        JasperCtc(cases.encoder([cases.block(8, 3), cases.block(8, 3, **change)]), DECODER)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("filters", "256"),
        ("filters", 0),
        ("filters", -8),
        ("filters", 10**6),
        ("filters", True),
        ("filters", [8]),
        ("repeat", "x"),
        ("repeat", 0),
        ("repeat", 65),
        ("repeat", 1.0),
        ("kernel", None),
        ("kernel", 4097),
        ("kernel", []),
        ("kernel", ["3"]),
        ("kernel", [3, 3]),
        ("stride", 0),
        ("stride", [None]),
        ("dilation", "1"),
        ("dilation", -1),
        ("dropout", 2.0),
        ("dropout", None),
        ("dropout", float("nan")),
        ("residual", "yes"),
        ("separable", 1),
        ("residual_dense", None),
        ("stride_last", 0),
        ("se", "no"),
        ("groups", "1"),
        ("heads", None),
        ("future_context", 0.5),
        ("kernel_size_factor", float("inf")),
        ("residual_mode", ["add"]),
        (5, 1),
    ],
)
def test_wrong_block_values_name_block_and_key(key, value):
    with pytest.raises(CheckpointError, match=rf"jasper\[1\].*{key}"):
        JasperCtc(cases.encoder([cases.block(8, 3), {**cases.block(8, 3), key: value}]), DECODER)


@pytest.mark.parametrize(
    ("decoder", "key"),
    [
        ({}, "num_classes"),
        ({"num_classes": "28"}, "num_classes"),
        ({"num_classes": -1}, "num_classes"),
        ({"vocabulary": 5}, "vocabulary"),
        ({"vocabulary": "abc"}, "vocabulary"),
    ],
)
def test_unusable_decoder_names_the_key(decoder, key):
    with pytest.raises(CheckpointError, match=f"decoder.{key}"):
        JasperCtc(cases.encoder([cases.block(8, 3)]), decoder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"jasper": [5]}, r"jasper\[0\]: 5"),
        ({"jasper": {"filters": 8}}, "jasper"),
        ({"jasper": [cases.block(8, 3)] * 300}, "1 to 256 blocks"),
        ({"activation": ["relu"]}, "activation"),
        ({"normalization_mode": None}, "normalization_mode"),
        ({"residual_mode": "mul"}, "residual_mode"),
        ({"conv_mask": "true"}, "conv_mask"),
        ({"feat_in": "64"}, "feat_in"),
        ({"frame_splicing": 0}, "frame_splicing"),
        ({"activation": "prelu"}, "activation"),
        ({"normalization_mode": "group"}, "normalization_mode"),
        ({"jasper": []}, "jasper"),
    ],
)
def test_unsupported_encoder_names_the_key(change, words):
    with pytest.raises(CheckpointError, match=words):
        JasperCtc({**cases.encoder([cases.block(8, 3)]), **change}, DECODER)
