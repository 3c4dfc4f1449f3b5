"""Everything that only a T4 host can prove, in one run: ``trtasr acceptance`` builds, measures and writes one file."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtasr import __version__
from trtasr.engine.build_tensorrt import Host, almost_a_host, require_tensorrt
from trtasr.engine.builder_probe import require_builder
from trtasr.engine.device import gpu_report
from trtasr.errors import MissingError, QualityError, UsageError
from trtasr.files.keep import sha256_file
from trtasr.files.look import is_file, is_there
from trtasr.files.read import Source
from trtasr.files.workspace import writable
from trtasr.files.write import write_json, write_text
from trtasr.pipeline.acceptance.findings import BROKEN, RESULT, Fault, Findings, Outcome, found_in
from trtasr.pipeline.acceptance.process import AGAIN, attempt
from trtasr.pipeline.acceptance.steps import PREPARE, STEPS, Request, Step, planned, recipe_of
from trtasr.pipeline.acceptance.verdict import PASSED, View, outcome_table, result_json
from trtasr.pipeline.compile import rehearse
from trtasr.pipeline.job import Options
from trtasr.pipeline.record import versions
from trtasr.recipe import Recipe, to_dict
from trtasr.results import plain

logger = logging.getLogger(__name__)

HOST_SMI = "nvidia-smi.txt"  # of the whole run, beside the result
LARGEST = 1 << 30  # bytes of a result


@dataclass(frozen=True)
class Found:
    """What findings on disk say first.

    Attributes:
        model: name of the recipe.
        settings: of the run.
        host: GPU and TensorRT; what was refused there where it was no T4 host.
    """

    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    host: dict[str, Any] = field(default_factory=dict)


def accept(recipe: Recipe, out: Path, calib: Path, replace: bool = False) -> tuple[Path, str, bool]:
    """Run every step that is missing, and write what all of them showed after each.

    Args:
        recipe: of the model.
        out: folder of the run.
        calib: of committed scale tables.
        replace: findings of another model, or of other settings, may be replaced: the user named the folder.

    Returns:
        the JSON file, a table, and whether the explicit engine passed its gates (WER, and faster than FP16). The other
        variants are there to learn from; their failures are findings.

    Raises:
        MissingError: this is no T4 host, its TensorRT gives no builder, or the disk or the card failed on the way; what
            was found before is kept. UsageError: findings of another model, other settings or another host are there.
            TrtasrError: the model or the speech cannot be used.
    """
    recipe = recipe_of(recipe)
    steps, head = planned(bool(recipe.evaluation.manifest)), head_of(recipe)
    if not replace:
        keep_other_findings(recipe, out)
    try:
        host = require_tensorrt()
        require_builder()
    except MissingError as error:
        if almost_a_host():
            note_refusal(View(found_in(out, steps), recipe.evaluation), head, error)
        raise
    if not replace:
        keep_other_findings(recipe, out, host)
    rehearse(recipe, Options(out / "none", calib))
    writable(out)
    if other_findings(recipe, out, host):
        shutil.rmtree(out / STEPS, ignore_errors=True)
    head |= {"host": plain(host), "nvidia_smi": host_report(out)}
    view = View(found_in(out, steps), recipe.evaluation)
    run_missing(Request("", "", recipe, out, calib, out), view, head)
    return out / RESULT, outcome_table(view), result_json(view, head)["outcome"] == PASSED


def run_missing(usual: Request, view: View, head: Mapping[str, Any]) -> None:
    """Run the steps that are not settled, in order.

    Args:
        usual: what all requests have in common.
        view: of the findings.
        head: of the result.

    Raises:
        MissingError: the machine failed: no later step could do better. TrtasrError: nothing can be prepared.
    """
    findings = view.findings
    write_json(findings.out / RESULT, result_json(view, head))
    for step in view.steps:
        given = findings.found([*step.needs, *step.uses])
        if findings.settled(step) or not set(step.needs) <= given.keys():
            continue
        logger.info("acceptance: %s", step.name)
        outcome = attempt(step.name, request_for(step, usual, findings, given))
        findings.add(step, outcome)
        write_json(findings.out / RESULT, result_json(view, head))
        if outcome.error:
            stop_or_go_on(step, outcome)


def request_for(step: Step, usual: Request, findings: Findings, given: Mapping[str, Any]) -> Request:
    """What a step's process is told."""
    recipe = recipe_of(usual.recipe, step.subject)
    return Request(step.kind, step.subject, recipe, usual.out, usual.calib, findings.folder(step), given)


def stop_or_go_on(step: Step, outcome: Outcome) -> None:
    """Say why a step failed; end the run where no other step could do better.

    Raises:
        MissingError: the machine lacks something now. QualityError: the FP32 graphs could not be made.
    """
    fault = outcome.error
    assert fault is not None
    logger.warning("%s: %s", step.name, fault.problem)
    if outcome.state == BROKEN and fault.exit_code == MissingError.exit_code:
        raise MissingError(f"{step.name}: {fault.problem}", f"{fault.repair}; then {AGAIN}")
    if step.kind == PREPARE:
        raise QualityError(f"{step.name}: {fault.problem}", fault.repair or AGAIN)


def head_of(recipe: Recipe) -> dict[str, Any]:
    """What a run is about."""
    return {"trtasr": __version__, "model": recipe.name, "settings": settings_of(recipe), "versions": versions()}


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """What findings depend on: those of other settings are not completed, but made anew."""
    checkpoint = Path(recipe.checkpoint)
    return {"recipe": to_dict(recipe), "checkpoint": sha256_file(checkpoint) if is_file(checkpoint) else ""}


def note_refusal(view: View, head: Mapping[str, Any], error: MissingError) -> None:
    """Keep why a machine with a driver or a TensorRT is no T4 host, beside what earlier runs found on it."""
    out = writable(view.findings.out)
    fault = Fault(type(error).__name__, error.problem, error.repair, True, error.exit_code)
    refused = {"host": plain(fault), "nvidia_smi": host_report(out)}
    write_json(out / RESULT, result_json(view, {**head, **refused}))


def host_report(out: Path) -> str:
    """Keep what nvidia-smi says of this machine; the file's name, or why there is none."""
    try:
        write_text(out / HOST_SMI, gpu_report())
    except MissingError as error:
        logger.warning("no report on the GPU: %s", error.problem)
        return error.problem
    return HOST_SMI


def keep_other_findings(recipe: Recipe, out: Path, host: Host | None = None) -> None:
    """Refuse to replace what another model, or the same with other settings or on another host, showed.

    Raises:
        UsageError: the folder holds it, or a file of that name that holds something else.
    """
    if other := other_findings(recipe, out, host):
        raise UsageError(f"{out / RESULT}: holds the findings of {other}", replacing_words(out))


def other_findings(recipe: Recipe, out: Path, host: Host | None) -> str:
    """Whose findings are in a folder, in words; empty for none, or for those of this recipe on this host.

    Args:
        recipe: for ``t4``.
        out: the folder.
        host: None: not known yet.

    Raises:
        UsageError: the file holds something else.
    """
    file = out / RESULT
    if not is_there(file):
        return ""
    found = Source(file, UsageError, replacing_words(out), LARGEST).json(Found)
    if found.model != recipe.name:
        return "another model"
    if found.settings != settings_of(recipe):
        return "other settings"
    known = "gpu" in found.host and host is not None
    return "another GPU or TensorRT" if known and found.host != plain(host) else ""


def replacing_words(out: Path) -> str:
    """How findings are replaced."""
    return f"choose another folder (-o FOLDER); -o {out} replaces it"
