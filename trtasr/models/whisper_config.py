"""Which ``config.json`` of Whisper is supported."""

from collections.abc import Mapping
from typing import Any

from trtasr.errors import CheckpointError
from trtasr.models.checks import check_table

# Bounds, both included, above any published model: a folder may come from anywhere and must not claim memory.
INTEGERS = {
    "d_model": (8, 2**13),
    "num_mel_bins": (1, 512),
    "vocab_size": (2, 2**20),
    "encoder_layers": (1, 256),
    "decoder_layers": (1, 256),
    "encoder_attention_heads": (1, 256),
    "decoder_attention_heads": (1, 256),
    "encoder_ffn_dim": (1, 2**15),
    "decoder_ffn_dim": (1, 2**15),
    "max_source_positions": (1, 2**16),
    "max_target_positions": (1, 2**16),
}
FIXED: Mapping[str, Any] = {"activation_function": "gelu", "scale_embedding": False, "tie_word_embeddings": True}


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse what `trtasr.models.whisper` does not compute.

    Raises:
        CheckpointError: naming the key.
    """
    check_table(config, INTEGERS, FIXED)
    for key in ("encoder_attention_heads", "decoder_attention_heads"):
        if config["d_model"] % config[key]:
            raise CheckpointError(
                f"config.json: {key} = {config[key]} does not divide d_model = {config['d_model']}",
                "use the configuration that belongs to the weights",
            )
