"""Conformer-CTC and FastConformer-CTC: convolution-augmented Transformer encoder and convolutional CTC decoder.

State-dict names equal those of NeMo's ``ConformerEncoder``; the arithmetic follows NeMo's, which follows Gulati et al.
2020 (arXiv 2005.08100). Differences in form only: masks are numbers instead of booleans (TensorRT's calibrator refuses
networks with boolean operators), and the position table is computed for the length at hand.
A configuration that would be computed otherwise is refused.
"""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from trtasr.errors import CheckpointError
from trtasr.models.attention import RelPositionMultiHeadAttention, attention_bias, relative_positions
from trtasr.models.checks import check_integer, check_switches
from trtasr.models.decoder import CtcNetwork
from trtasr.models.layers import depthwise_channels_last, length_mask
from trtasr.models.subsampling import KINDS, ConvSubsampling

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


class ConformerFeedForward(nn.Module):
    """Linear, Swish, linear.

    Args:
        width: d_model.
        hidden: width times ``ff_expansion_factor``.
        bias: ``use_bias``.
    """

    def __init__(self, width: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden, bias)
        self.activation = nn.SiLU()
        self.linear2 = nn.Linear(hidden, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, d] -> [B, T, d]."""
        return cast(Tensor, self.linear2(self.activation(self.linear1(x))))


class ConformerConvolution(nn.Module):
    """Pointwise convolution, GLU, depthwise convolution, batch norm, Swish, pointwise convolution.

    Args:
        width: d_model.
        kernel: odd kernel size of the depthwise convolution.
        bias: ``use_bias``.
    """

    folds: ClassVar = (("depthwise_conv", "batch_norm"),)  # for graph.export.fold_batchnorm

    def __init__(self, width: int, kernel: int, bias: bool) -> None:
        super().__init__()
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1, bias=bias)
        self.depthwise_conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=bias)
        self.batch_norm = nn.BatchNorm1d(width)
        self.activation = nn.SiLU()
        self.pointwise_conv2 = nn.Conv1d(width, width, 1, bias=bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Convolve x [B, T, d] under mask [B, 1, T]."""
        x = nn.functional.glu(self.pointwise_conv1(x.transpose(1, 2)), dim=1) * mask
        depthwise = self.depthwise_conv
        x = depthwise(x) if torch.onnx.is_in_onnx_export() else depthwise_channels_last(x, depthwise)
        return cast(Tensor, self.pointwise_conv2(self.activation(self.batch_norm(x))).transpose(1, 2))


class ConformerLayer(nn.Module):
    """Half feed-forward, self-attention, convolution, half feed-forward, layer norm; each but the last residual.

    Args:
        config: checked ``encoder`` section.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, bias = config["d_model"], config.get("use_bias", True)
        hidden = width * config.get("ff_expansion_factor", 4)
        self.norm_feed_forward1 = nn.LayerNorm(width)
        self.feed_forward1 = ConformerFeedForward(width, hidden, bias)
        self.norm_self_att = nn.LayerNorm(width)
        self.self_attn = RelPositionMultiHeadAttention(config.get("n_heads", 4), width, bias)
        self.norm_conv = nn.LayerNorm(width)
        self.conv = ConformerConvolution(width, config.get("conv_kernel_size", 31), bias)
        self.norm_feed_forward2 = nn.LayerNorm(width)
        self.feed_forward2 = ConformerFeedForward(width, hidden, bias)
        self.norm_out = nn.LayerNorm(width)

    def forward(self, x: Tensor, positions: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        """Run one layer.

        Args:
            x: [B, T, d].
            positions: [1, 2T, d] of `relative_positions`.
            bias: [B, 1, 1, T] of `attention_bias`.
            mask: [B, 1, T] of `length_mask`.

        Returns:
            [B, T, d].
        """
        x = x + 0.5 * self.feed_forward1(self.norm_feed_forward1(x))
        x = x + self.self_attn(self.norm_self_att(x), positions, bias)
        x = x + self.conv(self.norm_conv(x), mask)
        x = x + 0.5 * self.feed_forward2(self.norm_feed_forward2(x))
        return cast(Tensor, self.norm_out(x))


class ConformerEncoder(nn.Module):
    """Subsampling and a stack of Conformer layers.

    Args:
        config: NeMo's ``encoder`` section.

    Raises:
        CheckpointError: an option that would be computed otherwise than NeMo does (limited context, causal
            convolutions, other norms or positions); names the key.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        check_encoder(config)
        width, channels = config["d_model"], config.get("subsampling_conv_channels", -1)
        self.pre_encode = ConvSubsampling(
            config.get("subsampling", "striding"),
            config.get("subsampling_factor", 4),
            (config["feat_in"], width if channels == -1 else channels, width),
        )
        self.scale = width**0.5 if config.get("xscaling", True) else 1.0
        self.layers = nn.ModuleList([ConformerLayer(config) for _ in range(config["n_layers"])])
        out = config.get("feat_out", -1)
        self.out_proj = nn.Linear(width, out) if out not in (-1, 0, width) else None
        self.width = width

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, mel, T], lengths [B] -> encoded [B, d, T'], lengths [B]."""
        x, lengths = self.pre_encode(features.transpose(1, 2), lengths)
        if self.scale != 1.0:
            x = x * self.scale
        mask = length_mask(lengths, x.shape[1])
        bias, positions = attention_bias(mask), relative_positions(x.shape[1], self.width, x)
        for layer in self.layers:
            x = layer(x, positions, bias, mask)
        if self.out_proj is not None:
            x = self.out_proj(x)
        return x.transpose(1, 2), lengths


class ConformerCtc(CtcNetwork):
    """Conformer with a CTC head, by NeMo's ``encoder`` and ``decoder`` sections.

    Raises:
        CheckpointError: a section this network cannot honour; names the key.
    """

    def __init__(self, encoder: Mapping[str, Any], decoder: Mapping[str, Any]) -> None:
        network, out = ConformerEncoder(encoder), encoder.get("feat_out", -1)
        super().__init__(network, out if out > 0 else encoder["d_model"], decoder)


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
