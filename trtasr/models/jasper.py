"""QuartzNet and Jasper: the Jasper-block encoder and the convolutional CTC decoder.

State-dict names equal those of NeMo's ``ConvASREncoder`` and ``ConvASRDecoder``; the arithmetic follows NeMo's
``jasper.py``. One difference in form only: the length mask is computed once per resolution and without boolean
operators (TensorRT's calibrator refuses networks that contain them).
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from trtasr.errors import CheckpointError
from trtasr.models.checks import check_integer, check_switches
from trtasr.models.decoder import CtcNetwork
from trtasr.models.layers import depthwise_channels_last, length_mask

BLOCK_KEYS = {
    "filters",
    "repeat",
    "kernel",
    "stride",
    "dilation",
    "dropout",
    "residual",
    "groups",
    "separable",
    "heads",
    "residual_mode",
    "residual_dense",
    "se",
    "se_reduction_ratio",
    "se_context_size",
    "se_interpolation_mode",
    "kernel_size_factor",
    "stride_last",
    "future_context",
}
ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "hardtanh": nn.Hardtanh,
    "selu": nn.SELU,
    "swish": nn.SiLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}
RESIDUAL_MODES = ("add", "stride_add", "max")
BATCHNORM_EPS = 1e-3
MAX_BLOCKS = 256
MAX_CONVOLUTIONS = 1024  # of all blocks together; Jasper 10x5 with dense residuals has 108
# Bounds far above any published model: a configuration may come from anywhere and must not claim memory.
BLOCK_INTEGERS = {
    "filters": (1, 8192),
    "repeat": (1, 64),
    "groups": (1, 8192),
    "heads": (-1, 64),
    "future_context": (-1, 4096),
}
BLOCK_SIZES = {"kernel": (1, 4096), "stride": (1, 64), "dilation": (1, 64)}  # an integer, or a list of one
BLOCK_SWITCHES = ("residual", "residual_dense", "separable", "se", "stride_last")


class MaskedConv1d(nn.Module):
    """Convolution that zeroes the frames beyond each utterance first, so that padding never leaks in.

    Args:
        shape: (in channels, out channels, kernel size).
        stride: output stride.
        dilation: kernel dilation.
        padding: (left, right) frames of zeros.
        groups: channel groups; the number of input channels for a depthwise convolution.
        masked: False for a model trained with ``conv_mask: false``.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        stride: int = 1,
        dilation: int = 1,
        padding: tuple[int, int] = (0, 0),
        groups: int = 1,
        masked: bool = True,
    ) -> None:
        super().__init__()
        self.symmetric = padding[0] == padding[1]
        self.conv = nn.Conv1d(*shape, stride, padding[0] if self.symmetric else 0, dilation, groups, bias=False)
        self.padding = padding
        self.masked = masked

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Convolve x [B, C, T] under mask [B, 1, T]."""
        if self.masked:
            x = x * mask
        if not self.symmetric:
            x = nn.functional.pad(x, self.padding)
        if self.conv.groups == 1 or torch.onnx.is_in_onnx_export():
            return cast(Tensor, self.conv(x))
        return depthwise_channels_last(x, self.conv)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Valid output frames: (length + padding - dilation (kernel - 1) - 1) // stride + 1."""
        span = self.conv.dilation[0] * (self.conv.kernel_size[0] - 1)
        if self.conv.stride[0] == 1 and sum(self.padding) == span:
            return lengths
        return torch.div(lengths + sum(self.padding) - span - 1, self.conv.stride[0], rounding_mode="trunc") + 1


