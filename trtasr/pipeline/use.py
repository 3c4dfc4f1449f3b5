"""What one does with a finished bundle: bench, inspect, estimate, transcribe."""

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from trtasr.audio.manifest import ManifestEntry, read_manifests
from trtasr.audio.prepare import Listener
from trtasr.audio.read import Reading
from trtasr.audio.source import audio_files
from trtasr.bench.roofline import roofline
from trtasr.bundle import REPAIR, open_bundle
from trtasr.engine.faults import model_errors
from trtasr.engine.sessions import load_model
from trtasr.errors import AudioError, BundleError, UsageError
from trtasr.files.read import Source
from trtasr.graph.own_part import own_patterns
from trtasr.graph.qdq import decide, int8_nodes
from trtasr.graph.traffic import layer_traffic
from trtasr.network.network import accepted
from trtasr.pipeline.measure import Subject, measure_rows, rows_of, transcriber
from trtasr.pipeline.opened import open_engine, usable_gpu
from trtasr.recipe import Evaluation
from trtasr.results import BenchResult, LayerRow, Roofline, Traffic
from trtasr.targets.t4 import T4

logger = logging.getLogger(__name__)
LONGEST = 3600  # seconds of audio that an estimate accepts


def bench_bundle(path: Path, manifests: Sequence[Path], settings: Evaluation | None = None) -> tuple[BenchResult, ...]:
    """Measure a bundle again: latency here, and WER when there are manifests (given, or the recipe's own).

    Returns:
        FP32 first, then each engine.
    """
    opened = open_engine(path)
    evaluation = settings or opened.recipe.evaluation
    network = opened.network
    subject = Subject(path, network, evaluation, accepted(opened.recipe.engine, network.described), usable_gpu())
    engines = [opened.engine(target, subject.gpu) for target in opened.bundle.sidecar.engines]
    for engine in engines:
        opened.files(engine.measured)  # what is measured is what was built
    rows = rows_of(path, opened.graphs("fp32"), engines)
    sources = tuple(manifests) or opened.manifests
    if not sources and opened.recipe.evaluation.manifest:
        logger.warning(
            "%s: WER is not measured: the recipe's manifest %s is not here; name one with --manifest",
            path,
            ", ".join(opened.recipe.evaluation.manifest),
        )
    items = opened.heard(read_manifests(sources), evaluation.bench_seconds)
    return measure_rows(subject, rows, items).results


def engine_layers(path: Path) -> dict[str, tuple[LayerRow, ...]]:
    """Layer table of every engine of a bundle.

    Raises:
        BundleError: no bundle there, or a table that no compile writes.
    """
    file = open_bundle(path).file("layers.json")
    return Source(file, BundleError, REPAIR).json(dict[str, tuple[LayerRow, ...]])


def estimate_bundle(path: Path, batch: int, seconds: float) -> Roofline:
    """Roofline estimate of a bundle's network on a T4, INT8 where TensorRT's rules for the T4 allow it.

    A part that runs once per token is counted for as many tokens as so much speech has, and reads its weights anew for
    each.

    Raises:
        UsageError: no positive batch or length. BundleError: no bundle there.
    """
    opened = open_engine(path)
    network = opened.network
    longest = min(LONGEST, network.described.most_frames / network.frontend.frames_per_second)
    if batch < 1 or not 0 < seconds <= longest:
        raise UsageError(
            f"--batch {batch} --seconds {seconds:g}", f"give a positive batch and a length of at most {longest:g} s"
        )
    steps = [part.steps(seconds) for part in network.parts]
    layers: list[Traffic] = []
    int8: set[str] = set()
    with model_errors(f"{path}: FP32 graphs"):
        graphs = [load_model(graph) for graph in opened.graphs("fp32")]
        excludes = own_patterns(opened.recipe.quantization.exclude, graphs)
        for model, exclude, (positions, runs) in zip(graphs, excludes, steps, strict=True):
            layers += layer_traffic(model, batch, positions, runs)
            int8.update(int8_nodes(decide(model, (*T4.graph_rules(model), *T4.rules), exclude)))
    tokens = steps[-1][1] if network.unit == "tokens" else 0
    return roofline(layers, int8, batch, seconds, tokens)


@dataclass(frozen=True)
class Transcript:
    """What became of one audio file.

    Attributes:
        audio_filepath: as named, or found in a folder.
        pred_text: the transcript.
        fault: why there is none; None: there is one.
    """

    audio_filepath: str
    pred_text: str = ""
    fault: AudioError | None = None


def transcribe_files(
    path: Path, target: str, given: Sequence[Path], channel: int | None = None
) -> Iterator[Transcript]:
    """The transcript of each audio file, one after another; a file that cannot be used stops none of the others.

    Args:
        path: of the bundle.
        target: what is run.
        given: files, folders of files, ``-`` for standard input.
        channel: the one that is heard, from 0; None: the mean of all.

    Raises:
        AudioError: a folder without audio.
    """
    opened, files = open_engine(path), audio_files(given)
    engine = opened.runnable(target)
    listen = Listener(opened.network.frontend, Reading(channel, opened.limits(engine)))
    with opened.network.open(engine) as recognizer:
        transcribed = transcriber(recognizer)
        lines = len(files) == 1 or sys.stdout.isatty()  # that are printed show the progress
        for file in tqdm(files, desc="transcribe", unit="file", leave=False, disable=True if lines else None):
            try:
                text = transcribed(listen(ManifestEntry(file, 0.0, "")))
            except AudioError as fault:
                yield Transcript(str(file), fault=fault)
            else:
                yield Transcript(str(file), text)
