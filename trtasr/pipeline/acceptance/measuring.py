"""Steps that run plans: speed, WER, outputs beside FP32's, layer by layer in time and in error."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from trtasr.audio.prepare import examples
from trtasr.engine.device import watched
from trtasr.network.network import Files
from trtasr.pipeline.acceptance.building import Scene, job_of, scene
from trtasr.pipeline.acceptance.steps import BASE, BASELINES, REFERENCE, Request, slug
from trtasr.pipeline.acceptance.verdict import layers_json
from trtasr.pipeline.compare import compare_first, errors_by_layer
from trtasr.pipeline.gates import disagreements
from trtasr.pipeline.job import Job
from trtasr.pipeline.measure import Row, Subject, row_wer, rows_of, with_layer_times
from trtasr.pipeline.record import gpu_json
from trtasr.pipeline.speed import gpu_timing, latencies
from trtasr.results import Engine, plain

Tell = Callable[[Mapping[str, Any]], None]
COMPARED = 4  # utterances of the comparison by layer


def engine_of(request: Request) -> Engine:
    """What the build of the request's subject gave."""
    return engines_of(request)[request.subject]


def engines_of(request: Request) -> dict[str, Engine]:
    """Variant or baseline -> what its build gave."""
    return {
        name.removesuffix(": build"): msgspec.convert(found["engine"], Engine)
        for name, found in request.given.items()
        if "engine" in found
    }


def subject_of(request: Request, job: Job) -> Subject:
    """Whose engine is measured."""
    gpu = job.host.gpu if job.host else ""
    return Subject(request.place, job.network, job.recipe.evaluation, job.profile, gpu)


def measure_latency(request: Request, tell: Tell) -> None:
    """Latency of a baseline alone, or of a variant in turns with the baselines; clocks and power meanwhile."""
    job = job_of(request)
    plans: dict[str, Files] = {}
    for name, engine in sorted(engines_of(request).items(), key=lambda item: item[0] not in BASELINES):
        place = request.out / (BASE if name in BASELINES else slug(name))
        plans[engine.target] = tuple(place / path for path in engine.measured)
    subject = subject_of(request, job)
    timing = gpu_timing(subject.evaluation, subject.profile, job.network.frontend, subject.gpu)
    with watched() as states:
        speed = latencies(job.network, plans, timing)
    tell({"latencies": plain(speed), "gpu": gpu_json(states)})


def measure_wer(request: Request, tell: Tell) -> None:
    """WER of a plan, or of the FP32 graphs.

    Raises:
        QualityError: unusable output, or an FP32 that recognizes too little.
    """
    job = job_of(request)
    reference = job.network.files(request.out / BASE)
    engines = [] if request.subject == REFERENCE else [engine_of(request)]
    row: Row = rows_of(request.place, reference, engines)[-1]
    wer, note = row_wer(subject_of(request, job), row, job.utterances)
    tell({"wer": plain(wer), "note": note, "size_bytes": row.known.size_bytes})


def compare_outputs(request: Request, tell: Tell) -> None:
    """A variant's outputs beside those of FP32, through Polygraphy.

    Raises:
        QualityError: NaN or infinity.
    """
    found = scene(request)
    comparison = compare_first(found.graphs, engine_of(request), found.job.utterances, found.job.recipe)
    tell({"comparison": plain(comparison), "problems": disagreements(comparison)})


def measure_layers(request: Request, tell: Tell) -> None:
    """Time of every layer of a variant's plan, where its network is one graph."""
    job = job_of(request)
    tell(layers_json(with_layer_times(subject_of(request, job), engine_of(request)).layers))


def compare_inside(request: Request, tell: Tell) -> None:
    """Error of every layer of a variant, FP32 in ONNX Runtime as the reference."""
    found: Scene = scene(request)
    engine, job = engine_of(request), found.job
    items = examples(job.utterances[:COMPARED])
    graphs = found.graphs.files, tuple(request.place / name for name in engine.graphs)
    tell({"layer_sqnr_db": plain(errors_by_layer(job.network, job.recipe.engine, graphs, items, engine.target))})
