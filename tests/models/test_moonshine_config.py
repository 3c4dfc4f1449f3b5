"""Configurations that would be computed otherwise than transformers does are refused, with the key and what to do."""

import pytest
import torch
from golden import moonshine_configs
from golden.moonshine_configs import PUBLISHED, SMALL, config

from trtasr.errors import CheckpointError
from trtasr.models.load import build_model
from trtasr.models.moonshine import Moonshine, Rotary
from trtasr.models.moonshine_config import INTEGERS, check_config, rotary


def refused(**options):
    with pytest.raises(CheckpointError) as error:
        Moonshine(config(**options))
    assert len(str(error.value)) < 500
    return error.value


@pytest.mark.parametrize(
    "accepted",
    [
        *SMALL.values(),
        *PUBLISHED.values(),
        config(head_dim=16),
        config(rope_theta=10000, partial_rotary_factor=1),
        config(rope_parameters=None, rope_scaling={}),
        config(partial_rotary_factor=0.0),
    ],
)
def test_what_is_computed_alike_is_accepted(accepted):
    check_config(accepted)


@pytest.mark.parametrize("value", [None, "32", 0, -4, 10**9, 2.0, float("nan"), True, [32], {"size": 32}, "x" * 10_000])
@pytest.mark.parametrize("key", INTEGERS)
def test_absurd_sizes_name_the_key(key, value):
    error = refused(**{key: value})
    assert f"config.json: {key}:" in error.problem
    assert error.repair.startswith("use an integer")


@pytest.mark.parametrize("key", INTEGERS)
def test_sizes_must_be_there(key):
    values = config()
    del values[key]
    with pytest.raises(CheckpointError, match=f"{key}: None"):
        check_config(values)


@pytest.mark.parametrize(
    ("key", "value", "repair"),
    [
        ("encoder_hidden_act", "relu", "'gelu'"),
        ("encoder_hidden_act", None, "'gelu'"),
        ("decoder_hidden_act", "gelu", "'silu'"),
        ("decoder_hidden_act", ["silu"], "'silu'"),
        ("attention_bias", True, "False"),
        ("attention_bias", "no", "False"),
        ("tie_word_embeddings", False, "True"),
        ("decoder_num_attention_heads", 4, "only 2"),
        ("encoder_num_key_value_heads", 1, "only 2"),
        ("decoder_num_key_value_heads", 1, "only 2"),
        ("decoder_num_key_value_heads", "x" * 10_000, "only 2"),
        ("head_dim", 32, "only 16"),
        ("encoder_num_attention_heads", 3, "belongs to the weights"),
        ("encoder_num_attention_heads", 32, "belongs to the weights"),  # heads of one number: no pair to turn
        ("rope_theta", 0, "from 1 to 1e+09"),
        ("rope_theta", None, "number"),
        ("rope_theta", float("nan"), "number"),
        ("rope_theta", True, "number"),
        ("rope_theta", "x" * 10_000, "number"),
        ("partial_rotary_factor", 1.5, "from 0 to 1"),
        ("partial_rotary_factor", -0.1, "from 0 to 1"),
        ("partial_rotary_factor", float("inf"), "from 0 to 1"),
        ("partial_rotary_factor", [0.9], "from 0 to 1"),
        ("rope_parameters", "default", "object"),
        ("rope_parameters", [1], "object"),
        ("rope_scaling", 4.0, "object"),
        ("rope_scaling", {"rope_type": "dynamic", "factor": 2.0}, "'default'"),
        ("rope_scaling", {"type": "linear", "factor": 2.0}, "'default'"),
        ("rope_parameters", {"rope_type": "yarn"}, "'default'"),
        ("rope_parameters", {"rope_type": {}}, "'default'"),
    ],
)
def test_unsupported_values_name_key_and_repair(key, value, repair):
    error = refused(**{key: value})
    assert key in error.problem
    assert repair in error.repair


@pytest.mark.parametrize("key", ["rope_theta", "partial_rotary_factor"])
def test_numbers_inside_the_rotary_section_are_checked_too(key):
    assert key in refused(rope_parameters={key: -1.0}).problem


def test_the_rotary_section_wins_over_the_file_and_the_older_name_over_the_newer():
    assert rotary({}) == (10000.0, 0.9)
    assert rotary({"rope_theta": 5, "partial_rotary_factor": 0.5}) == (5.0, 0.5)
    assert rotary({"rope_theta": 5, "rope_parameters": {"rope_theta": 7.0}}) == (7.0, 0.9)
    assert rotary({"rope_scaling": {"rope_theta": 8.0}, "rope_parameters": {"rope_theta": 7.0}}) == (8.0, 0.9)


@pytest.mark.parametrize(("name", "turning"), [("tiny", 16), ("base", 16)])
def test_published_sizes_turn_thirty_two_numbers_of_each_head(name, turning):
    rates = Rotary(PUBLISHED[name]).rates
    assert len(rates) == (PUBLISHED[name]["hidden_size"] // 8 + 4) // 2  # four numbers are repeated
    assert rates[0] == 1.0
    assert int((rates > 0).sum()) == turning


def test_a_large_configuration_claims_no_memory_before_the_weights_fit():
    large = config(hidden_size=8192, intermediate_size=32768, vocab_size=2**20, encoder_num_hidden_layers=256)
    with pytest.raises(CheckpointError, match="do not fit"):
        build_model("moonshine", large, {})


def test_a_model_built_without_memory_still_has_its_angles():
    values = SMALL["defaults"]
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Moonshine(values).state_dict().items()}
    weights = {name: torch.from_numpy(moonshine_configs.weight(name, shape)) for name, shape in shapes.items()}
    network = build_model("moonshine", values, weights)
    assert not any("rotary" in name for name in shapes)
    torch.testing.assert_close(network.encoder.rotary_emb.rates, Rotary(values).rates, atol=0, rtol=0)
