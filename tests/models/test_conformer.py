"""The Conformer against NeMo's own output, its state-dict names, and the promise that batching changes nothing."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import cases

from trtasr.errors import CheckpointError
from trtasr.models.conformer import ConformerCtc
from trtasr.models.load import build_model

pytestmark = pytest.mark.usefixtures("one_thread")
GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "conformer.npz")
DECODER = {"num_classes": 28, "vocabulary": cases.VOCABULARY}
ENCODERS = {**cases.SMALL_CONFORMERS, "conformer_small": cases.CONFORMER_SMALL}
TOLERANCE = 5e-5  # the largest difference is 8e-6


def shapes(encoder):
    with torch.device("meta"):  # the largest has a billion parameters
        return {key: tuple(value.shape) for key, value in ConformerCtc(encoder, DECODER).state_dict().items()}


@cache
def model(name):
    encoder = ENCODERS[name]
    names = shapes(encoder)
    weights = {key: torch.from_numpy(cases.conformer_weight(key, names[key], encoder)) for key in names}
    return build_model("conformer", {"encoder": encoder, "decoder": DECODER}, weights)


def run(name, frames, fill=None):
    """Valid log-probabilities of each utterance."""
    features, lengths = cases.model_input(frames, rows=ENCODERS[name]["feat_in"])
    if fill is not None:
        features[np.broadcast_to(np.arange(max(frames)) >= lengths[:, None, None], features.shape)] = fill
    probs, out = model(name)(torch.from_numpy(features), torch.from_numpy(lengths))
    return [row[:count].numpy() for row, count in zip(probs, out, strict=True)]


@pytest.mark.parametrize("name", [*cases.SMALL_CONFORMERS, *cases.PUBLISHED_CONFORMERS])
def test_state_dict_has_nemo_names_and_shapes(name):
    encoder = {**ENCODERS, **cases.PUBLISHED_CONFORMERS}[name]
    ours, theirs = (
        lines.decode().splitlines() for lines in (cases.state_lines(shapes(encoder)), GOLDEN[f"{name}/state"].tobytes())
    )
    assert ours == theirs


@pytest.mark.parametrize("name", ENCODERS)
def test_log_probabilities_equal_nemo(name):
    found, expected = run(name, cases.conformer_frames(name)), GOLDEN[f"{name}/log_probs"]
    assert [len(row) for row in found] == GOLDEN[f"{name}/lengths"].tolist()
    first = expected[: len(found[0])]
    assert first.std(axis=0).mean() > 0.1  # the comparison would be empty if all frames were alike
    assert np.abs(np.concatenate(found) - expected).max() <= TOLERANCE


@pytest.mark.parametrize("name", ENCODERS)
def test_batching_never_changes_an_utterance(name):
    frames = cases.MODEL_FRAMES if name == "conformer_small" else cases.CONFORMER_FRAMES
    features, _ = cases.model_input(frames, rows=ENCODERS[name]["feat_in"])
    for row, (count, together) in enumerate(zip(frames, run(name, frames), strict=True)):
        alone, out = model(name)(torch.from_numpy(features[row : row + 1, :, :count]), torch.tensor([count]))
        assert out.tolist() == [len(together)]
        np.testing.assert_allclose(together, alone[0].numpy(), atol=5e-5)


@pytest.mark.parametrize("name", ["striding_4", "dw_striding_8_fast", "vggnet_4"])
def test_what_lies_beyond_an_utterance_is_never_read(name):
    frames = cases.CONFORMER_FRAMES
    for quiet, loud in zip(run(name, frames, fill=0), run(name, frames, fill=1e4), strict=True):
        np.testing.assert_array_equal(quiet, loud)


def test_an_empty_utterance_harms_no_other():
    features, _ = cases.model_input((61, 40))
    probs, out = model("striding_4")(torch.from_numpy(features), torch.tensor([61, 0]))
    alone, _ = model("striding_4")(torch.from_numpy(features[:1]), torch.tensor([61]))
    assert out.tolist() == [16, 0]
    assert probs.isfinite().all()
    torch.testing.assert_close(probs[:1], alone, atol=5e-5, rtol=0)


def test_output_width_equal_to_the_model_width_needs_no_projection():
    assert shapes(cases.conformer(feat_out=32)) == shapes(cases.conformer())
    assert shapes(cases.conformer(feat_out=0)) == shapes(cases.conformer())
    assert shapes(cases.conformer(feat_out=20))["decoder.decoder_layers.0.weight"] == (29, 20, 1)


def test_decoder_without_a_vocabulary_names_the_key():
    with pytest.raises(CheckpointError, match=r"decoder\.num_classes"):
        ConformerCtc(cases.conformer(), {})
