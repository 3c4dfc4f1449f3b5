"""What people call a network: a name derived from its configuration, for those who read a report."""

from collections.abc import Mapping
from typing import Any

from trtasr.checkpoint.checkpoint import Checkpoint

FASTCONFORMER = {"subsampling": "dw_striding", "subsampling_factor": 8}  # Rekesh et al. 2023, arXiv 2305.05084


def architecture(checkpoint: Checkpoint) -> str:
    """``QuartzNet15x5``, ``FastConformer-CTC, 17 layers``, ``Whisper, 4 + 4 layers``: by the configuration."""
    if checkpoint.family == "jasper":
        return convolutional(checkpoint.config["encoder"])
    if checkpoint.family == "conformer":
        return conformer(checkpoint.config["encoder"])
    return encoder_decoder(checkpoint.family, checkpoint.config)


def convolutional(encoder: Mapping[str, Any]) -> str:
    """``QuartzNetBxR`` or ``JasperBxR``: B residual blocks of R convolutions each, without BxR where they differ.

    What makes a QuartzNet (Kriman et al. 2020, arXiv 1910.10261) of a Jasper (Li et al. 2019, arXiv 1904.03288) is that
    these convolutions are separable; a network with both kinds is called after its family.
    """
    blocks = encoder["jasper"]
    repeated = [block for block in blocks if block["residual"]] or blocks
    kinds = {bool(block.get("separable", False)) for block in repeated}
    if len(kinds) > 1:
        return "Jasper family, separable and dense convolutions"
    name = "QuartzNet" if kinds == {True} else "Jasper"
    repeats = {int(block["repeat"]) for block in repeated}
    return f"{name}{len(repeated)}x{repeats.pop()}" if len(repeats) == 1 else name


def conformer(encoder: Mapping[str, Any]) -> str:
    """``Conformer-CTC`` or, with its 8-fold depthwise subsampling, ``FastConformer-CTC``, and the number of layers."""
    fast = all(encoder.get(key) == value for key, value in FASTCONFORMER.items())
    return f"{'FastConformer' if fast else 'Conformer'}-CTC, {encoder['n_layers']} layers"


def encoder_decoder(family: str, config: Mapping[str, Any]) -> str:
    """``Whisper`` or ``Moonshine`` and the layers of encoder and decoder, where the configuration has them.

    Of any other family the name alone.
    """
    layers = [config.get(key) for key in LAYERS.get(family, ())]
    return family.capitalize() + (f", {layers[0]} + {layers[1]} layers" if layers and all(layers) else "")


LAYERS = {
    "whisper": ("encoder_layers", "decoder_layers"),
    "moonshine": ("encoder_num_hidden_layers", "decoder_num_hidden_layers"),
}
