"""From audio to the numbers: prepared utterances, transcripts, WER and latency of one engine after another."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from trtasr.audio.frontend import Frontend, frames_of
from trtasr.audio.prepare import Utterances
from trtasr.bench.latency import Plan, interleave
from trtasr.bench.wer import evaluate
from trtasr.engine.compare import ort_observer
from trtasr.engine.faults import REPAIR
from trtasr.engine.memory import MemoryLimit
from trtasr.engine.sessions import OrtRunner, cpu_name
from trtasr.engine.trt_run import open_plan
from trtasr.errors import AudioError, BundleError
from trtasr.files.cpus import threads as usual_threads
from trtasr.network.pair_run import (
    PairRunner,
    Texts,
    benchmark_tokens,
    decoding,
    generation_of,
    is_beyond,
    is_pair,
    limit_of,
    pair_latencies,
)
from trtasr.recipe import Evaluation
from trtasr.results import Latency, Prepared, WerResult
from trtasr.text.ctc import greedy
from trtasr.values import FloatArray, IntArray

logger = logging.getLogger(__name__)

Runner = Callable[[FloatArray, IntArray], tuple[Any, IntArray]]


def decoder(texts: Texts) -> Callable[[Any, IntArray], list[str]]:
    """What an engine gives -> transcripts.

    CTC: log-probabilities [B, T, V + 1] and lengths [B], read greedily. Encoder-decoder: token ids [B, L] and counts.
    """
    tokens, blank = texts.tokens, len(texts.tokens.vocabulary)

    def read(log_probs: FloatArray, lengths: IntArray) -> list[str]:
        if log_probs.shape[2] != blank + 1:
            raise BundleError(
                f"the model scores {log_probs.shape[2]} tokens, but its vocabulary has {blank} and the blank", REPAIR
            )
        return [tokens.decode(ids) for ids in greedy(log_probs, lengths, blank)]

    def written(ids: IntArray, counts: IntArray) -> list[str]:
        return [tokens.decode(row[:count].tolist()) for row, count in zip(ids, counts, strict=True)]

    return written if texts.generation else read


@contextmanager
def running(engine: Path, texts: Texts) -> Iterator[Runner]:
    """An engine ready to run: a TensorRT plan on the GPU, an ONNX graph by ONNX Runtime on all usable CPUs.

    Raises:
        MissingError: a plan without its GPU, TensorRT or pycuda.
    """
    if is_pair(engine):
        with decoding(engine, texts) as found:
            yield PairRunner(found, texts)
    elif engine.suffix == ".plan":
        with open_plan(engine) as runner:
            yield runner
    else:
        yield OrtRunner(engine)


def word_error_rate(engine: Path, utterances: Sequence[Prepared], texts: Texts, settings: Evaluation) -> WerResult:
    """WER and CER of one engine: a plan on the GPU, or a graph by ONNX Runtime on all usable CPUs.

    Raises:
        QualityError: NaN, or empty or constant transcripts. AudioError: an utterance that memory is not enough for.
    """
    if isinstance(utterances, Utterances) and len(utterances) and engine.suffix != ".plan":
        name, seconds = utterances.longest
        rows, rate = len(utterances[0].features), texts.frames_per_second
        MemoryLimit(engine, rows, rate, settings.batch)(Path(name), seconds)
    with running(engine, texts) as run:
        return evaluate(run, decoder(texts), utterances, settings.normalizer, settings.batch)


def latencies(
    graphs: Mapping[str, Path], config: Frontend, settings: Evaluation, texts: Texts
) -> dict[str, tuple[Latency, ...]]:
    """Latency of each graph at every benchmarked length, batch 1; graphs take turns, so that noise hits all alike.

    Args:
        graphs: label -> ONNX file.
        config: of the front-end, turns seconds into frames.
        settings: lengths and threads.
        texts: rules of an encoder-decoder.
    """
    threads = settings.threads or usual_threads()
    plans = [Plan(seconds, 1, threads, cpu_name()) for seconds in settings.bench_seconds]
    shapes = [
        np.random.default_rng(0).standard_normal((1, config.rows, frames_of(seconds, config)), np.float32)
        for seconds in settings.bench_seconds
    ]
    if texts.generation:
        with ExitStack() as stack:
            engines = {
                label: stack.enter_context(decoding(path, texts, threads, timed=True)) for label, path in graphs.items()
            }
            given = [
                (features, benchmark_tokens(plan.audio_seconds, generation_of(texts)))
                for features, plan in zip(shapes, plans, strict=True)
            ]
            return pair_latencies(engines, given, generation_of(texts), plans)
    runners = {label: OrtRunner(path, threads, timed=True) for label, path in graphs.items()}
    measured: dict[str, tuple[Latency, ...]] = dict.fromkeys(graphs, ())
    for features, plan in zip(shapes, plans, strict=True):
        lengths = np.array([features.shape[2]], np.int64)
        runs = {label: _whole_run(run, features, lengths) for label, run in runners.items()}
        for label, latency in interleave(runs, plan).items():
            measured[label] += (latency,)
    return measured


def _whole_run(run: Runner, features: FloatArray, lengths: IntArray) -> Callable[[], None]:
    def whole() -> None:
        run(features, lengths)

    return whole


def transcriber(run: Runner, texts: Texts) -> Callable[[Prepared], str]:
    """An utterance -> its transcript; one without a full frame is empty, one too long for the graph an AudioError."""
    decode = decoder(texts)

    def transcribed(item: Prepared) -> str:
        if item.frames == 0:
            logger.warning("%s: shorter than one feature frame", item.audio_filepath)
            return ""
        try:
            found, lengths = run(item.features[None], np.array([item.frames], np.int64))
        except AudioError as error:
            raise AudioError(f"{item.audio_filepath}: {error.problem}", error.repair) from error
        if texts.generation and any(getattr(run, "cut", ())):
            words = "%s: the transcript lacks its end: it is stopped by %s"
            logger.warning(words, item.audio_filepath, limit_of(texts.generation, item.duration))
        elif texts.generation and is_beyond(texts.generation, item.duration):
            words = "%s: %.0f s need more than the %d tokens that the decoder writes at most; give shorter recordings"
            logger.warning(words, item.audio_filepath, item.duration, texts.generation.max_length)
        return decode(found, lengths)[0]

    return transcribed


def feeds(items: Iterable[Prepared]) -> list[tuple[FloatArray, IntArray]]:
    """Network inputs of each utterance alone: features [1, mel, T] and lengths [1]; empty utterances are left out."""
    return [(item.features[None], np.array([item.frames], np.int64)) for item in items if item.frames > 0]


def log_probs(graph: Path, inputs: Iterable[tuple[FloatArray, IntArray]]) -> list[FloatArray]:
    """Log-probabilities [T, tokens] of every utterance, by ONNX Runtime; inputs as from `feeds`."""
    observe = ort_observer(graph, ["log_probs"])
    return [observe(features, lengths)["log_probs"][0] for features, lengths in inputs]
