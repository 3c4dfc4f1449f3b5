"""The measuring stage: WER and latency of everything that was built, and layer times, in one run."""

import glob
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trtasr.audio.prepare import Utterances
from trtasr.bench.paired import paired_differences
from trtasr.bench.wer import measure_wer, require_recognition
from trtasr.engine.device import watched
from trtasr.engine.inspect import trtexec_profile, with_time_shares
from trtasr.engine.memory import MemoryLimit
from trtasr.engine.profile import Profile
from trtasr.errors import AudioError, QualityError
from trtasr.files.write import write_json
from trtasr.network.network import Files, Network, Recognizer
from trtasr.pipeline.speed import cpu_timing, gpu_timing, latencies, layer_times
from trtasr.recipe import Evaluation
from trtasr.results import BenchResult, Engine, GpuState, Measured, Prepared, WerResult

logger = logging.getLogger(__name__)

PROFILE = "profile.json"  # layer times in trtexec's form, beside the plan


@dataclass(frozen=True)
class Subject:
    """Whose engines are measured, and how.

    Attributes:
        folder: of the bundle.
        network: of all engines.
        evaluation: what is measured.
        profile: feature shapes that the plans accept.
        gpu: name of the card that plans run on; empty where none is.
    """

    folder: Path
    network: Network
    evaluation: Evaluation
    profile: Profile
    gpu: str = ""


@dataclass(frozen=True)
class Row:
    """One engine to be measured.

    Attributes:
        known: its row without figures; the note says what stands in for it.
        files: what is run for it: the engine, or the graphs that stand in for it.
    """

    known: BenchResult
    files: Files


def rows_of(folder: Path, fp32: Files, engines: Sequence[Engine]) -> list[Row]:
    """What is measured: the FP32 graphs, the baselines, then every engine.

    Engines that do not run here are measured through the graphs that stand in for them; baselines are left out then.

    Args:
        folder: of the bundle.
        fp32: graphs.
        engines: what was built.
    """
    size = sum(
        path.stat().st_size
        for graph in fp32
        for path in graph.parent.glob(f"{glob.escape(graph.name)}*")  # large weights have files of their own
    )
    found = [Row(BenchResult("fp32 (reference)", "fp32", size, precision="fp32"), fp32)]
    for item in sorted(engines, key=lambda engine: engine.precision == "int8"):
        if item.measured:
            known = BenchResult(item.label, item.target, item.size_bytes, (), None, item.stand_in)
            known = replace(known, precision=item.precision, absent=item.absent)
            found.append(Row(known, tuple(folder / name for name in item.measured)))
    return found


def measure_rows(subject: Subject, rows: Sequence[Row], utterances: Sequence[Prepared]) -> Measured:
    """WER of every row and latency of those this machine can run as themselves, from one run."""
    network, evaluation = subject.network, subject.evaluation
    itself = {row.known.target: row.files for row in rows if not row.known.note}
    plans = {target: files for target, files in itself.items() if files[0].suffix == ".plan"}
    graphs = {target: files for target, files in itself.items() if target not in plans}
    speed = latencies(network, graphs, cpu_timing(evaluation))
    states: list[GpuState] = []
    if plans:
        timing = gpu_timing(evaluation, subject.profile, network.frontend, subject.gpu)
        with watched() as states:
            speed |= latencies(network, plans, timing)
    results = []
    for row in rows:
        wer, note = row_wer(subject, row, utterances) if utterances else (None, "")
        results.append(replace(row.known, latencies=speed.get(row.known.target, ()), wer=wer, note=note))
    return Measured(compared(results), gpu=tuple(states))


def compared(results: Sequence[BenchResult]) -> tuple[BenchResult, ...]:
    """Every scored row with its differences to FP32, which is the first."""
    first, *others = results
    return first, *(
        replace(row, differences=paired_differences(first.wer, row.wer)) if first.wer and row.wer else row
        for row in others
    )


