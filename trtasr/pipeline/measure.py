"""One run that measures everything a compile built: WER, latency, layer times, and the comparison with FP32."""

import glob
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from trtasr.audio.frontend import Frontend
from trtasr.bench.latency import Plan
from trtasr.bench.wer import require_recognition
from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.engine.compare import compare
from trtasr.engine.compare_pair import Dictated, compare_pair
from trtasr.engine.inspect import trtexec_profile, with_time_shares
from trtasr.engine.profile import Profile, Shapes
from trtasr.errors import QualityError
from trtasr.files.write import write_json
from trtasr.network.pair_run import (
    Texts,
    benchmark_tokens,
    decoding,
    files_of,
    generation_of,
    is_pair,
    pair_latencies,
    texts_of,
)
from trtasr.pipeline.evaluate import feeds, latencies, word_error_rate
from trtasr.pipeline.gpu import FP16, INT8, LABELS, benchmarked_pair, gpu_latencies, layer_times, noise_input, watched
from trtasr.pipeline.gpu import FP32 as FP32_PLAN
from trtasr.pipeline.lower import FP32, Lowered, Plant
from trtasr.pipeline.pair_speech import spoken_tokens
from trtasr.quant.synthesize import speech_shaped_noise
from trtasr.recipe import Evaluation
from trtasr.results import BenchResult, Comparison, Engine, GpuState, Latency, LayerRow, Prepared, WerResult
from trtasr.values import FloatArray, IntArray

logger = logging.getLogger(__name__)

COMPARED_UTTERANCES = 8
BASELINES = (FP16, FP32_PLAN)
TIMED_HERE = ("fp32", "cpu")  # what ONNX Runtime runs as itself
STAND_IN = "Q/DQ graph, ONNX Runtime"
PROFILE = "t4/profile.json"


@dataclass(frozen=True)
class Measured:
    """What a compile measured.

    Attributes:
        results: FP32 first, then the T4 host's baselines, then one per target.
        layers: layer table of the T4 engine with time shares; empty without a GPU.
        gpu: clocks and power before the GPU benchmark, at its busiest, and after it; empty without a GPU.
    """

    results: tuple[BenchResult, ...]
    layers: tuple[LayerRow, ...] = ()
    gpu: tuple[GpuState, ...] = ()


@dataclass(frozen=True)
class Subject:
    """Whose engines are measured, and how.

    Attributes:
        folder: of the bundle.
        frontend: of the model; texts: how its output becomes text.
        evaluation: what is measured.
        profile: shapes the plans accept.
        gpu: name of the card that runs `t4` plans; empty where none is: their Q/DQ graph stands in for them.
    """

    folder: Path
    frontend: Frontend
    texts: Texts
    evaluation: Evaluation
    profile: Shapes
    gpu: str = ""


@dataclass(frozen=True)
class Row:
    """One engine to be measured.

    Attributes:
        label: as in the table; target: of the engine, or ``fp32``.
        path: what is run for it, relative to the bundle: the engine, or the graph that stands in for it.
        size_bytes: of the engine.
        note: what stands in for it.
    """

    label: str
    target: str
    path: str
    size_bytes: int
    note: str = ""


def rows_of(subject: Subject, graphs: Mapping[str, str], engines: Sequence[Engine]) -> list[Row]:
    """What is measured: the FP32 graph, the T4 host's baselines, then every engine.

    Plans for absent GPUs are measured through their Q/DQ graph; baselines without their GPU are left out.

    Args:
        subject: whose engines.
        graphs: target -> ONNX graph that ONNX Runtime can run for it.
        engines: with path and size.
    """
    size = sum(
        path.stat().st_size
        for graph in files_of(subject.folder / graphs["fp32"])
        for path in graph.parent.glob(f"{glob.escape(graph.name)}*")
    )  # weights have own files
    found = [Row("fp32 (reference)", "fp32", graphs["fp32"], size)]
    for engine in sorted(engines, key=lambda item: item.target not in BASELINES):
        label = LABELS.get(engine.target, f"int8 {engine.target}")
        runs_here = engine.target in TIMED_HERE or (engine.target in LABELS and bool(subject.gpu))
        if runs_here:
            found.append(Row(label, engine.target, engine.path, engine.size_bytes))
        elif engine.target in graphs:
            found.append(Row(label, engine.target, graphs[engine.target], engine.size_bytes, STAND_IN))
    return found


def measure_rows(subject: Subject, rows: Sequence[Row], utterances: Sequence[Prepared]) -> Measured:
    """WER of every row and latency of those this machine can run as themselves, from one run."""
    folder, evaluation = subject.folder, subject.evaluation
    itself = [row for row in rows if not row.note]
    here = {row.target: folder / row.path for row in itself if row.target in TIMED_HERE}
    plans = {row.target: folder / row.path for row in itself if row.target in LABELS}
    speed = latencies(here, subject.frontend, evaluation, subject.texts)
    states: tuple[GpuState, ...] = ()
    if plans:
        with watched() as seen:
            speed |= (
                gpu_pair_latencies(plans, subject)
                if subject.texts.generation
                else gpu_latencies(plans, usual_profile(subject.profile), evaluation, subject.gpu)
            )
        states = tuple(seen)
    results = []
    for row in rows:
        wer, note = row_wer(subject, row, utterances) if utterances else (None, "")
        results.append(BenchResult(row.label, row.target, row.size_bytes, speed.get(row.target, ()), wer, note))
    return Measured(tuple(results), gpu=states)


