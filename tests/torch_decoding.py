"""An encoder-decoder of `trtasr.models` as `trtasr.text.generate.greedy` drives it, in torch."""

import torch

from trtasr.text.generate import biases


class TorchDecoding:
    def __init__(self, model, generation, vocabulary_size):
        self.model = model
        self.biases = biases(generation, vocabulary_size)

    @torch.inference_mode()
    def begin(self, features, lengths):
        encoded, self.positions = self.model.encoder(torch.from_numpy(features), torch.from_numpy(lengths))
        self.cross = self.model.decoder.cross(encoded)
        self.past = [(key[:, :, :0], value[:, :, :0]) for key, value in self.cross]
        self.start = None
        return self.positions.numpy()

    @torch.inference_mode()
    def step(self, tokens, bias):
        logits, self.past = self.model.decoder(torch.from_numpy(tokens), self.past, self.cross, self.positions)
        if self.start is None:
            self.start = logits[:, 0].softmax(1).numpy()
        scores = (logits[:, -1] + torch.from_numpy(self.biases[bias])).log_softmax(1)
        return scores.argmax(1).numpy(), scores.amax(1).numpy()

    def start_probability(self, token):
        return self.start[:, token]
