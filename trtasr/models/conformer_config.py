"""What of NeMo's ``ConformerEncoder`` configuration is supported."""

import logging
from collections.abc import Mapping
from typing import Any

from trtasr.errors import CheckpointError
from trtasr.models.checks import check_integer, check_switches
from trtasr.models.subsampling import KINDS

logger = logging.getLogger(__name__)

# Bounds far above any published model: a configuration may come from anywhere and must not claim memory.
INTEGERS = {
    "feat_in": (1, 1024),
    "n_layers": (1, 256),
    "d_model": (2, 8192),
    "n_heads": (1, 256),
    "ff_expansion_factor": (1, 64),
    "conv_kernel_size": (1, 1023),
}
DEFAULTS = {"n_heads": 4, "ff_expansion_factor": 4, "conv_kernel_size": 31}
SWITCHES = ("xscaling", "use_bias", "untie_biases", "causal_downsampling")
FACTORS = (2, 4, 8, 16)
UNLIMITED = (None, [-1, -1], [[-1, -1]])
TRAINING = {
    "dropout",
    "dropout_pre_encoder",
    "dropout_emb",
    "dropout_att",
    "stochastic_depth_drop_prob",
    "stochastic_depth_mode",
    "stochastic_depth_start_layer",
    "att_context_probs",
    "sync_max_audio_length",
}
# What changes no result with full context: how attention is computed, how long the position table is, how to chunk.
WITHOUT_EFFECT = {
    "_target_",
    "pos_emb_max_len",
    "att_context_style",
    "att_chunk_context_size",
    "global_tokens",
    "global_tokens_spacing",
    "global_attn_separate",
    "use_pytorch_sdpa",
    "use_pytorch_sdpa_backends",
    "subsampling_conv_chunking_factor",
    "reduction_position",
    "reduction_factor",
    "conv_dual_mode",
}
# key -> (supported value, which is the default, and what the key stands for)
FIXED = {
    "causal_downsampling": (False, "causal subsampling (streaming)"),
    "reduction": (None, "further reduction between layers"),
    "self_attention_model": ("rel_pos", "attention without full relative positions"),
    "conv_norm_type": ("batch_norm", "a norm that stores no statistics, which data-free calibration needs"),
    "conv_context_style": ("regular", "chunked convolutions (streaming)"),
}

KNOWN = {
    *INTEGERS,
    *SWITCHES,
    *FIXED,
    *TRAINING,
    *WITHOUT_EFFECT,
    "feat_out",
    "frame_splicing",
    "att_context_size",
    "conv_context_size",
    "subsampling",
    "subsampling_factor",
    "subsampling_conv_channels",
}


def check_encoder(config: Mapping[str, Any]) -> None:
    """Refuse what would be computed otherwise than NeMo does.

    Raises:
        CheckpointError: naming the key and what is supported.
    """
    for key, bounds in INTEGERS.items():
        check_integer(f"encoder.{key}", config.get(key, DEFAULTS.get(key)), bounds)
    check_integer("encoder.frame_splicing", config.get("frame_splicing", 1), (1, 1))
    check_switches("encoder", config, SWITCHES)
    if unknown := sorted(map(str, set(config) - KNOWN)):
        logger.warning("encoder: %s: unknown here, and ignored", ", ".join(unknown))
    for key, (value, meaning) in FIXED.items():
        if config.get(key, value) != value:
            raise CheckpointError(
                f"encoder.{key}: {config[key]!r:.80} is {meaning}, which is not supported",
                f"use a model with {key}: {value}",
            )
    check_shapes(config)
    check_context(config)
    check_subsampling(config)


def check_shapes(config: Mapping[str, Any]) -> None:
    """Widths that fit each other.

    Raises:
        CheckpointError: naming the key.
    """
    width, heads = config["d_model"], config.get("n_heads", 4)
    if width % 2 or width % heads:
        raise CheckpointError(
            f"encoder.d_model: {width} is not even, or no multiple of n_heads ({heads})",
            "use the configuration the model was trained with",
        )
    if config.get("conv_kernel_size", 31) % 2 == 0:
        raise CheckpointError(f"encoder.conv_kernel_size: {config['conv_kernel_size']} is even", "use an odd size")
    check_integer("encoder.feat_out", config.get("feat_out", -1), (-1, 8192))


def check_context(config: Mapping[str, Any]) -> None:
    """Refuse limited attention context and one-sided convolutions, which streaming models have.

    Raises:
        CheckpointError: naming the key.
    """
    context = config.get("att_context_size")
    if context not in UNLIMITED:
        raise CheckpointError(
            f"encoder.att_context_size: {context!r:.80} limits the context (a streaming model), which is not supported",
            "use a model with att_context_size: [-1, -1]",
        )
    side = (config.get("conv_kernel_size", 31) - 1) // 2
    if config.get("conv_context_size") not in (None, [side, side]):
        raise CheckpointError(
            f"encoder.conv_context_size: {config['conv_context_size']!r:.80} is not the kernel's two "
            f"halves [{side}, {side}], which is not supported",
            "use a model with conv_context_size: null",
        )


def check_subsampling(config: Mapping[str, Any]) -> None:
    """Refuse unknown kinds and factors of subsampling.

    Raises:
        CheckpointError: naming the key.
    """
    if config.get("subsampling", "striding") not in KINDS:
        raise CheckpointError(f"encoder.subsampling: {config['subsampling']!r:.80}", f"use one of {', '.join(KINDS)}")
    factor = config.get("subsampling_factor", 4)
    if type(factor) is not int or factor not in FACTORS:
        raise CheckpointError(
            f"encoder.subsampling_factor: {factor!r:.80}", f"use one of {', '.join(map(str, FACTORS))}"
        )
    channels = config.get("subsampling_conv_channels", -1)
    if channels != -1:
        check_integer("encoder.subsampling_conv_channels", channels, (1, 8192))
