"""State dicts that do not fit."""

import time

import pytest
import torch
from golden import cases, moonshine_configs, whisper_configs

from trtasr.errors import CheckpointError
from trtasr.models.jasper import JasperCtc
from trtasr.models.load import build_model
from trtasr.models.moonshine import Moonshine
from trtasr.models.whisper import Whisper

CONFIG = {"encoder": cases.encoder([cases.block(8, 3), cases.block(8, 3, repeat=3)]), "decoder": {"num_classes": 3}}


@pytest.fixture
def weights():
    return JasperCtc(CONFIG["encoder"], CONFIG["decoder"]).state_dict()


def test_loads_every_weight_in_float32_without_gradients(weights):
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    halves |= {
        "preprocessor.featurizer.window": torch.zeros(3),
        "spec_augmentation.x": torch.zeros(1),
        "loss.weight": torch.zeros(1),
    }
    model = build_model("jasper", CONFIG, halves)
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == weights[name].dtype
        torch.testing.assert_close(tensor, weights[name], atol=1e-2, rtol=1e-3)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_missing_and_extra_names_are_listed(weights):
    weights["encoder.extra.weight"] = weights.pop("decoder.decoder_layers.0.bias")
    with pytest.raises(CheckpointError) as error:
        build_model("jasper", CONFIG, weights)
    assert "missing (1): decoder.decoder_layers.0.bias" in error.value.problem
    assert "extra (1): encoder.extra.weight" in error.value.problem


def test_long_lists_are_cut_with_a_count(weights):
    counted = sum(not name.endswith("num_batches_tracked") for name in weights)
    with pytest.raises(CheckpointError, match=rf"\({counted}\): .* {counted - 8} more") as error:
        build_model("jasper", CONFIG, {})
    assert len(error.value.problem) < 600


def test_a_large_configuration_claims_no_memory_before_the_weights_fit(weights):
    encoder = cases.encoder([cases.block(8192, 4095, repeat=64, separable=False)] * 4)  # 280 TB in float32
    with pytest.raises(CheckpointError, match="do not fit"):
        build_model("jasper", {**CONFIG, "encoder": encoder}, weights)


def test_weights_without_the_counters_of_batch_norms(weights):
    """As converters leave them; torch and NeMo load them too."""
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    assert len(kept) < len(weights)
    one = next(name for name in weights if name.endswith("num_batches_tracked"))
    for given in (kept, {**kept, one: weights[one]}):
        model = build_model("jasper", CONFIG, given)
        features, lengths = torch.ones(1, 64, 20), torch.tensor([20])
        expected = build_model("jasper", CONFIG, weights)(features, lengths)[0]
        assert torch.equal(model(features, lengths)[0], expected)
        assert not any(tensor.is_meta for tensor in model.state_dict().values())


@pytest.mark.parametrize(
    "change",
    [
        {"residual": True, "stride": [2]},
        {"residual": True, "stride": [2], "residual_mode": "stride_add", "repeat": 2},
        {"residual": True, "dilation": [2], "future_context": 2},
    ],
)
def test_residual_branches_of_other_lengths(change):
    """Each would stop torch in the middle of a compile."""
    encoder = cases.encoder([cases.block(8, 3), cases.block(8, 3, **change)])
    weights = JasperCtc(encoder, CONFIG["decoder"]).state_dict()
    with pytest.raises(CheckpointError, match="do not fit") as error:
        build_model("jasper", {**CONFIG, "encoder": encoder}, weights)
    assert "strides" in error.value.repair


def test_a_residual_branch_with_the_stride_of_its_block():
    strided = cases.block(8, 3, residual=True, stride=[2], residual_mode="stride_add")
    encoder = cases.encoder([cases.block(8, 3), strided])
    weights = JasperCtc(encoder, CONFIG["decoder"]).state_dict()
    assert build_model("jasper", {**CONFIG, "encoder": encoder}, weights)


def test_more_convolutions_than_any_model_has():
    dense = cases.block(8, 3, residual=True, residual_dense=True)
    for blocks in ([cases.block(8, 3, repeat=64)] * 20, [dense] * 60):
        start = time.process_time()
        with pytest.raises(CheckpointError, match=r"encoder\.jasper: \d+ convolutions"):
            build_model("jasper", {**CONFIG, "encoder": cases.encoder(blocks)}, {})
        assert time.process_time() - start < 5


def test_other_shapes_are_listed(weights):
    weights["decoder.decoder_layers.0.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError, match=r"\(1\): decoder\.\S+\.bias \[7\] .*\[4\]"):
        build_model("jasper", CONFIG, weights)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(weights, value):
    weights["decoder.decoder_layers.0.bias"][1] = value
    with pytest.raises(CheckpointError, match=r"not finite \(1\): decoder\.decoder_layers\.0\.bias"):
        build_model("jasper", CONFIG, weights)


def test_unknown_family(weights):
    with pytest.raises(CheckpointError, match=r"'wav2vec2'.*\n.*conformer.*whisper"):
        build_model("wav2vec2", CONFIG, weights)


@pytest.mark.parametrize(
    ("family", "network", "config"),
    [
        ("whisper", Whisper, whisper_configs.config()),
        ("moonshine", Moonshine, moonshine_configs.config()),
    ],
)
def test_encoder_decoders_take_their_whole_configuration(family, network, config):
    state = {name: tensor.half() for name, tensor in network(config).state_dict().items()}
    extra = {"encoder.rotary_emb.inv_freq": torch.zeros(4)}
    model = build_model(family, config, state | extra)
    assert type(model) is network
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name].float())
    assert not [name for name, tensor in model.named_buffers() if tensor.is_meta]
    with pytest.raises(CheckpointError, match=r"missing \(1\): decoder.embed_tokens.weight"):
        build_model(family, config, {name: state[name] for name in state if "embed_tokens" not in name})
    with pytest.raises(CheckpointError, match=r"not of real numbers.*decoder.embed_tokens.weight"):
        build_model(family, config, state | {"decoder.embed_tokens.weight": state["decoder.embed_tokens.weight"].int()})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensor: tensor.to(torch.float8_e4m3fn), "not of real numbers"),
        (lambda tensor: tensor.to(torch.complex64), "not of real numbers"),
        (lambda tensor: tensor.to(torch.int32), "not of real numbers"),
        (lambda tensor: -tensor.abs() - 1, "negative"),
    ],
)
def test_numbers_that_a_cast_would_change_and_negative_variances_are_refused(weights, change, words):
    name = next(key for key in weights if key.endswith("running_var"))
    weights[name] = change(weights[name])
    with pytest.raises(CheckpointError, match=rf"{words}.*{name}"):
        build_model("jasper", CONFIG, weights)