class JasperBlock(nn.Module):
    """``repeat`` x (convolution, batch norm, activation, dropout), plus the residual branches.

    Args:
        channels: of the block input.
        config: one entry of the encoder's ``jasper`` list.
        panes: input channels of each dense-residual branch; empty: one branch from the block input.
        activation: class of the activation module.
        masked: whether convolutions mask their input.
    """

    def __init__(
        self, channels: int, config: Mapping[str, Any], panes: Sequence[int], activation: type[nn.Module], masked: bool
    ) -> None:
        super().__init__()
        filters, dropout = config["filters"], config.get("dropout", 0.0)
        strides = block_strides(config)
        layers: list[nn.Module] = []
        for index, stride in enumerate(strides):
            layers += conv_bn(channels if index == 0 else filters, config, stride, masked)
            if index < len(strides) - 1:
                layers += [activation(), nn.Dropout(dropout)]
        self.mconv = nn.ModuleList(layers)
        self.mout = nn.Sequential(activation(), nn.Dropout(dropout))
        self.use_max = config.get("residual_mode", "add") == "max"
        self.dense = bool(config["residual"]) and bool(panes)
        self.res: nn.ModuleList | None = None
        if config["residual"]:
            stride = first(config["stride"]) if config.get("residual_mode") == "stride_add" else 1
            self.res = nn.ModuleList(
                nn.ModuleList(
                    [MaskedConv1d((pane, filters, 1), stride, masked=masked), nn.BatchNorm1d(filters, BATCHNORM_EPS)]
                )
                for pane in (panes or [channels])
            )

    def forward(self, inputs: list[Tensor], lengths: Tensor, mask: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Run one block.

        Args:
            inputs: block inputs, newest last, each [B, C, T].
            lengths: valid frames [B].
            mask: [B, 1, T] for those lengths.

        Returns:
            inputs for the next block, its lengths and its mask.
        """
        out, source_mask = inputs[-1], mask
        for layer in self.mconv:
            if isinstance(layer, MaskedConv1d):
                out = layer(out, mask)
                longer = layer.output_lengths(lengths)
                if longer is not lengths:
                    lengths, mask = longer, length_mask(longer, out.shape[2])
            else:
                out = layer(out)
        if self.res is not None:
            for source, branch in zip(inputs, self.res, strict=False):
                extra = cast(nn.ModuleList, branch)[1](cast(nn.ModuleList, branch)[0](source, source_mask))
                out = torch.maximum(out, extra) if self.use_max else out + extra
        out = self.mout(out)
        return ([*inputs, out] if self.dense else [out]), lengths, mask


def block_strides(config: Mapping[str, Any]) -> list[int]:
    """Stride of each repeated convolution: all of them, or the last alone with ``stride_last``."""
    stride, repeat = first(config["stride"]), int(config["repeat"])
    return [1] * (repeat - 1) + [stride] if config.get("stride_last", False) else [stride] * repeat


def conv_bn(channels: int, config: Mapping[str, Any], stride: int, masked: bool) -> list[nn.Module]:
    """Depthwise + pointwise (separable) or plain convolution, then batch norm, in NeMo's order."""
    filters, kernel, dilation = config["filters"], kernel_size(config), first(config["dilation"])
    padding = same_padding(kernel, dilation, int(config.get("future_context", -1)))
    norm = nn.BatchNorm1d(filters, eps=BATCHNORM_EPS, momentum=0.1)
    if config.get("separable", False):
        depthwise = MaskedConv1d((channels, channels, kernel), stride, dilation, padding, channels, masked)
        return [depthwise, MaskedConv1d((channels, filters, 1), masked=masked), norm]
    return [MaskedConv1d((channels, filters, kernel), stride, dilation, padding, masked=masked), norm]


def kernel_size(config: Mapping[str, Any]) -> int:
    """Kernel size, scaled by ``kernel_size_factor`` and rounded up to an odd number, as NeMo does."""
    size = max(int(first(config["kernel"]) * float(config.get("kernel_size_factor", 1.0))), 1)
    return size + 1 if size % 2 == 0 else size


def same_padding(kernel: int, dilation: int, future_context: int) -> tuple[int, int]:
    """(left, right) zeros that keep the length at stride 1; ``future_context`` >= 0 limits the right side."""
    if 0 <= future_context < kernel:
        left = kernel - 1 if dilation == 1 else dilation * kernel - 1  # NeMo's padding when dilated, kept as it is
        return (left - dilation * future_context, dilation * future_context)
    both = dilation * (kernel - 1) // 2
    return (both, both)


class ConvASREncoder(nn.Module):
    """The Jasper-block encoder.

    Args:
        config: NeMo's ``encoder`` section.

    Raises:
        CheckpointError: for block options that are not supported (squeeze-and-excitation, groups, heads, other norms).
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        check_encoder(config)
        activation = ACTIVATIONS[config["activation"]]
        masked = bool(config.get("conv_mask", True))
        channels = config["feat_in"] * config.get("frame_splicing", 1)
        mode = config.get("residual_mode", "add")
        panes: list[int] = []
        blocks = []
        for block in config["jasper"]:
            mode = block.get("residual_mode", mode)  # NeMo lets one block's mode hold for the blocks after it
            if block.get("residual_dense", False):
                panes.append(channels)
            dense = list(panes) if block.get("residual_dense", False) else []
            blocks.append(JasperBlock(channels, {**block, "residual_mode": mode}, dense, activation, masked))
            channels = block["filters"]
        self.encoder = nn.Sequential(*blocks)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, mel, T], lengths [B] -> encoded [B, C, T'], lengths [B]."""
        outputs, mask = [features], length_mask(lengths, features.shape[2])
        for block in self.encoder:
            outputs, lengths, mask = block(outputs, lengths, mask)
        return outputs[-1], lengths


class JasperCtc(CtcNetwork):
    """QuartzNet or Jasper with a CTC head, by NeMo's ``encoder`` and ``decoder`` sections.

    Raises:
        CheckpointError: a section this network cannot honour; names the key.
    """

    def __init__(self, encoder: Mapping[str, Any], decoder: Mapping[str, Any]) -> None:
        network = ConvASREncoder(encoder)
        super().__init__(network, encoder["jasper"][-1]["filters"], decoder)


def check_encoder(config: Mapping[str, Any]) -> None:
    """Refuse what would be computed otherwise than NeMo does.

    Raises:
        CheckpointError: naming the key and what is supported.
    """
    if str(config.get("activation")) not in ACTIVATIONS:
        raise CheckpointError(
            f"encoder.activation: {config.get('activation')!r:.80}", f"use one of {', '.join(ACTIVATIONS)}"
        )
    if config.get("normalization_mode", "batch") != "batch":
        raise CheckpointError(
            f"encoder.normalization_mode: {config['normalization_mode']!r:.80}",
            "only 'batch' works: data-free calibration needs batch-norm statistics",
        )
    check_integer("encoder.feat_in", config.get("feat_in"), (1, 8192))
    check_integer("encoder.frame_splicing", config.get("frame_splicing", 1), (1, 64))
    check_switches("encoder", config, ("conv_mask",))
    check_mode("encoder", config)
    blocks = config.get("jasper")
    if not isinstance(blocks, list | tuple) or not 0 < len(blocks) <= MAX_BLOCKS:
        raise CheckpointError(
            f"encoder.jasper: no list of 1 to {MAX_BLOCKS} blocks",
            "use the configuration of a QuartzNet or Jasper encoder",
        )
    for index, block in enumerate(blocks):
        check_block(f"encoder.jasper[{index}]", block)
    if (count := convolutions(blocks)) > MAX_CONVOLUTIONS:
        raise CheckpointError(f"encoder.jasper: {count} convolutions", f"use at most {MAX_CONVOLUTIONS}")


def convolutions(blocks: Sequence[Mapping[str, Any]]) -> int:
    """Convolutions of all blocks: repeated ones (a separable one is two) and residual branches."""
    found = panes = 0
    for block in blocks:
        panes += bool(block.get("residual_dense", False))
        found += block["repeat"] * (2 if block.get("separable", False) else 1)
        found += max(1, panes) if block["residual"] else 0
    return found


def check_block(where: str, block: Mapping[str, Any]) -> None:
    """Refuse one block's unsupported options.

    Raises:
        CheckpointError: naming the block and the key.
    """
    if not isinstance(block, Mapping):
        raise CheckpointError(f"{where}: {block!r:.80}", "write each block as a mapping (filters: ..., kernel: ...)")
    unknown = sorted(map(str, set(block) - BLOCK_KEYS))
    missing = sorted({"filters", "repeat", "kernel", "stride", "dilation", "residual"} - set(block))
    if unknown or missing:
        raise CheckpointError(
            f"{where}: unknown keys {unknown}, missing keys {missing}", "use the block keys of NeMo's ConvASREncoder"
        )
    check_block_values(where, block)
    if block.get("se", False):
        raise CheckpointError(
            f"{where}: squeeze-and-excitation (se: true) is not supported yet",
            "use a QuartzNet, Jasper or Conformer; Citrinet and ContextNet are refused",
        )
    if block.get("groups", 1) != 1 or block.get("heads", -1) != -1:
        raise CheckpointError(f"{where}: groups or heads are set", "use groups: 1 and heads: -1")
    if first(block["stride"]) > 1 and first(block["dilation"]) > 1:
        raise CheckpointError(f"{where}: stride and dilation above 1 in one block", "set one of them to 1")
    check_mode(where, block)


def check_block_values(where: str, block: Mapping[str, Any]) -> None:
    """Refuse values of the wrong type or out of bounds.

    Raises:
        CheckpointError: naming the block and the key.
    """
    for key in BLOCK_INTEGERS.keys() & block.keys():
        check_integer(f"{where}.{key}", block[key], BLOCK_INTEGERS[key])
    for key, bounds in BLOCK_SIZES.items():
        value = block[key]
        check_integer(
            f"{where}.{key}", value[0] if isinstance(value, list | tuple) and len(value) == 1 else value, bounds
        )
    check_switches(where, block, BLOCK_SWITCHES)
    for key, (low, high) in {"dropout": (0, 1), "kernel_size_factor": (1e-3, 16)}.items():
        value = block.get(key, low)
        if type(value) not in (int, float) or not low <= value <= high:
            raise CheckpointError(f"{where}.{key}: {value!r:.80}", f"use a number from {low} to {high}")


def check_mode(where: str, section: Mapping[str, Any]) -> None:
    """Refuse an unknown ``residual_mode``.

    Raises:
        CheckpointError: naming the key.
    """
    if section.get("residual_mode", "add") not in RESIDUAL_MODES:
        raise CheckpointError(
            f"{where}.residual_mode: {section['residual_mode']!r:.80}", f"use one of {', '.join(RESIDUAL_MODES)}"
        )


def first(value: int | Sequence[int]) -> int:
    """A setting that NeMo writes as a number or as a list of one."""
    return int(value[0]) if isinstance(value, Sequence) else int(value)
