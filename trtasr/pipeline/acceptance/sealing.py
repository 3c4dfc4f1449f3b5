"""The last step of a variant: a bundle, with its report, of what the steps before it found."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from trtasr.pipeline.acceptance.building import link, scene
from trtasr.pipeline.acceptance.findings import DONE, Findings, Outcome
from trtasr.pipeline.acceptance.steps import BASE, BASELINES, PREPARE, Request
from trtasr.pipeline.acceptance.verdict import View
from trtasr.pipeline.record import Evidence, record_of, write_record
from trtasr.results import Comparison, Engine, GpuState, Judged, LayerRow, Measured


def seal_bundle(request: Request, tell: Callable[[Mapping[str, Any]], None]) -> None:
    """Write the record of a variant into its folder, which is a bundle then."""
    found = scene(request)
    job = replace(found.job, options=replace(found.job.options, out=request.place))
    outcomes = {name: Outcome(name, DONE, item["seconds"], item) for name, item in request.given.items()}
    view = View(Findings(request.out, outcomes), job.recipe.evaluation)
    name = request.subject
    engines = [with_times(view, name), *(engine for base in BASELINES if (engine := view.engine(base)))]
    for engine in engines[1:]:
        for path in engine.paths:
            (request.place / path).unlink(missing_ok=True)
            link(request.out / BASE / path, request.place / path)
    built = view.found(name, "build")
    evidence = Evidence(
        msgspec.convert(exact(view.found(name, "comparison")["comparison"]), Comparison),
        view.findings.outcomes[PREPARE].found["parity"],
        fidelity=msgspec.convert(exact(built.get("fidelity", [])), tuple[Judged, ...]),
        problems=tuple(view.problems(name)),
    )
    states = tuple(map(state_of, view.found(name, "latency").get("gpu", ())))
    measured = Measured(view.results(name), tuple(engines), states)
    record = record_of(job, {job.recipe.calibration.method: found.table}, measured, evidence)
    record = replace(record, seconds=sum(item.seconds for item in view.of(name).values()))
    write_record(request.place, record, job.checkpoint)
    tell({"bundle": request.place.name, "outcome": record.outcome})


def with_times(view: View, name: str) -> Engine:
    """The engine of a variant, with the time shares of its layers where they were measured."""
    engine, times = view.engine(name), view.found(name, "layer times").get("layers")
    assert engine is not None  # the step needs the build
    if not times or len(engine.parts) > 1:
        return engine
    layers = msgspec.convert(times, tuple[LayerRow, ...])
    return replace(engine, parts=(replace(engine.parts[0], layers=layers),))


def exact(data: Any) -> Any:
    """JSON types in which an infinite SQNR, which JSON has no number for, is one again."""
    if isinstance(data, dict):
        return {key: math.inf if key == "sqnr_db" and item is None else exact(item) for key, item in data.items()}
    return [exact(item) for item in data] if isinstance(data, list) else data


def state_of(data: Mapping[str, Any]) -> GpuState:
    """The state of a card from JSON types, in which what the card does not report is null."""
    return msgspec.convert({key: math.nan if value is None else value for key, value in data.items()}, GpuState)
