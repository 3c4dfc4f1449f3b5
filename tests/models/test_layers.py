"""The pieces that several families are built from, against their definitions."""

import pytest
import torch
from torch import nn

from trtasr.models.layers import depthwise_channels_last, length_mask


def test_length_mask_is_one_inside_and_zero_beyond():
    mask = length_mask(torch.tensor([3, 0, 5]), 5)
    assert mask.tolist() == [[[1, 1, 1, 0, 0]], [[0, 0, 0, 0, 0]], [[1, 1, 1, 1, 1]]]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (5, 2, 1), (3, 1, 3), (1, 1, 1)])
def test_depthwise_convolution_is_that_of_torch(kernel, stride, dilation, bias):
    torch.manual_seed(0)
    padding = dilation * (kernel - 1) // 2
    conv = nn.Conv1d(6, 6, kernel, stride, padding, dilation, groups=6, bias=bias)
    x = torch.randn(2, 6, 17)
    with torch.no_grad():
        torch.testing.assert_close(depthwise_channels_last(x, conv), conv(x), atol=1e-6, rtol=1e-5)