def row_wer(subject: Subject, row: Row, utterances: Sequence[Prepared]) -> tuple[WerResult | None, str]:
    """WER of one row and its note; a baseline whose output is unusable has none, and the note says why.

    Raises:
        QualityError: the output of an INT8 engine or of the reference is unusable, or the latter recognizes too little.
    """
    try:
        found = word_error_rate(subject.network, row.files, utterances, subject.evaluation)
    except QualityError as error:
        if row.known.precision == "int8" or row.known.target == "fp32":
            raise
        logger.warning("%s: %s", row.known.engine, error.problem)
        return None, error.problem
    if row.known.target == "fp32":
        require_recognition(found)
    return found, row.known.note


def word_error_rate(network: Network, files: Files, utterances: Sequence[Prepared], settings: Evaluation) -> WerResult:
    """WER and CER of one engine: plans on the GPU, or graphs by ONNX Runtime on all usable CPUs.

    Raises:
        QualityError: NaN, or empty or constant transcripts. AudioError: an utterance that memory is not enough for.
    """
    if isinstance(utterances, Utterances) and len(utterances) and files[0].suffix != ".plan":
        name, seconds = utterances.longest
        config = network.frontend
        MemoryLimit(files[0], config.rows, config.frames_per_second, settings.batch)(Path(name), seconds)
    with network.open(files, 0, False) as recognizer:
        return measure_wer(recognizer, utterances, settings.normalizer, settings.batch)


def usable_rate(network: Network, files: Files, utterances: Sequence[Prepared], settings: Evaluation) -> float | None:
    """WER (CER without spaces between words) in percent; None as `usable_result` has it."""
    found = usable_result(network, files, utterances, settings)
    return found.rate if found else None


def usable_result(
    network: Network, files: Files, utterances: Sequence[Prepared], settings: Evaluation
) -> WerResult | None:
    """WER and CER of one engine; None for transcripts all empty or the same, and for NaN."""
    try:
        return word_error_rate(network, files, utterances, settings)
    except QualityError as error:
        logger.warning("control: %s", error.problem)
        return None


def transcriber(recognizer: Recognizer) -> Callable[[Prepared], str]:
    """An utterance -> its transcript; one without a full frame is empty, one too long for the graph an AudioError."""

    def transcribed(item: Prepared) -> str:
        if item.frames == 0:
            logger.warning("%s: shorter than one feature frame", item.audio_filepath)
            return ""
        try:
            found, counts = recognizer.run(item.features[None], np.array([item.frames], np.int64))
        except AudioError as error:
            raise AudioError(f"{item.audio_filepath}: {error.problem}", error.repair) from error
        if doubt := recognizer.doubt(item.duration):
            logger.warning("%s: %s", item.audio_filepath, doubt)
        return recognizer.decode(found, counts)[0]

    return transcribed


def measure(subject: Subject, engines: Sequence[Engine], utterances: Sequence[Prepared]) -> Measured:
    """Measure what a compile built; the INT8 plan that runs here layer by layer too, where a network is one graph."""
    rows = rows_of(subject.folder, subject.network.files(subject.folder), engines)
    measured = measure_rows(subject, rows, utterances)
    return replace(measured, engines=tuple(with_layer_times(subject, engine) for engine in engines))


def with_layer_times(subject: Subject, engine: Engine) -> Engine:
    """An INT8 plan of one graph that runs here with the time shares of its layers; any other engine as it is.

    The times go beside the plan in trtexec's form, as ``t4/profile.json``.
    """
    files = () if engine.stand_in else engine.paths
    if engine.precision != "int8" or [Path(name).suffix for name in files] != [".plan"]:
        return engine
    plan = subject.folder / engine.paths[0]
    times = layer_times(plan, subject.network.frontend, subject.profile)
    write_json(plan.with_name(PROFILE), trtexec_profile(times))
    layers = with_time_shares(engine.layers, times)
    return replace(engine, parts=(replace(engine.parts[0], layers=layers),))