def gpu_pair_latencies(plans: Mapping[str, Path], subject: Subject) -> dict[str, tuple[Latency, ...]]:
    """Latency of encoder-decoder plans at every benchmarked batch and length, by the clock of the host.

    A front-end that pads gives every length the same features; only the number of tokens differs.
    """
    texts, evaluation = subject.texts, subject.evaluation
    accepted = usual_profile(subject.profile)
    padded = getattr(subject.frontend, "pad_seconds", 0)
    pairs = benchmarked_pair(evaluation, accepted, padded)
    shapes = [
        (noise_input(accepted, batch, padded or seconds)[0], benchmark_tokens(seconds, generation_of(texts)))
        for batch, seconds in pairs
    ]
    timing = [Plan(seconds * batch, batch, 0, subject.gpu, warmup=10) for batch, seconds in pairs]
    with ExitStack() as stack:
        engines = {label: stack.enter_context(decoding(path, texts)) for label, path in plans.items()}
        return pair_latencies(engines, shapes, generation_of(texts), timing)


def usual_profile(shapes: Shapes) -> Profile:
    """The profile in seconds of audio that an encoder or a CTC model has."""
    assert isinstance(shapes, Profile)
    return shapes


def row_wer(subject: Subject, row: Row, utterances: Sequence[Prepared]) -> tuple[WerResult | None, str]:
    """WER of one row and its note; a baseline whose output is unusable has none, and the note says why.

    Raises:
        QualityError: the output of an INT8 engine or of the reference is unusable, or the reference recognizes nothing.
    """
    try:
        found = word_error_rate(subject.folder / row.path, utterances, subject.texts, subject.evaluation)
    except QualityError as error:
        if row.target not in BASELINES:
            raise
        logger.warning("%s: %s", row.label, error.problem)
        return None, error.problem
    if row.target == "fp32":
        require_recognition(found)
    return found, row.note


def measure(
    plant: Plant,
    checkpoint: Checkpoint,
    lowered: Sequence[Lowered],
    engines: Sequence[Engine],
    utterances: Sequence[Prepared],
) -> Measured:
    """Measure what a compile built; on a T4 host layer by layer too."""
    gpu = plant.host.gpu if plant.host else ""
    subject = Subject(
        plant.folder, checkpoint.frontend, texts_of(checkpoint), plant.recipe.evaluation, plant.profile, gpu
    )
    graphs = {"fp32": plant.fp32.name, **{item.target: item.reference for item in lowered}}
    measured = measure_rows(subject, rows_of(subject, graphs, engines), utterances)
    return replace(measured, layers=time_layers(plant, engines)) if gpu and not is_pair(plant.fp32) else measured


def time_layers(plant: Plant, engines: Sequence[Engine]) -> tuple[LayerRow, ...]:
    """The T4 engine's layer table with time shares; the times go to ``t4/profile.json`` in trtexec's form."""
    engine = next(engine for engine in engines if engine.target == INT8)
    times = layer_times(plant.folder / engine.path, usual_profile(plant.profile))
    write_json(plant.folder / PROFILE, trtexec_profile(times))
    return with_time_shares(engine.layers, times)


def timed_engines(engines: Sequence[Engine], measured: Measured) -> tuple[Engine, ...]:
    """The engines, that of the T4 with its measured time shares."""
    return tuple(
        replace(engine, layers=measured.layers) if engine.target == INT8 and measured.layers else engine
        for engine in engines
    )


def compare_first_pair(
    plant: Plant, checkpoint: Checkpoint, lowered: Lowered, features: Sequence[tuple[FloatArray, IntArray]], kind: str
) -> Comparison:
    """Polygraphy comparison of FP32 with the first engine of an encoder-decoder, on the tokens that FP32 generates.

    For a plan its Q/DQ graphs are run by ONNX Runtime, on a T4 host too.
    """
    tokens = [ids for _, ids in spoken_tokens(plant.fp32, features, texts_of(checkpoint))]
    spoken = Dictated(features, tokens, kind)
    return compare_pair(
        plant.fp32, plant.folder / lowered.reference, spoken, plant.folder, ("fp32", f"int8-{lowered.target}")
    )


def compare_first(plant: Plant, lowered: Lowered, engine: Engine, utterances: Sequence[Prepared]) -> Comparison:
    """Polygraphy comparison of FP32 with the first engine: on speech, else on speech-shaped noise.

    A `t4` plan is run itself, on the GPU; for a plan whose GPU is not here its Q/DQ graph is.
    """
    pairs, kind = feeds(utterances[:COMPARED_UTTERANCES]), "audio"
    if not pairs:
        batch, rows, frames = plant.profile.shapes()["features"][1]
        made = speech_shaped_noise((batch, rows, frames), torch.Generator().manual_seed(0)).numpy()
        pairs, kind = [(made, np.full(batch, frames, np.int64))], "synthetic"
    candidate = engine.path if engine.target == INT8 else lowered.reference
    graphs = plant.folder / FP32, plant.folder / candidate
    return compare(*graphs, pairs, plant.folder, ("fp32", f"int8-{lowered.target}"), kind)
