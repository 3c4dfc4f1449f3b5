"""Encoder-decoder engines: which files they are, how they run, how long they take."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np

from trtasr.audio.frontend import Frontend
from trtasr.audio.read import Refuse
from trtasr.audio.waveform import SHORTEST, WaveformConfig
from trtasr.bench.latency import Plan, interleave
from trtasr.bundle import REPAIR, Bundle, restore_tokenizer
from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.engine.compare_pair import ENCODER, decoder_beside
from trtasr.engine.ort_generate import OrtDecoding
from trtasr.engine.trt_generate import open_pair
from trtasr.errors import AudioError, BundleError, QualityError, RecipeError, path_text
from trtasr.results import SIDECAR, Latency, Prepared
from trtasr.text.generate import Decoding, Generated, Generation, biases, greedy
from trtasr.text.tokens import Tokenizer
from trtasr.values import FloatArray, IntArray

decoder_of = decoder_beside  # the decoder file of an encoder file
TOKENS_PER_SECOND = 4.0  # of speech, in a benchmark without speech: read English has about three words a second


@dataclass(frozen=True)
class Texts:
    """How an engine's output becomes text.

    Attributes:
        tokens: ids -> text.
        generation: how tokens are generated; None for CTC, whose output is read at once.
        frames_per_second: of the features.
    """

    tokens: Tokenizer
    generation: Generation | None = None
    frames_per_second: float = 100.0


def texts_of(checkpoint: Checkpoint) -> Texts:
    """The rules of a checkpoint."""
    return Texts(checkpoint.tokenizer, checkpoint.generation, checkpoint.frontend.frames_per_second)


def texts_from(bundle: Bundle, frames_per_second: float) -> Texts:
    """The rules that a bundle holds.

    Raises:
        BundleError: an unusable tokenizer, or rules of generation that name tokens which the vocabulary does not have,
            or end nowhere.
    """
    rules, tokens = bundle.sidecar.generation, restore_tokenizer(bundle)
    if rules and (fault := rules.fault(len(tokens.vocabulary))):
        raise BundleError(f"{bundle.path / SIDECAR}: generation: {fault}", REPAIR)
    return Texts(tokens, rules, frames_per_second)


def is_pair(engine: Path) -> bool:
    """True for the encoder file of an encoder-decoder."""
    return engine.name.startswith(f"{ENCODER}.")


def files_of(engine: Path) -> tuple[Path, ...]:
    """The files that an engine, named by its first one, consists of."""
    return (engine, decoder_of(engine)) if is_pair(engine) else (engine,)


@contextmanager
def decoding(engine: Path, texts: Texts, threads: int = 0, timed: bool = False) -> Iterator[Decoding]:
    """An encoder-decoder ready to run: plans on the GPU, graphs by ONNX Runtime; ``threads``, ``timed``: of the latter.

    Raises:
        MissingError: plans without their GPU, TensorRT or pycuda.
    """
    rules = biases(generation_of(texts), len(texts.tokens.vocabulary))
    if engine.suffix == ".plan":
        with open_pair(engine, decoder_of(engine), rules) as found:
            yield found
    else:
        yield OrtDecoding(engine, decoder_of(engine), rules, threads, timed)


def generation_of(texts: Texts) -> Generation:
    """The rules of an encoder-decoder."""
    assert texts.generation is not None, "a CTC model generates nothing"
    return texts.generation


class PairRunner:
    """Features in, token ids out, as a CTC engine gives log-probabilities.

    Args:
        decoder: what runs the graphs.
        texts: rules of generation.

    Attributes:
        cut: of the last batch, which transcripts were stopped by their longest length.
    """

    def __init__(self, decoder: Decoding, texts: Texts) -> None:
        self._decoding, self._generation = decoder, generation_of(texts)
        self._rate = texts.frames_per_second
        self.cut: tuple[bool, ...] = ()

    def __call__(self, features: FloatArray, lengths: IntArray) -> tuple[IntArray, IntArray]:
        """Features float32 [B, rows, T], lengths int64 [B] -> token ids [B, L] without the prompt, counts [B]."""
        found = self.generate(features, lengths)
        counts = np.array([len(row) for row in found.tokens], np.int64)
        tokens = np.full((len(counts), max(1, int(counts.max()))), self._generation.end[0], np.int64)
        for row, ids in zip(tokens, found.tokens, strict=True):
            row[: len(ids)] = ids
        return tokens, counts

    def said(self, features: FloatArray, lengths: IntArray) -> IntArray:
        """Prompt and generated tokens of one utterance, int64 [L]."""
        found = self.generate(features, lengths)
        return np.array([*found.prompts[0], *found.tokens[0]], np.int64)

    def generate(self, features: FloatArray, lengths: IntArray) -> Generated:
        """Greedy generation.

        Raises:
            QualityError: the decoder gives NaN or infinity.
        """
        seconds = np.asarray(lengths / self._rate, np.float32)
        found = greedy(self._decoding, features, lengths, seconds, self._generation)
        if not np.isfinite(found.log_probs).all():
            raise QualityError(
                "the decoder's log-probabilities hold NaN or infinity",
                "calibrate again; if it stays, report the checkpoint and recipe",
            )
        self.cut = found.cut
        return found


def limit_of(generation: Generation, seconds: float) -> str:
    """What stops the transcript of so many seconds of audio, and what can be done about it."""
    rate = generation.tokens_per_second
    if 0 < seconds * rate < generation.max_length:
        return f"{rate:g} tokens per second; generation.tokens_per_second of the recipe changes that"
    return f"the {generation.max_length} tokens that the decoder writes at most; give shorter recordings"


def is_beyond(generation: Generation, seconds: float) -> bool:
    """Whether speech at the usual rate of so many seconds needs more tokens than the decoder may write.

    A decoder that was never trained on so much audio may end early by itself, after a sentence that nobody said.
    """
    return seconds * generation.tokens_per_second > generation.max_length


@dataclass
class Timed:
    """Runs one utterance with a fixed number of tokens and keeps how long the encoder took.

    Attributes:
        decoding: what runs the graphs.
        features: [B, rows, T]; lengths: [B].
        generation: its prompt comes first; then as many tokens as there are.
        tokens: generated, whatever they are.
        encoder_ms: of every run.
    """

    decoding: Decoding
    features: FloatArray
    lengths: IntArray
    generation: Generation
    tokens: int
    encoder_ms: list[float]

    def __call__(self) -> None:
        """One whole run."""
        start = perf_counter()
        self.decoding.begin(self.features, self.lengths)
        self.encoder_ms.append(1e3 * (perf_counter() - start))
        prompts = np.tile(np.array(self.generation.prompt, np.int64), (len(self.lengths), 1))
        found, _ = self.decoding.step(prompts, "first")
        for _ in range(self.tokens - 1):
            found, _ = self.decoding.step(found[:, None], "later")


def pair_latencies(
    engines: Mapping[str, Decoding],
    shapes: Sequence[tuple[FloatArray, int]],
    generation: Generation,
    plans: Sequence[Plan],
) -> dict[str, tuple[Latency, ...]]:
    """Latency of encoder-decoders, whole utterances from features to the last token; engines take turns.

    Args:
        engines: label -> ready to run.
        shapes: per length, features [B, rows, T] and the number of tokens to generate.
        generation: rules.
        plans: per length, how it is timed.

    Returns:
        label -> one latency per length, with the median time of the encoder alone.
    """
    measured: dict[str, tuple[Latency, ...]] = dict.fromkeys(engines, ())
    for (features, tokens), plan in zip(shapes, plans, strict=True):
        lengths = np.full(len(features), features.shape[2], np.int64)
        runs = {label: Timed(found, features, lengths, generation, tokens, []) for label, found in engines.items()}
        for label, latency in interleave(runs, plan).items():
            encoder = float(np.median(runs[label].encoder_ms[plan.warmup :]))
            measured[label] += (replace(latency, encoder_ms=encoder, tokens=tokens),)
    return measured


def refuse_longer(config: Frontend, most: int, utterances: Sequence[Prepared], benchmarks: Sequence[float]) -> None:
    """Refuse what a model cannot hear whole: it would be cut, or end in an error of the runtime.

    Args:
        config: of the front-end.
        most: feature frames that the encoder has positions for.
        utterances: to be transcribed.
        benchmarks: seconds of audio to be timed with.

    Raises:
        AudioError: a longer utterance. RecipeError: a longer benchmark, or one too short for a single position.
    """
    rate, refuse = config.frames_per_second, refuse_above(config, most)
    longest, shortest = most / rate, shortest_frames(config) / rate
    for item in utterances:
        refuse(Path(item.audio_filepath), item.duration)
    if any(not shortest <= seconds <= longest for seconds in benchmarks):
        raise RecipeError(
            f"evaluation.bench_seconds = {list(benchmarks)}: the model hears {shortest:g} to {longest:g} s",
            "leave out what is longer or shorter",
        )


def refuse_above(config: Frontend, most: int) -> Refuse:
    """What refuses audio of more than so many feature frames: a file and its seconds -> AudioError."""
    rate = config.frames_per_second

    def refuse(path: Path, seconds: float) -> None:
        if int(seconds * rate + 1e-6) > most:
            raise AudioError(
                f"{path_text(path)}: {seconds:.3f} s, but the model hears at most {most / rate:g} s",
                f"cut it at pauses into files of at most {most / rate:g} s, or leave it out",
            )

    return refuse


def shortest_frames(config: Frontend) -> int:
    """Feature frames that give one encoder position."""
    return SHORTEST if isinstance(config, WaveformConfig) else 1


def benchmark_tokens(seconds: float, generation: Generation) -> int:
    """Tokens that an utterance of this length is timed with."""
    rate = min(TOKENS_PER_SECOND, generation.tokens_per_second or TOKENS_PER_SECOND)
    return max(1, min(round(rate * seconds), generation.max_length - len(generation.prompt)))
