"""The calibration stage of encoder-decoders: one scale table for both graphs, and the tokens its decoder reads.

The decoder is calibrated by teacher forcing: it reads all tokens of an utterance at once, with an empty past.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from trtasr.engine.compare_pair import decoder_inputs, vocabulary_size
from trtasr.engine.sessions import observe, open_session, utterances
from trtasr.errors import UsageError
from trtasr.graph.tensors import activation_tensors
from trtasr.network.pair_run import TOKENS_PER_SECOND
from trtasr.pipeline.calibrate import vulnerability_scores, walked, walked_table, weight_arrays
from trtasr.pipeline.correct import Given, correct, group_ranks
from trtasr.pipeline.lower_pair import split_excludes
from trtasr.quant.ranges import collect
from trtasr.quant.scales import scale_table
from trtasr.recipe import Quantization
from trtasr.text.generate import Generation, biases
from trtasr.values import Array, CalibrationSet, FloatArray, IntArray, ScaleTable

logger = logging.getLogger(__name__)

ENCODED, LOGITS = "encoded", "logits"  # outputs whose SQNR is noted
FEWEST_TOKENS = 8  # that there is room for, however short the audio


@dataclass(frozen=True)
class PairGraphs:
    """FP32 graphs of an encoder-decoder, as `trtasr.graph.export_pair` writes them."""

    encoder: Path
    decoder: Path


def pair_table(
    graphs: PairGraphs, features: CalibrationSet, quantization: Quantization, settings: Mapping[str, Any]
) -> ScaleTable:
    """One table of both graphs: the encoder over the features, then the decoder over their tokens.

    The decoder reads the cross keys and values of the encoder: with corrections, each of the two streams those of its
    own. FADE ranks the layers of the encoder and those of the decoder by themselves.

    Args:
        graphs: FP32.
        features: with the tokens of every item, as from `teacher_tokens`.
        quantization: the recipe's section; a pattern of `exclude` may match nodes of either graph.
        settings: that the table notes.

    Raises:
        UsageError: an item without tokens, or FADE with fewer than two utterances. RecipeError: an exclude pattern that
            matches no node.
    """
    models = onnx.load(graphs.encoder), onnx.load(graphs.decoder)
    excludes = split_excludes(quantization.exclude, (graphs.encoder, graphs.decoder))
    sections = [replace(quantization, exclude=patterns) for patterns in excludes]
    make = walked_pair if walked(quantization) else observed_pair
    return replace(merged(*make(graphs, models, sections, features)), settings=settings)


def observed_pair(
    graphs: PairGraphs, models: Sequence[onnx.ModelProto], sections: Sequence[Quantization], features: CalibrationSet
) -> list[ScaleTable]:
    """Both tables from what full precision computes; no more than one utterance's tensors are held at a time."""
    paths, feeds = (graphs.encoder, graphs.decoder), (utterances(features), decoder_feeds(graphs, features))
    tables = []
    for path, model, section, given in zip(paths, models, sections, feeds, strict=True):
        histograms = collect(observe(path, activation_tensors(model), given))
        tables.append(scale_table(histograms, weight_arrays(model), section.ranges, section.headroom))
    return tables


def walked_pair(
    graphs: PairGraphs, models: Sequence[onnx.ModelProto], sections: Sequence[Quantization], features: CalibrationSet
) -> list[ScaleTable]:
    """Both tables of layers that are decided one after the other, from encoder to decoder."""
    tokens, size = teacher_forced(features), vocabulary_size(graphs.decoder)
    ranks = pair_ranks(models, sections)
    encoder, decoder = (
        Given(model, {}, {}, section, ranks, output)
        for model, section, output in zip(models, sections, (ENCODED, LOGITS), strict=True)
    )
    del decoder.graph.graph.output[1:]  # the logits are left: keys, values and choices need not be kept
    found, streams = correct(encoder, utterances(features))
    first = walked_table(encoder, found)
    full, quantized = (taken(side, tokens, size) for side in (streams.full, streams.quantized))
    return [first, walked_table(decoder, correct(decoder, full, quantized)[0])]


def pair_ranks(models: Sequence[onnx.ModelProto], sections: Sequence[Quantization]) -> dict[str, float]:
    """Rank of every layer's vulnerability for FADE, among those of the encoder or those of the decoder.

    The keys and values of cross-attentions belong to the decoder, although the encoder's graph computes them.
    """
    scores = [vulnerability_scores(model, section) for model, section in zip(models, sections, strict=True)]
    return group_ranks(scores[0] | scores[1], lambda name: "encoder" if name.startswith("/encoder/") else "decoder")


