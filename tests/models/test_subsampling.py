"""Convolutional subsampling: lengths, padding, and what each kind is made of."""

import pytest
import torch

from trtasr.models.subsampling import KINDS, ConvSubsampling

pytestmark = pytest.mark.usefixtures("one_thread")
CASES = [(kind, factor) for kind in KINDS for factor in (2, 4, 8)]


def subsampling(kind, factor, sizes=(10, 4, 6)):
    torch.manual_seed(0)
    return ConvSubsampling(kind, factor, sizes).eval().requires_grad_(False)


def halved(length, factor):
    """The length rounded up at each halving."""
    while factor > 1:
        length, factor = -(-length // 2), factor // 2
    return length


@pytest.mark.parametrize(("kind", "factor"), CASES)
def test_lengths_are_those_of_the_real_output(kind, factor):
    layer = subsampling(kind, factor)
    for frames in [*range(1, 35), 63, 64, 65]:
        out, lengths = layer(torch.randn(1, frames, 10), torch.tensor([frames]))
        assert out.shape[1] == lengths.item() == halved(frames, factor)


@pytest.mark.parametrize(("kind", "factor"), CASES)
@pytest.mark.parametrize("mel", [1, 7, 10, 64, 80])
def test_any_number_of_mel_bins(kind, factor, mel):
    layer = subsampling(kind, factor, (mel, 4, 6))
    assert layer.out.in_features == 4 * halved(mel, factor)
    assert layer(torch.randn(2, 9, mel), torch.tensor([9, 5]))[0].shape == (2, halved(9, factor), 6)


@pytest.mark.parametrize(("kind", "factor"), CASES)
def test_padding_never_leaks_into_an_utterance(kind, factor):
    layer = subsampling(kind, factor)
    lengths = torch.tensor([37, 36, 35, 18, 9, 8, 7, 2, 1, 0])
    features = torch.randn(len(lengths), 37, 10)
    loud = features.clone()
    for row, length in enumerate(lengths):
        loud[row, length:] = 1e4
    together, found = layer(loud, lengths)
    for row, length in enumerate(lengths[:-1]):
        alone, count = layer(features[row : row + 1, :length], lengths[row : row + 1])
        assert found[row] == count
        torch.testing.assert_close(together[row : row + 1, : found[row]], alone, atol=1e-5, rtol=0)
    assert found[-1] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_stay_integers(kind):
    _, lengths = subsampling(kind, 4)(torch.randn(2, 9, 10), torch.tensor([9, 4]))
    assert lengths.dtype == torch.int64


def test_striding_equals_its_formula():
    """out[t, f] = ReLU(b + sum of w over the 3 x 3 frames and bins around (2t, 2f)), then a linear layer."""
    layer = subsampling("striding", 2, (5, 3, 4))
    x, (weight, bias) = torch.randn(7, 5).double(), (p.double() for p in (layer.conv[0].weight, layer.conv[0].bias))
    padded = torch.zeros(9, 7).double()
    padded[1:8, 1:6] = x
    planes = torch.stack(
        [
            torch.stack(
                [(weight[:, 0] * padded[2 * t : 2 * t + 3, 2 * f : 2 * f + 3]).sum((1, 2)) + bias for f in range(3)]
            )
            for t in range(4)
        ]
    ).relu()
    flat = planes.transpose(1, 2).reshape(4, -1)  # per frame: all bins of the first channel, then of the second ...
    expected = flat @ layer.out.weight.double().T + layer.out.bias.double()
    found, _ = layer(x.float()[None], torch.tensor([7]))
    torch.testing.assert_close(found[0].double(), expected, atol=1e-5, rtol=0)
