"""The Conformer against NeMo's own output, its state-dict names, and the promise that batching changes nothing.

Configurations that would be computed otherwise are refused, with the key and what to do.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import cases

from trtasr.errors import CheckpointError
from trtasr.models.conformer import ConformerCtc, check_encoder
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


def refused(options):
    with pytest.raises(CheckpointError) as error:
        ConformerCtc(cases.conformer(**options), DECODER)
    assert len(str(error.value)) < 500
    return error.value


@pytest.mark.parametrize(
    "config",
    [
        *cases.SMALL_CONFORMERS.values(),
        *cases.PUBLISHED_CONFORMERS.values(),
        cases.conformer(conv_context_size=[4, 4]),
        cases.conformer(att_context_size=None),
        cases.conformer(att_context_size=[-1, -1], att_context_style="regular", reduction=None, reduction_factor=1),
        {"feat_in": 80, "n_layers": 1, "d_model": 176},
    ],
)
def test_full_context_models_are_accepted(config):
    check_encoder(config)


@pytest.mark.parametrize(
    ("key", "value", "meaning", "repair"),
    [
        ("causal_downsampling", True, "streaming", "causal_downsampling: False"),
        ("reduction", "pooling", "reduction between layers", "reduction: None"),
        ("self_attention_model", "abs_pos", "relative positions", "self_attention_model: rel_pos"),
        ("self_attention_model", "rel_pos_local_attn", "relative positions", "self_attention_model: rel_pos"),
        ("conv_norm_type", "layer_norm", "statistics", "conv_norm_type: batch_norm"),
        ("conv_norm_type", "group_norm8", "statistics", "conv_norm_type: batch_norm"),
        ("conv_context_style", "dcc", "streaming", "conv_context_style: regular"),
        ("att_context_size", [70, 13], "streaming", "[-1, -1]"),
        ("att_context_size", [-1, 0], "limits the context", "[-1, -1]"),
        ("att_context_size", [[70, 13], [70, 0]], "streaming", "[-1, -1]"),
        ("att_context_size", [[-1, -1], [70, 0]], "streaming", "[-1, -1]"),
        ("conv_context_size", "causal", "two halves", "conv_context_size: null"),
        ("conv_context_size", [8, 0], "two halves", "conv_context_size: null"),
        ("conv_context_size", [15, 15], "two halves", "conv_context_size: null"),  # of another kernel
        ("subsampling", "stacking", "'stacking'", "striding, vggnet, dw_striding"),
        ("subsampling", "striding_conv1d", "'striding_conv1d'", "striding, vggnet, dw_striding"),
        ("subsampling", None, "None", "striding, vggnet, dw_striding"),
        ("subsampling_factor", 1, "1", "2, 4, 8, 16"),
        ("subsampling_factor", 6, "6", "2, 4, 8, 16"),
        ("subsampling_factor", "4", "'4'", "2, 4, 8, 16"),
        ("conv_kernel_size", 30, "even", "odd"),
        ("n_heads", 5, "multiple of n_heads", "trained with"),
        ("d_model", 33, "even", "trained with"),
    ],
)
def test_unsupported_option_names_key_and_repair(key, value, meaning, repair):
    error = refused({key: value})
    assert ("encoder.d_model" if key == "n_heads" else f"encoder.{key}") in error.problem
    assert meaning in error.problem
    assert repair in error.repair


@pytest.mark.parametrize("value", [None, "32", 0, -4, 10**9, 2.0, float("nan"), True, [32], {"size": 32}, "x" * 10_000])
@pytest.mark.parametrize(
    "key",
    [
        "feat_in",
        "n_layers",
        "d_model",
        "n_heads",
        "ff_expansion_factor",
        "conv_kernel_size",
        "subsampling_factor",
        "subsampling_conv_channels",
    ],
)
def test_absurd_sizes_name_the_key(key, value):
    error = refused({key: value})
    assert f"encoder.{key}" in error.problem
    assert error.repair.startswith("use ")


@pytest.mark.parametrize("value", [None, "20", -2, 10**9, 1.5, True, [20]])
def test_absurd_output_width_names_the_key(value):
    assert "encoder.feat_out" in refused({"feat_out": value}).problem


@pytest.mark.parametrize("value", [None, "yes", 1, 0, [True]])
@pytest.mark.parametrize("key", ["xscaling", "use_bias", "untie_biases", "causal_downsampling"])
def test_switches_are_true_or_false(key, value):
    error = refused({key: value})
    assert f"encoder.{key}" in error.problem
    assert error.repair == "use true or false"


@pytest.mark.parametrize("key", ["feat_in", "n_layers", "d_model"])
def test_sizes_without_a_default_must_be_there(key):
    config = cases.conformer()
    del config[key]
    with pytest.raises(CheckpointError, match=rf"encoder\.{key}: None"):
        check_encoder(config)


@pytest.mark.parametrize(
    "key",
    [
        "reduction",
        "self_attention_model",
        "conv_norm_type",
        "conv_context_style",
        "att_context_size",
        "conv_context_size",
        "subsampling",
    ],
)
@pytest.mark.parametrize("value", [5, {}, [[]], "x" * 10_000])
def test_values_of_any_type_are_refused_not_run_into(key, value):
    assert f"encoder.{key}" in refused({key: value}).problem


def test_a_large_configuration_claims_no_memory_before_the_weights_fit():
    encoder = cases.conformer(d_model=8192, n_layers=24, ff_expansion_factor=64)  # 1.7 TB in float32
    with pytest.raises(CheckpointError, match="do not fit"):
        build_model("conformer", {"encoder": encoder, "decoder": DECODER}, {})
