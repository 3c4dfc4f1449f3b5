"""Sizes that ``config.json`` claims, held against the weights that are there, before anything is built for them."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trtasr.errors import CheckpointError

EMBEDDING = "decoder.embed_tokens.weight"
LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.")
# part of the network -> keys of its number of layers: Whisper's, Moonshine's
LAYERS = {
    "encoder": ("encoder_layers", "encoder_num_hidden_layers"),
    "decoder": ("decoder_layers", "decoder_num_hidden_layers"),
}
REPAIR = "use the configuration that belongs to the weights"


def check_sizes(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Refuse a vocabulary or a number of layers other than that of the weights: both cost time and memory.

    Raises:
        CheckpointError: naming the key; nothing for keys that are missing, which the model's own checks name.
    """
    rows = tuple(weights[EMBEDDING].shape[:1]) if EMBEDDING in weights else ()
    if rows != (config.get("vocab_size"),):
        raise CheckpointError(
            f"config.json: vocab_size = {config.get('vocab_size')!r:.80}, but {EMBEDDING} has {list(rows)} rows", REPAIR
        )
    there = {match.groups() for name in weights if (match := LAYER.match(name))}
    for part, keys in LAYERS.items():
        count = sum(found == part for found, _ in there)
        for key in keys:
            if config.get(key, count) != count:
                raise CheckpointError(
                    f"config.json: {key} = {config[key]!r:.80}, but the weights have {count} layers", REPAIR
                )
