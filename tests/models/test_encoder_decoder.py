"""What encoder-decoders share: who sees what, and what the decoder is given."""

import torch
from torch import nn

from trtasr.models.attention import MASKED
from trtasr.models.encoder_decoder import CachedDecoder, EncoderDecoder, causal_bias, no_past, source_bias


def test_valid_positions_of_the_encoder_are_seen_and_padding_is_not():
    assert source_bias(torch.tensor([2, 0, 3]), 3).tolist() == [
        [[[0, 0, MASKED]]],
        [[[MASKED, MASKED, MASKED]]],
        [[[0, 0, 0]]],
    ]


def test_a_token_sees_itself_and_those_before():
    assert causal_bias(torch.tensor([1, 2]), 4).tolist() == [[0, 0, MASKED, MASKED], [0, 0, 0, MASKED]]


def test_a_masked_score_has_no_share_and_fits_fp16():
    scores = torch.tensor([5.0, 4.0, 3.0], dtype=torch.float16) + causal_bias(torch.tensor([1]), 3)[0].half()
    assert torch.isfinite(scores).all()
    assert scores.float().softmax(-1)[2] == 0


def test_the_cache_before_the_first_token_is_empty_and_of_the_right_shape():
    cross = [(torch.ones(2, 4, 7, 8), torch.ones(2, 4, 7, 8))] * 3
    assert [(key.shape, value.shape) for key, value in no_past(cross)] == [((2, 4, 0, 8), (2, 4, 0, 8))] * 3


class Attention(nn.Module):
    """Keys and values that are the encoder's output, times the layer."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def key_value(self, encoded, batch):
        heads = encoded.reshape(batch, 1, *encoded.shape[1:])
        return self.factor * heads, -self.factor * heads


class Layer(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.encoder_attn = Attention(factor)


class Decoder(CachedDecoder):
    """Logits that tell what it was given."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Layer(2.0), Layer(3.0)])

    def forward(self, tokens, past, cross, positions):
        assert [key.shape[2] for key, _ in past] == [0, 0]
        read = sum(key.sum((1, 2, 3)) for key, _ in cross)
        return tokens[:, :, None] + read[:, None, None] + positions[:, None, None], past


class Encoder(nn.Module):
    def forward(self, features, lengths):
        return features.transpose(1, 2)[:, ::2], (lengths + 1) // 2


def test_teacher_forcing_gives_the_decoder_the_encoders_output_and_no_past():
    network = EncoderDecoder(Encoder(), Decoder())
    features, tokens = torch.ones(2, 3, 5), torch.tensor([[1, 2], [3, 4]])
    logits = network(features, torch.tensor([5, 2]), tokens)
    read = (2 + 3) * 3 * 3  # both layers: three rows of three positions
    assert logits[:, :, 0].tolist() == [[1 + read + 3, 2 + read + 3], [3 + read + 1, 4 + read + 1]]
