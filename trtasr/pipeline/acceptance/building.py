"""Steps that build: the FP32 graphs and their scales, a baseline's plans, a variant's plans."""

import glob
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from trtasr.errors import BuildError
from trtasr.files.scratch import scratch
from trtasr.files.workspace import writable
from trtasr.network.network import Exported
from trtasr.pipeline.acceptance.steps import BASE, REFERENCE, Request
from trtasr.pipeline.build import build, orders
from trtasr.pipeline.compile import left_in_float
from trtasr.pipeline.export import centered, export
from trtasr.pipeline.features import calibration_features
from trtasr.pipeline.fidelity import judged, probed
from trtasr.pipeline.gates import unfaithful
from trtasr.pipeline.job import Job, Options, begin
from trtasr.pipeline.lock import calibration_settings, committed_table, locked, write_table
from trtasr.pipeline.parity import prove_parity
from trtasr.pipeline.scales import make_table
from trtasr.results import plain
from trtasr.targets.target import Order
from trtasr.values import CalibrationSet, ScaleTable

Tell = Callable[[Mapping[str, Any]], None]
CALIB = "calib"  # the scale table of the run, beside the FP32 graphs
ABSENT = "remove {} and run the command again"


@dataclass(frozen=True)
class Scene:
    """What the steps of a run have in common.

    Attributes:
        job: of the recipe.
        graphs: in FP32, in the folder of the step's subject.
        table: scales.
    """

    job: Job
    graphs: Exported
    table: ScaleTable

    @property
    def features(self) -> Callable[[str], CalibrationSet]:
        """Calibration method -> features, made once."""
        return cache(lambda method: calibration_features(method, self.job.recipe, self.graphs))


def job_of(request: Request) -> Job:
    """The inputs of a compile; nothing is compiled into the folder that it names."""
    return begin(request.recipe, Options(request.out / "none", request.calib))


def scene(request: Request) -> Scene:
    """What `prepare` has left, for a step on a subject.

    Raises:
        BuildError: the scale table of the run is not there any more.
    """
    job = job_of(request)
    settings = calibration_settings(job.recipe, job.checkpoint)
    table = committed_table(request.out / BASE / CALIB, job.recipe.name, settings)
    if table is None:
        raise BuildError(f"{request.out / BASE / CALIB}: has no scale table of this run", ABSENT.format(request.out))
    graphs = Exported(job.network, job.original, job.network.files(request.place))
    return Scene(job, graphs, table)


def prepare(request: Request, tell: Tell) -> None:
    """Export the FP32 graphs, calibrate, and keep both for all other steps.

    Raises:
        QualityError: the graphs do not compute what the checkpoint does.
    """
    job = job_of(request)
    recipe, settings = job.recipe, calibration_settings(job.recipe, job.checkpoint)
    shutil.rmtree(request.out / BASE, ignore_errors=True)
    folder = writable(request.out / BASE)
    with scratch() as raw:
        exported = export(job.network, job.original, raw)
        parity = prove_parity(exported)

        def make(method: str, settings: Mapping[str, Any]) -> ScaleTable:
            return make_table(exported, calibration_features(method, recipe, exported), recipe.quantization, settings)

        table = locked(recipe, settings, request.calib, False, make)[recipe.calibration.method]
        graphs = centered(exported, table, folder)
    parity = prove_parity(graphs) if table.offsets else parity
    write_table(writable(folder / CALIB), recipe.name, table)
    tell({"parity": parity, "checkpoint_sha256": job.checkpoint.sha256, "seconds_of_speech": spoken(job)})


def spoken(job: Job) -> float:
    """Seconds of the evaluation sets."""
    return round(sum(item.duration for item in job.utterances), 1)


def build_baseline(request: Request, tell: Tell) -> None:
    """Build a plan that INT8 is compared with, beside the FP32 graphs."""
    found = scene(request)
    target = next(item for item in found.job.targets[0].baselines if item.name == request.subject)
    tell({"engine": plain(build(ordered(request, found), target))})


def build_variant(request: Request, tell: Tell) -> None:
    """Lower and build a variant in a folder of its own, then judge its quantized graphs on probe signals.

    Raises:
        BuildError: the builder refuses it.
    """
    shutil.rmtree(request.place, ignore_errors=True)
    copy_graphs(request)
    found = scene(request)
    recipe = found.job.recipe
    probes = probed(found.graphs, recipe.calibration)
    (left,) = left_in_float(found.job, found.graphs, found.table, found.features, probes)
    engine = build(ordered(request, found), left.target, left.rules)
    tell({"engine": plain(engine)})
    fidelity = judged(probes, recipe.quantization.fidelity, [engine], request.place, {engine.target: left.harm})
    tell({"fidelity": plain(fidelity), "problems": unfaithful(fidelity)})


def ordered(request: Request, found: Scene) -> Sequence[Order]:
    """What the parts are built from, with a folder for evidence."""
    given = orders(found.graphs, found.table, found.job.recipe, found.job.host, found.features)
    return [replace(order, evidence=request.folder / order.name) for order in given]


def copy_graphs(request: Request) -> None:
    """The FP32 graphs, and weights in files of their own, in a variant's folder: links where the disk has them."""
    place = writable(request.place)
    for file in (request.out / BASE).glob(f"*{glob.escape(f'.{REFERENCE}.onnx')}*"):
        link(file, place / file.name)


def link(file: Path, target: Path) -> None:
    """One more name for a file; a copy where there is no such thing."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)
