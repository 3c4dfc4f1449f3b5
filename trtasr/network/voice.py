"""What a decoder reads while it is calibrated: tokens that the FP32 model itself says to the features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trtasr.engine.sessions import open_session
from trtasr.network.network import Files, Network, Outputs, run
from trtasr.text.generate import Generation, biases
from trtasr.values import CalibrationSet, Example, FloatArray, IntArray

FEWEST_TOKENS = 8  # that there is room for, however short the audio


def spoken(network: Network, files: Files, features: CalibrationSet, generation: Generation) -> CalibrationSet:
    """Give every item tokens that the FP32 model itself says to its features: prompt, then a sample, without an end.

    Each next token is drawn from softmax(logits) by the Gumbel-max trick (Gumbel 1954): it is the largest of logits + g
    with independent g = -log(-log(u)), u uniform in (0, 1). A sample ends before a token that ends transcripts, or
    after as many tokens as so much speech has, though not before 8, or at the model's longest text.

    Args:
        network: of an encoder and a decoder.
        files: FP32 graphs.
        features: of every item; its seed decides the sample, item by item.
        generation: prompt, ends, and tokens that must not be generated.
    """
    rules = biases(generation, len(network.described.tokenizer.vocabulary))
    decoder, encoded = open_session(files[-1]), run(network, files, features.examples(), 1)
    found = []
    for index, length in enumerate(np.concatenate(features.lengths).tolist()):
        if length <= 0:
            found.append(np.array(generation.prompt, np.int64))
            continue
        voice = Voice(network, decoder, next(encoded), rules, np.random.default_rng([features.seed, index]))
        room = max(FEWEST_TOKENS, round(network.last.rate * length / network.frontend.frames_per_second))
        found.append(sampled(voice, generation, room))
    return replace(features, tokens=tuple(found))


@dataclass(frozen=True)
class Voice:
    """A decoder that says something to one utterance.

    Attributes:
        network: whose last part it is.
        decoder: ONNX Runtime session.
        encoded: outputs of the encoder, by name.
        rules: name -> float32 [V] added to the last logits.
        generator: of the noise.
    """

    network: Network
    decoder: Any
    encoded: Outputs
    rules: Mapping[str, FloatArray]
    generator: np.random.Generator

    def next_token(self, tokens: Sequence[int], rule: str) -> int:
        """A token behind others, drawn from the decoder's probabilities."""
        bias, heard = self.rules[rule], (np.zeros(0, np.float32), np.zeros(0, np.int64))  # the decoder reads neither
        inputs = self.network.last.inputs(Example(*heard, np.array(tokens, np.int64)), self.encoded)
        inputs["token_bias"] = bias + self.generator.gumbel(size=len(bias)).astype(np.float32)
        return int(self.decoder.run(["next_tokens"], inputs)[0][0])


def sampled(voice: Voice, generation: Generation, room: int) -> IntArray:
    """Prompt and a sample of at most `room` tokens, int64 [L]; a language that the prompt lacks is drawn too."""
    tokens = list(generation.prompt)
    if generation.languages:
        tokens.insert(1, voice.next_token(tokens[:1], "language"))
    for place in range(min(room, generation.max_length - len(tokens))):
        token = voice.next_token(tokens, "later" if place else "first")
        if token in generation.end:
            break
        tokens.append(token)
    return np.array(tokens, np.int64)