def taken(outputs: list[dict[str, Array]], tokens: Sequence[IntArray], size: int) -> Iterator[dict[str, Array]]:
    """Inputs of the decoder behind the encoder's outputs, which are let go: nobody else keeps them alive.

    Args:
        outputs: of each utterance; emptied.
        tokens: of each utterance.
        size: of the vocabulary.
    """
    for item in tokens:
        yield decoder_inputs(outputs.pop(0), item, size)


def decoder_feeds(graphs: PairGraphs, features: CalibrationSet) -> Iterator[dict[str, Array]]:
    """Inputs of the decoder behind the FP32 encoder, one utterance each.

    Raises:
        UsageError: an item without tokens.
    """
    size = vocabulary_size(graphs.decoder)
    for outputs, item in zip(encoder_outputs(graphs, features), teacher_forced(features), strict=True):
        yield decoder_inputs(outputs, item, size)


def encoder_outputs(graphs: PairGraphs, features: CalibrationSet) -> Iterator[dict[str, Array]]:
    """What the FP32 encoder makes of each utterance, by name."""
    session = open_session(graphs.encoder)
    names = [output.name for output in session.get_outputs()]
    for feed in utterances(features):
        yield dict(zip(names, session.run(names, feed), strict=True))


def teacher_forced(features: CalibrationSet) -> list[IntArray]:
    """Tokens of the items that are not empty, in the order of `utterances`.

    Raises:
        UsageError: an item without tokens.
    """
    lengths = np.concatenate(features.lengths)
    if len(features.tokens) != len(lengths) or not all(map(len, features.tokens)):
        raise UsageError(
            f"calibration: {len(lengths)} utterances, but tokens for {len(features.tokens)}",
            "give every utterance the tokens that the decoder reads, the prompt at least",
        )
    return [tokens for tokens, length in zip(features.tokens, lengths, strict=True) if length > 0]


def merged(first: ScaleTable, second: ScaleTable) -> ScaleTable:
    """One table of two graphs, whose layers and tensors differ in name."""
    parts = {}
    for name in ("activations", "weights", "alphas", "corrected"):
        one, other = getattr(first, name), getattr(second, name)
        assert not one.keys() & other.keys(), f"both graphs have {name} of the same name"
        parts[name] = {**one, **other}
    return ScaleTable(**parts)


def teacher_tokens(
    graphs: PairGraphs, features: CalibrationSet, generation: Generation, frames_per_second: float
) -> CalibrationSet:
    """Give every item tokens that the FP32 model itself says to its features: prompt, then a sample, without an end.

    Each next token is drawn from softmax(logits) by the Gumbel-max trick (Gumbel 1954): it is the largest of logits + g
    with independent g = -log(-log(u)), u uniform in (0, 1). A sample ends before a token that ends transcripts, or
    after 4 tokens per second of audio, though not before 8, or at the model's longest text.

    Args:
        graphs: FP32.
        features: of every item; its seed decides the sample, item by item.
        generation: prompt, ends, and tokens that must not be generated.
        frames_per_second: of the features.
    """
    decoder, rules = open_session(graphs.decoder), biases(generation, vocabulary_size(graphs.decoder))
    encoded = encoder_outputs(graphs, features)
    found = []
    for index, length in enumerate(np.concatenate(features.lengths).tolist()):
        if length <= 0:
            found.append(np.array(generation.prompt, np.int64))
            continue
        voice = Voice(decoder, next(encoded), rules, np.random.default_rng([features.seed, index]))
        room = max(FEWEST_TOKENS, round(TOKENS_PER_SECOND * length / frames_per_second))
        found.append(sampled(voice, generation, room))
    return replace(features, tokens=tuple(found))


@dataclass(frozen=True)
class Voice:
    """A decoder that says something to one utterance.

    Attributes:
        decoder: ONNX Runtime session.
        encoded: outputs of the encoder, by name.
        rules: name -> float32 [V] added to the last logits.
        generator: of the noise.
    """

    decoder: Any
    encoded: Mapping[str, Array]
    rules: Mapping[str, FloatArray]
    generator: np.random.Generator

    def next_token(self, tokens: Sequence[int], rule: str) -> int:
        """A token behind others, drawn from the decoder's probabilities."""
        bias = self.rules[rule]
        inputs = decoder_inputs(self.encoded, np.array(tokens, np.int64), len(bias))
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
