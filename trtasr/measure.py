"""One run that measures everything a compile built: WER, latency, layer times, and the comparison with FP32."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from trtasr.bench.wer import Prepared
from trtasr.bundle import write_json
from trtasr.calibrate import mel_rows
from trtasr.checkpoint.nemo import Checkpoint
from trtasr.engine.compare import compare
from trtasr.engine.gpu_state import GpuState
from trtasr.engine.inspector import trtexec_profile, with_time_shares
from trtasr.evaluate import feeds, latencies, word_error_rate
from trtasr.gpu import INT8, LABELS, gpu_latencies, layer_times, watch
from trtasr.lower import FP32, Lowered, Plant, host_of
from trtasr.quant.synthesize import speech_shaped_noise
from trtasr.values import BenchResult, Comparison, Engine, LayerRow

COMPARED_UTTERANCES = 8
TIMED_HERE = ("fp32", "cpu")  # what ONNX Runtime runs as itself
STAND_IN = "Q/DQ graph, ONNX Runtime"
PROFILE = "t4/profile.json"


@dataclass(frozen=True)
class Measured:
    """What a compile measured.

    Attributes:
        results: FP32 first, then the T4 host's baselines, then one per target.
        layers: layer table of the T4 engine with time shares; empty without a GPU.
        gpu: clocks and power before and after the GPU benchmark; empty without a GPU.
    """

    results: tuple[BenchResult, ...]
    layers: tuple[LayerRow, ...] = ()
    gpu: tuple[GpuState, ...] = ()


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
    note: str = field(default="")


def rows_of(plant: Plant, lowered: Sequence[Lowered], engines: Sequence[Engine]) -> list[Row]:
    """What is measured: the FP32 graph, then every engine; plans for absent GPUs through their Q/DQ graph."""
    graphs = {item.target: item.reference for item in lowered}
    found = [Row("fp32 (reference)", "fp32", FP32, (plant.folder / FP32).stat().st_size)]
    for engine in sorted(engines, key=lambda item: item.target not in (LABELS.keys() - {INT8})):
        label = LABELS.get(engine.target, f"int8 {engine.target}")
        runs_here = engine.target in LABELS or engine.target in TIMED_HERE
        path = engine.path if runs_here else graphs[engine.target]
        found.append(Row(label, engine.target, path, engine.size_bytes, "" if runs_here else STAND_IN))
    return found


def measure(plant: Plant, checkpoint: Checkpoint, lowered: Sequence[Lowered], engines: Sequence[Engine],
            utterances: list[Prepared]) -> Measured:  # fmt: skip
    """WER of every engine and latency of those this machine can run, from one run.

    The WER of a plan for an absent GPU is that of its Q/DQ graph in ONNX Runtime; no latency is given for it.
    """
    folder, evaluation = plant.folder, plant.recipe.evaluation
    rows = rows_of(plant, lowered, engines)
    here = {row.target: folder / row.path for row in rows if row.target in TIMED_HERE}
    speed = latencies(here, checkpoint.frontend, evaluation, mel_rows(checkpoint.frontend))
    plans = {row.target: folder / row.path for row in rows if row.target in LABELS}
    before = (watch(),) if plans else ()
    if plans:
        speed |= gpu_latencies(plans, plant.profile, evaluation, host_of(plant).gpu)
    after = (watch(),) if plans else ()
    results = []
    for row in rows:
        wer = None
        if utterances:
            wer = word_error_rate(folder / row.path, utterances, checkpoint.vocabulary, evaluation.batch)
        results.append(BenchResult(row.label, row.target, row.size_bytes, speed.get(row.target, ()), wer,
                                   row.note if wer else ""))  # fmt: skip
    return Measured(tuple(results), time_layers(plant, engines) if plans else (), before + after)


def time_layers(plant: Plant, engines: Sequence[Engine]) -> tuple[LayerRow, ...]:
    """The T4 engine's layer table with time shares; the times go to ``t4/profile.json`` in trtexec's form."""
    engine = next(engine for engine in engines if engine.target == INT8)
    times = layer_times(plant.folder / engine.path, plant.profile)
    write_json(plant.folder / PROFILE, trtexec_profile(times))
    return with_time_shares(engine.layers, times)


def timed_engines(engines: Sequence[Engine], measured: Measured) -> tuple[Engine, ...]:
    """The engines, that of the T4 with its measured time shares."""
    return tuple(replace(engine, layers=measured.layers) if engine.target == INT8 and measured.layers else engine
                 for engine in engines)  # fmt: skip


def compare_first(folder: Path, lowered: Lowered, utterances: Sequence[Prepared], checkpoint: Checkpoint) -> Comparison:
    """Polygraphy comparison of FP32 with the first target's graph: on speech, else on speech-shaped noise."""
    pairs, kind = feeds(utterances[:COMPARED_UTTERANCES]), "audio"
    if not pairs:
        shape = (2, mel_rows(checkpoint.frontend), round(5 * checkpoint.frontend.frames_per_second))
        made = speech_shaped_noise(shape, torch.Generator().manual_seed(0)).numpy()
        pairs, kind = [(made, np.full(2, shape[2], np.int64))], "synthetic"
    return compare(folder / FP32, folder / lowered.reference, pairs, folder, ("fp32", f"int8-{lowered.target}"), kind)
