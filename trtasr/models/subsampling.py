"""Convolutional subsampling in front of a Conformer: ``striding``, ``vggnet`` and ``dw_striding``."""

import torch
from torch import Tensor, nn

from trtasr.models.layers import length_mask

KINDS = ("striding", "vggnet", "dw_striding")


class ConvSubsampling(nn.Module):
    """Two-dimensional convolutions over time and frequency that halve both, log2(factor) times, then a linear layer.

    Each halving gives ceil(length / 2) frames. Padding frames are zeroed in front of every layer that looks at
    neighbours, so that they never leak in.

    Args:
        kind: one of `KINDS`.
        factor: power of 2.
        sizes: (mel bins, channels of the convolutions, output width).
    """

    def __init__(self, kind: str, factor: int, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        rows, channels, width = sizes
        halvings = factor.bit_length() - 1
        for _ in range(halvings):
            rows = (rows + 1) // 2
        self.conv = nn.Sequential(*LAYERS[kind](channels, halvings))
        self.out = nn.Linear(channels * rows, width)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, T, mel], lengths [B] -> [B, T', width], lengths [B]."""
        x, mask = features[:, None], length_mask(lengths, features.shape[1])[..., None]
        for layer in self.conv:
            if looks_around(layer):
                x = x * mask
            x = layer(x)
            if halves(layer):
                lengths = torch.div(lengths + 1, 2, rounding_mode="trunc")
                mask = length_mask(lengths, x.shape[2])[..., None]
        return self.out(x.transpose(1, 2).flatten(2)), lengths


def striding(channels: int, halvings: int) -> list[nn.Module]:
    """Convolutions of stride 2, each with ReLU."""
    layers: list[nn.Module] = []
    for index in range(halvings):
        layers += [nn.Conv2d(channels if index else 1, channels, 3, 2, 1), nn.ReLU()]
    return layers


def vggnet(channels: int, halvings: int) -> list[nn.Module]:
    """Two convolutions with ReLU, then the maximum of two by two."""
    layers: list[nn.Module] = []
    for index in range(halvings):
        layers += [
            nn.Conv2d(channels if index else 1, channels, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1),
            nn.ReLU(),
            nn.MaxPool2d(2, 2, ceil_mode=True),
        ]
    return layers


def dw_striding(channels: int, halvings: int) -> list[nn.Module]:
    """A convolution of stride 2, then depthwise ones of stride 2 with pointwise ones; ReLU behind each step."""
    layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, 2, 1), nn.ReLU()]
    for _ in range(halvings - 1):
        layers += [nn.Conv2d(channels, channels, 3, 2, 1, groups=channels), nn.Conv2d(channels, channels, 1), nn.ReLU()]
    return layers


def looks_around(layer: nn.Module) -> bool:
    """Whether an output frame depends on more than one input frame."""
    return isinstance(layer, nn.MaxPool2d) or (isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1))


def halves(layer: nn.Module) -> bool:
    """Whether the layer has stride 2."""
    return isinstance(layer, nn.MaxPool2d) or (isinstance(layer, nn.Conv2d) and layer.stride == (2, 2))


LAYERS = {"striding": striding, "vggnet": vggnet, "dw_striding": dw_striding}
