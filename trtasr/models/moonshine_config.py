"""Which ``config.json`` of Moonshine is supported."""

from collections.abc import Mapping
from typing import Any

from trtasr.errors import CheckpointError
from trtasr.models.checks import check_table

# Bounds, both included, above any published model: a folder may come from anywhere and must not claim memory.
INTEGERS = {
    "hidden_size": (8, 2**13),
    "intermediate_size": (1, 2**15),
    "vocab_size": (2, 2**20),
    "encoder_num_hidden_layers": (1, 256),
    "decoder_num_hidden_layers": (1, 256),
    "encoder_num_attention_heads": (1, 256),
    "decoder_num_attention_heads": (1, 256),
}
FIXED: Mapping[str, Any] = {
    "encoder_hidden_act": "gelu",
    "decoder_hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": True,
}
REPAIR = "use the configuration that belongs to the weights"
ROPE_THETA, PARTIAL_ROTARY_FACTOR = 10000.0, 0.9  # transformers' defaults
MAX_THETA = 1e9


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse what `trtasr.models.moonshine` does not compute.

    Raises:
        CheckpointError: naming the key.
    """
    check_table(config, INTEGERS, FIXED)
    check_heads(config)
    rotary(config)


def check_heads(config: Mapping[str, Any]) -> None:
    """Refuse heads that do not fit, or that share keys and values.

    transformers gives the decoder the encoder's heads, whatever the decoder's key says; so both must be alike.

    Raises:
        CheckpointError: naming the key.
    """
    width, heads = config["hidden_size"], config["encoder_num_attention_heads"]
    if width % heads or width // heads % 2:
        raise CheckpointError(
            f"config.json: encoder_num_attention_heads = {heads} does not divide hidden_size = {width} into even parts",
            REPAIR,
        )
    expected = {
        "decoder_num_attention_heads": heads,
        "encoder_num_key_value_heads": heads,
        "decoder_num_key_value_heads": heads,
        "head_dim": width // heads,
    }
    for key, value in expected.items():
        if config.get(key) not in (None, value):
            raise CheckpointError(f"config.json: {key} is {config[key]!r:.80}", f"only {value} is supported here")


def rotary(config: Mapping[str, Any]) -> tuple[float, float]:
    """Rotary embeddings: ``rope_theta``, and the share of each head that turns, ``partial_rotary_factor``.

    They stand in ``rope_parameters`` (older: ``rope_scaling``), or beside it, or have transformers' default.

    Raises:
        CheckpointError: naming the key.
    """
    name = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    section = config.get(name) or {}
    if not isinstance(section, Mapping):
        raise CheckpointError(f"config.json: {name} is {section!r:.80}", "use an object, or null")
    kind = section.get("rope_type", section.get("type", "default"))
    if kind != "default":
        raise CheckpointError(f"config.json: {name}.rope_type is {kind!r:.80}", "only 'default' is supported")
    values = {"rope_theta": ROPE_THETA, "partial_rotary_factor": PARTIAL_ROTARY_FACTOR} | {
        key: source[key]
        for source in (config, section)
        for key in ("rope_theta", "partial_rotary_factor")
        if key in source
    }
    for key, (low, high) in {"rope_theta": (1.0, MAX_THETA), "partial_rotary_factor": (0.0, 1.0)}.items():
        if type(values[key]) not in (int, float) or not low <= values[key] <= high:
            raise CheckpointError(
                f"config.json: {key} is {values[key]!r:.80}", f"use a number from {low:g} to {high:g}"
            )
    return float(values["rope_theta"]), float(values["partial_rotary_factor"])
