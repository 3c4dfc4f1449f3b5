"""Attention encoder-decoders: an encoder, then a decoder that runs once per token and keeps what it has seen.

For calibration and comparison the decoder reads all tokens of an utterance at once, with an empty past (teacher
forcing); for transcripts it generates them one after the other.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from trtasr.audio.frontend import frames_of, frontend
from trtasr.audio.log_mel import LogMelConfig
from trtasr.engine.ort_generate import OrtDecoding
from trtasr.engine.profile import DecoderProfile, Shapes
from trtasr.engine.trt_generate import open_pair
from trtasr.errors import QualityError, UsageError
from trtasr.graph.export_pair import export_pair
from trtasr.models.encoder_decoder import no_past
from trtasr.network.network import Described, Files, Network, Original, Outputs, Part, accepted
from trtasr.network.voice import spoken
from trtasr.quant.speech_noise import speech_shaped_audio
from trtasr.recipe import Calibration, EngineShapes
from trtasr.text.generate import Decoding, Generated, Generation, biases, greedy
from trtasr.text.tokens import Tokenizer
from trtasr.values import Array, CalibrationSet, Example, FloatArray, IntArray

PARITY = 1e-3, 3e-2  # of logits
TRIAL_SECONDS, TRIAL_TOKENS = 2.0, 6
TOKENS_PER_SECOND = 4.0  # of speech, in a benchmark without speech: read English has about three words a second
NOISE_LEVEL = 0.1  # standard deviation of white noise in a waveform


def attention(described: Described) -> Network:
    """The wiring: ``encoder`` -> keys and values of the cross-attentions -> ``decoder``, which reads tokens as well."""
    config, rules, size = described.frontend, rules_of(described), len(described.tokenizer.vocabulary)
    encoder = Part(
        "encoder",
        judged="encoded",
        inputs=lambda example, _: {"features": example.features, "lengths": example.lengths},
        rate=config.frames_per_second,
        steps=lambda seconds: (frames_of(seconds, config), 1),
    )
    decoder = Part(
        "decoder",
        judged="logits",
        inputs=lambda example, seen: decoder_inputs(seen, example.tokens, size),
        rate=TOKENS_PER_SECOND,
        steps=lambda seconds: (1, benchmark_tokens(seconds, rules)),
        kept=(),
    )

    @contextmanager
    def open_engine(files: Files, threads: int = 0, timed: bool = False) -> Iterator[AttentionRecognizer]:
        added, about = biases(rules, size), (described.tokenizer, rules, config.frames_per_second)
        if files[0].suffix == ".plan":
            with open_pair(files[0], files[1], added) as found:
                yield AttentionRecognizer(found, *about)
        else:
            yield AttentionRecognizer(OrtDecoding(files[0], files[1], added, threads, timed), *about)

    return Network(described, (encoder, decoder), "tokens", open_engine)


def rules_of(described: Described) -> Generation:
    """The rules of generation, without which there is no decoder."""
    assert described.generation is not None, "an encoder-decoder has rules of generation"
    return described.generation


def decoder_inputs(encoded: Outputs, tokens: IntArray | None, vocabulary: int) -> dict[str, Array]:
    """Inputs of a decoder that reads all tokens, [L] or [B, L], at once behind an encoder's outputs.

    Raises:
        UsageError: no tokens.
    """
    if tokens is None or not tokens.size:
        raise UsageError("an utterance without tokens", "give the tokens that the decoder reads, the prompt at least")
    crosses = {name: value for name, value in encoded.items() if name.startswith("cross_")}
    pasts = {name.replace("cross_", "past_"): value[:, :, :0] for name, value in crosses.items()}
    positions = encoded["positions"]
    return {
        "tokens": tokens.reshape(len(positions), -1),
        "positions": positions,
        "token_bias": np.zeros(vocabulary, np.float32),
        **crosses,
        **pasts,
    }


@dataclass
class AttentionRecognizer:
    """Tokens, generated greedily.

    Attributes:
        decoding: runs the graphs.
        tokenizer: ids -> text.
        generation: rules.
        frames_per_second: of the features.
        cut: of the last batch, which transcripts were stopped by their longest length.
    """

    decoding: Decoding
    tokenizer: Tokenizer
    generation: Generation
    frames_per_second: float
    cut: tuple[bool, ...] = ()
    captured = False  # every step has a longer past than the one before

    def use_graphs(self, _wanted: bool) -> None:
        """There are none."""

    def run(self, features: FloatArray, lengths: IntArray) -> tuple[Array, IntArray]:
        """Features float32 [B, rows, T], lengths int64 [B] -> token ids [B, L] without the prompt, counts [B]."""
        found = self.generate(features, lengths)
        counts = np.array([len(row) for row in found.tokens], np.int64)
        tokens = np.full((len(counts), max(1, int(counts.max()))), self.generation.end[0], np.int64)
        for row, ids in zip(tokens, found.tokens, strict=True):
            row[: len(ids)] = ids
        return tokens, counts

    def decode(self, found: Array, counts: IntArray) -> list[str]:
        """Text of token ids [B, L], of which `counts` [B] are valid."""
        return [self.tokenizer.decode(row[:count].tolist()) for row, count in zip(found, counts, strict=True)]

    def example(self, features: FloatArray, lengths: IntArray) -> Example:
        """One utterance with prompt and generated tokens, int64 [L]."""
        found = self.generate(features, lengths)
        return Example(features, lengths, np.array([*found.prompts[0], *found.tokens[0]], np.int64))

    def generate(self, features: FloatArray, lengths: IntArray) -> Generated:
        """Greedy generation.

        Raises:
            QualityError: the decoder gives NaN or infinity.
        """
        seconds = np.asarray(lengths / self.frames_per_second, np.float32)
        found = greedy(self.decoding, features, lengths, seconds, self.generation)
        if not np.isfinite(found.log_probs).all():
            raise QualityError(
                "the decoder's log-probabilities hold NaN or infinity",
                "calibrate again; if it stays, report the checkpoint and recipe",
            )
        self.cut = found.cut
        return found

    def doubt(self, seconds: float) -> str:
        """A transcript that was stopped, or speech that needs more tokens than the decoder may write.

        A decoder that was never trained on so much audio may end early by itself, after a sentence that nobody said.
        """
        rate, most = self.generation.tokens_per_second, self.generation.max_length
        if any(self.cut):
            return f"the transcript lacks its end: it is stopped by {limit_of(self.generation, seconds)}"
        if seconds * rate > most:
            return f"{seconds:.0f} s need more than {limit_of(self.generation, seconds)}"
        return ""

    def whole_run(self, features: FloatArray, seconds: float) -> "AttentionRun":
        """A benchmarked run with as many tokens as so much speech has."""
        rules, lengths = self.generation, np.full(len(features), features.shape[2], np.int64)
        return AttentionRun(self.decoding, features, lengths, rules, benchmark_tokens(seconds, rules))


def limit_of(generation: Generation, seconds: float) -> str:
    """What stops the transcript of so many seconds of audio, and what can be done about it."""
    rate = generation.tokens_per_second
    if 0 < seconds * rate < generation.max_length:
        return f"{rate:g} tokens per second; generation.tokens_per_second of the recipe changes that"
    return f"the {generation.max_length} tokens that the decoder writes at most; give shorter recordings"


def benchmark_tokens(seconds: float, generation: Generation) -> int:
    """Tokens that an utterance of this length is timed with."""
    rate = min(TOKENS_PER_SECOND, generation.tokens_per_second or TOKENS_PER_SECOND)
    return max(1, min(round(rate * seconds), generation.max_length - len(generation.prompt)))


@dataclass
class AttentionRun:
    """One run of a benchmark, with a fixed number of tokens; see `trtasr.network.network.WholeRun`.

    Attributes:
        decoding: runs the graphs.
        features: [B, rows, T]; lengths: [B].
        generation: its prompt comes first; then as many tokens as there are.
        tokens: generated, whatever they are.
        encoded_ms: time of the encoder, of every run.
    """

    decoding: Decoding
    features: FloatArray
    lengths: IntArray
    generation: Generation
    tokens: int
    encoded_ms: list[float] = field(default_factory=list)

    def __call__(self) -> None:
        """One whole run, timed from outside."""
        start = perf_counter()
        self.decoding.begin(self.features, self.lengths)
        self.encoded_ms.append(1e3 * (perf_counter() - start))
        prompts = np.tile(np.array(self.generation.prompt, np.int64), (len(self.lengths), 1))
        found, _ = self.decoding.step(prompts, "first")
        for _ in range(self.tokens - 1):
            found, _ = self.decoding.step(found[:, None], "later")

    def encoder_ms(self, runs: int) -> float:
        """Median time of the encoder over the last `runs` runs."""
        return float(np.median(self.encoded_ms[-runs:]))


def attention_original(model: Any, network: Network) -> Original:
    """What an encoder-decoder of `trtasr.models` (torch does not know the types of its parts) is to its network.

    The FP32 graphs, one behind the other, may be off by 1e-3 in the logits, or by up to 3e-2 where float32 itself is.
    FADE ranks the layers of the encoder and those of the decoder apart; the keys and values of cross-attentions belong
    to the decoder, although the encoder's graph computes them.
    """
    described, config = network.described, network.frontend
    rules = rules_of(described)

    def export(folder: Path) -> None:
        encoder, decoder = network.files(folder)
        export_pair(model, encoder, decoder, config.rows)

    def unheard(calibration: Calibration, _engine: EngineShapes) -> tuple[FloatArray, IntArray]:
        found = speech_noise(replace(calibration, batches=1, seed=1), described)
        return found.batches[0], found.lengths[0]

    return Original(
        export=export,
        reference=lambda example, dtype: teacher_forced(model, example, dtype),
        trial=trial(described),
        tolerance=PARITY,
        shapes=lambda engine: pair_shapes(model, described, engine),
        synthetic=lambda calibration: speech_noise(calibration, described),
        noise=lambda calibration: white_noise(calibration, described),
        spoken=lambda files, features: spoken(network, files, features, rules),
        unheard=unheard,
        block=lambda layer: "encoder" if layer.startswith("/encoder/") else "decoder",
    )


def trial(described: Described) -> Example:
    """Two utterances of noise, the second one shorter, with random tokens."""
    config, generator = described.frontend, torch.Generator().manual_seed(0)
    frames = round(TRIAL_SECONDS * config.frames_per_second)
    features = torch.randn(2, config.rows, frames, generator=generator).numpy()
    tokens = torch.randint(len(described.tokenizer.vocabulary), (2, TRIAL_TOKENS), generator=generator).numpy()
    return Example(features, np.array([frames, frames * 3 // 5]), tokens)


@torch.no_grad()
def teacher_forced(model: Any, example: Example, dtype: torch.dtype) -> Outputs:
    """Logits [B, L, V] and encoder positions [B] of given tokens.

    Encoder and decoder are converted one after the other, so that a copy of only one of them is held.
    """
    features, lengths = torch.from_numpy(example.features).to(dtype), torch.from_numpy(example.lengths)
    encoded, positions = converted(model.encoder, dtype)(features, lengths)
    decoder = converted(model.decoder, dtype)
    cross = decoder.cross(encoded)
    logits, _ = decoder(torch.from_numpy(example.tokens), no_past(cross), cross, positions)
    return {"logits": logits.numpy(), "positions": positions.numpy()}


def converted(module: Any, dtype: torch.dtype) -> Any:
    """The module itself in float32, else a copy in another type."""
    return module if dtype == torch.float32 else copy.deepcopy(module).to(dtype)


def pair_shapes(model: Any, described: Described, engine: EngineShapes) -> tuple[Shapes, Shapes]:
    """Input shapes of both plans."""
    encoder, rules = accepted(engine, described), rules_of(described)
    frames = torch.tensor([shape[2] for shape in encoder.shapes()["features"]])
    low, usual, high = model.encoder.positions(frames).tolist()
    attentions = [layer.encoder_attn for layer in model.decoder.layers]
    with torch.no_grad():
        key, _ = attentions[0].key_value(torch.zeros(1, 1, model.decoder.embed_tokens.embedding_dim), 1)
    _, heads, _, width = key.shape
    prompt = len(rules.prompt) + bool(rules.languages)  # a language that is detected joins it
    size = len(described.tokenizer.vocabulary)
    cache = len(attentions), heads, width
    return encoder, DecoderProfile(encoder.batches, (low, usual, high), *cache, size, rules.max_length, prompt)


def speech_noise(calibration: Calibration, described: Described) -> CalibrationSet:
    """Speech-shaped noise through the model's own front-end."""
    generator, config = torch.Generator().manual_seed(calibration.seed), described.frontend
    front, count = frontend(config), calibration.batch_size
    found = []
    for _ in range(calibration.batches):
        audio = speech_shaped_audio(count, calibration.seconds, config.sample_rate, generator)
        found.append(front(audio, torch.full((count,), audio.shape[1])))
    batches, lengths = (tuple(item.numpy() for item in side) for side in zip(*found, strict=True))
    return CalibrationSet(batches, lengths, "synthetic", calibration.seed)


def white_noise(calibration: Calibration, described: Described) -> CalibrationSet:
    """What a naive tool takes: Gaussian features of mean 0 and deviation 1; where audio goes in, white noise."""
    generator, config = torch.Generator().manual_seed(calibration.seed), described.frontend
    shape = (calibration.batch_size, config.rows, frames_of(calibration.seconds, config))
    level = 1.0 if isinstance(config, LogMelConfig) else NOISE_LEVEL
    batches = tuple((level * torch.randn(shape, generator=generator)).numpy() for _ in range(calibration.batches))
    lengths = np.full(calibration.batch_size, shape[2], np.int64)
    return CalibrationSet(batches, (lengths,) * len(batches), "noise", calibration.seed)
