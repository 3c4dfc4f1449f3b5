"""The CTC head: log-probabilities over the vocabulary and the blank."""

import pytest
import torch

from trtasr.errors import CheckpointError
from trtasr.models.decoder import ConvASRDecoder, CtcNetwork, class_count


def test_every_frame_has_a_distribution_over_the_classes():
    torch.manual_seed(0)
    head, encoded = ConvASRDecoder(6, 5), torch.randn(2, 6, 9)
    with torch.no_grad():
        found = head(encoded)
    assert found.shape == (2, 9, 5)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(2, 9))
    weight, bias = head.decoder_layers[0].weight[:, :, 0], head.decoder_layers[0].bias
    logits = torch.einsum("oc,bct->bto", weight, encoded) + bias
    torch.testing.assert_close(found, logits.log_softmax(-1))


def test_a_network_has_one_class_more_than_tokens_and_the_encoders_lengths():
    class Halving(torch.nn.Module):
        def forward(self, features, lengths):
            return features[:, :, ::2], (lengths + 1) // 2

    network = CtcNetwork(Halving(), 4, {"vocabulary": ["a", "b"]})
    found, lengths = network(torch.ones(2, 4, 7), torch.tensor([7, 4]))
    assert found.shape == (2, 4, 3)
    assert lengths.tolist() == [4, 2]


@pytest.mark.parametrize(
    ("section", "count"),
    [
        ({"vocabulary": ["a", "b", "c"]}, 3),
        ({"vocabulary": ("a",), "num_classes": 9}, 1),
        ({"vocabulary": [], "num_classes": 9}, 9),
        ({"num_classes": 9}, 9),
    ],
)
def test_the_vocabulary_counts_before_its_size(section, count):
    assert class_count(section) == count


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({}, "decoder.num_classes: None"),
        ({"num_classes": 0}, "decoder.num_classes: 0"),
        ({"num_classes": "28"}, "decoder.num_classes: '28'"),
        ({"vocabulary": "abc", "num_classes": 3}, "decoder.vocabulary: 'abc'"),
        ({"vocabulary": {"a": 0}}, "decoder.vocabulary"),
    ],
)
def test_neither_vocabulary_nor_size_is_refused_by_the_key(section, key):
    with pytest.raises(CheckpointError, match=key):
        class_count(section)
