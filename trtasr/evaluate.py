"""From audio to the numbers: prepared utterances, transcripts, WER and latency of one engine after another."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from trtasr.audio.features import FrontendConfig, MelFrontend
from trtasr.audio.manifest import ManifestEntry
from trtasr.audio.read import read_audio
from trtasr.bench.latency import Plan, interleave
from trtasr.bench.wer import Prepared, evaluate
from trtasr.engine.compare import ort_observer
from trtasr.engine.run import OrtRunner, cpu_name
from trtasr.engine.trt_run import open_plan
from trtasr.recipe import Evaluation
from trtasr.text.ctc import greedy
from trtasr.text.normalize import NORMALIZER, basic_en_v1
from trtasr.text.tokens import tokenizer
from trtasr.values import FloatArray, IntArray, Latency, WerResult

logger = logging.getLogger(__name__)

Runner = Callable[[FloatArray, IntArray], tuple[FloatArray, IntArray]]


def prepare(entries: Iterable[ManifestEntry], frontend: FrontendConfig) -> list[Prepared]:
    """Read every utterance and compute its features, cut to its valid frames (at least one).

    Raises:
        AudioError: naming the file.
    """
    mel = MelFrontend(frontend)
    prepared = []
    for entry in tqdm(list(entries), desc="features", unit="utt", disable=None):
        samples = read_audio(entry.audio_filepath, frontend.sample_rate, *entry.segment)
        features, frames = features_of(samples, mel)
        prepared.append(Prepared(str(entry.audio_filepath), len(samples) / frontend.sample_rate, entry.text,
                                 features, frames))  # fmt: skip
    return prepared


def features_of(samples: FloatArray, mel: MelFrontend) -> tuple[FloatArray, int]:
    """Features float32 [mel, T] of one utterance and its valid frames T (0 when shorter than one stride)."""
    features, frames = mel(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    count = int(frames[0])
    return features[0, :, : max(count, 1)].numpy(), count


def decoder(vocabulary: tuple[str, ...]) -> Callable[[FloatArray, IntArray], list[str]]:
    """Greedy CTC: log-probabilities [B, T, V + 1] and lengths [B] -> transcripts."""
    tokens = tokenizer(vocabulary)

    def decode(log_probs: FloatArray, lengths: IntArray) -> list[str]:
        return [tokens.decode(ids) for ids in greedy(log_probs, lengths, tokens.blank)]

    return decode


@contextmanager
def running(engine: Path) -> Iterator[Runner]:
    """An engine ready to run: a TensorRT plan on the GPU, an ONNX graph by ONNX Runtime on all cores.

    Raises:
        MissingError: a plan without its GPU, TensorRT or pycuda.
    """
    if engine.suffix == ".plan":
        with open_plan(engine) as runner:
            yield runner
    else:
        yield OrtRunner(engine)


def word_error_rate(engine: Path, utterances: list[Prepared], vocabulary: tuple[str, ...], batch: int) -> WerResult:
    """WER of one engine: a plan on the GPU, or a graph by ONNX Runtime on all cores.

    Raises:
        QualityError: NaN, or empty or constant transcripts.
    """
    with running(engine) as run:
        return evaluate(run, decoder(vocabulary), utterances, basic_en_v1, NORMALIZER, batch)


def latencies(graphs: Mapping[str, Path], frontend: FrontendConfig, settings: Evaluation,
              rows: int) -> dict[str, tuple[Latency, ...]]:  # fmt: skip
    """Latency of each graph at every benchmarked length, batch 1; graphs take turns, so that noise hits all alike.

    Args:
        graphs: label -> ONNX file.
        frontend: turns seconds into frames.
        settings: lengths and threads.
        rows: feature rows.
    """
    threads = settings.threads or os.cpu_count() or 1
    runners = {label: OrtRunner(path, threads) for label, path in graphs.items()}
    measured: dict[str, tuple[Latency, ...]] = dict.fromkeys(graphs, ())
    for seconds in settings.bench_seconds:
        frames = max(1, round(seconds * frontend.frames_per_second))
        features = np.random.default_rng(0).standard_normal((1, rows, frames), np.float32)
        lengths = np.array([frames], np.int64)
        plan = Plan(seconds, 1, threads, cpu_name())
        runs = {label: _whole_run(run, features, lengths) for label, run in runners.items()}
        for label, latency in interleave(runs, plan).items():
            measured[label] += (latency,)
    return measured


def _whole_run(run: Runner, features: FloatArray, lengths: IntArray) -> Callable[[], None]:
    def whole() -> None:
        run(features, lengths)

    return whole


def transcribe(run: Runner, items: Iterable[Prepared], vocabulary: tuple[str, ...]) -> Iterable[tuple[str, str]]:
    """(audio file, transcript) of each utterance, one by one; an utterance without a full frame is empty."""
    decode = decoder(vocabulary)
    for item in items:
        if item.frames == 0:
            logger.warning("%s: shorter than one feature frame", item.audio_filepath)
            yield item.audio_filepath, ""
            continue
        log_probs, lengths = run(item.features[None], np.array([item.frames], np.int64))
        yield item.audio_filepath, decode(log_probs, lengths)[0]


def feeds(items: Iterable[Prepared]) -> list[tuple[FloatArray, IntArray]]:
    """Network inputs of each utterance alone: features [1, mel, T] and lengths [1]; empty utterances are left out."""
    return [(item.features[None], np.array([item.frames], np.int64)) for item in items if item.frames > 0]


def log_probs(graph: Path, inputs: Iterable[tuple[FloatArray, IntArray]]) -> list[FloatArray]:
    """Log-probabilities [T, tokens] of every utterance, by ONNX Runtime; inputs as from `feeds`."""
    observe = ort_observer(graph, ["log_probs"])
    return [observe(features, lengths)["log_probs"][0] for features, lengths in inputs]
