import pytest
import torch
from golden import whisper_configs

from trtasr.errors import CheckpointError
from trtasr.models.load import build_model
from trtasr.models.whisper import Whisper
from trtasr.models.whisper_config import FIXED, INTEGERS, check_config

SIZES = {"tiny": 37.76, "base": 72.59, "small": 241.73, "medium": 763.86, "large-v3": 1543.49, "large-v3-turbo": 808.88}


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes_are_supported(name):
    """Millions of parameters as transformers counts them, on their model cards rounded."""
    config = whisper_configs.PUBLISHED[name]
    check_config(config)
    with torch.device("meta"):
        model = Whisper(config)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(SIZES[name], abs=0.006)


@pytest.mark.parametrize("key", INTEGERS)
@pytest.mark.parametrize("value", [None, 0, -1, 2**40, 1.5, "3", True, [4]])
def test_sizes_are_integers_within_bounds(key, value):
    with pytest.raises(CheckpointError, match=f"config.json: {key}: "):
        check_config(whisper_configs.config(**{key: value}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("activation_function", "relu"),
        ("scale_embedding", True),
        ("tie_word_embeddings", False),
    ],
)
def test_what_is_computed_otherwise(key, value):
    assert key in FIXED
    with pytest.raises(CheckpointError, match=f"{key} is {value!r}"):
        check_config(whisper_configs.config(**{key: value}))


@pytest.mark.parametrize("key", ["encoder_attention_heads", "decoder_attention_heads"])
def test_heads_divide_the_width(key):
    with pytest.raises(CheckpointError, match=f"{key} = 5 does not divide d_model = 32"):
        check_config(whisper_configs.config(**{key: 5}))


def test_a_large_configuration_claims_no_memory_before_the_weights_fit():
    config = whisper_configs.config(d_model=8192, encoder_ffn_dim=2**15, vocab_size=2**20)  # 40 GB
    with pytest.raises(CheckpointError, match=r"do not fit.*missing"):
        build_model("whisper", config, {})
