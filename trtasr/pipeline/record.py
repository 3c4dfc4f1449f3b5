"""The record of a compile: made from what its stages gave, and written into the bundle as JSON, report and sidecar."""

import json
import math
import os
import platform
import shlex
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from trtasr import __version__
from trtasr.audio.frontend import frontend_json
from trtasr.audio.stored import write_stored
from trtasr.bundle import seal, tokenizer_file, write_tokenizer
from trtasr.checkpoint.architecture import architecture
from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.engine.cache import cache_text
from trtasr.engine.sessions import cpu_name
from trtasr.files.write import write_json, write_text
from trtasr.pipeline.job import Job
from trtasr.quant.scales import table_to_json
from trtasr.recipe import Recipe, to_dict
from trtasr.report.html import render
from trtasr.results import (
    BenchResult,
    Built,
    Comparison,
    Control,
    Engine,
    GpuState,
    IntegerGraph,
    Judged,
    Measured,
    Record,
    plain,
)
from trtasr.values import ScaleTable

LIBRARIES = (
    "torch",
    "onnx",
    "onnxruntime",
    "polygraphy",
    "jiwer",
    "tensorrt-rtx-cu12",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "pycuda",
)


@dataclass(frozen=True)
class Evidence:
    """What speaks for the engines beside their own figures; fields as in `trtasr.results.Record`."""

    comparison: Comparison
    parity: float
    controls: tuple[Control, ...] = ()
    integer: IntegerGraph | None = None
    fidelity: tuple[Judged, ...] = ()
    problems: tuple[str, ...] = ()


def record_of(
    job: Job,
    tables: Mapping[str, ScaleTable],
    measured: Measured,
    evidence: Evidence,
) -> Record:
    """Everything a compile built and measured.

    Args:
        job: what the compile began with.
        tables: calibration method -> scale table; the recipe's own and the controls that were run.
        measured: engines, WER, latency, state of the GPU.
        evidence: the rest.
    """
    recipe, checkpoint, engines = job.recipe, job.checkpoint, measured.engines
    return Record(
        name=recipe.name,
        architecture=architecture(checkpoint),
        family=checkpoint.family,
        checkpoint={"file": checkpoint.path.name, "sha256": checkpoint.sha256, "class": checkpoint.target},
        recipe=to_dict(recipe),
        described=described_json(checkpoint),
        fp32=tuple(file.name for file in job.network.files(Path())),
        engines=engines,
        tables=tables,
        results=measured.results,
        comparison=evidence.comparison,
        controls=evidence.controls,
        parity=evidence.parity,
        integer=evidence.integer,
        fidelity=evidence.fidelity,
        gpu=measured.gpu,
        problems=evidence.problems,
        device=cpu_name(),
        versions=versions(),
        commands=commands(recipe, evidence),
        manifests=tuple(seen_from(job.options.out, name) for name in recipe.evaluation.manifest),
        built=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        seconds=time.monotonic() - job.started,
    )


def described_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """What ``bundle.json`` tells of a network to whoever runs it."""
    return {
        "frontend": frontend_json(checkpoint.frontend),
        "vocabulary": list(checkpoint.vocabulary),
        "tokenizer": asdict(tokenizer_file(checkpoint.tokenizer)),
        "generation": asdict(checkpoint.generation) if checkpoint.generation else None,
        "most_frames": int(most) if math.isfinite(most := checkpoint.most_frames) else None,
    }


def seen_from(out: Path, manifest: str) -> str:
    """A manifest's path relative to the bundle, so that both can move together."""
    return os.path.relpath(os.path.realpath(manifest), os.path.realpath(out))


def versions() -> dict[str, str]:
    """trtasr, Python and the libraries that shaped the result."""
    found = {"trtasr": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def commands(recipe: Recipe, evidence: Evidence) -> tuple[str, ...]:
    """Command lines that make and examine a bundle again; the first says where it is, for a reader to change."""
    bundle = '"$BUNDLE"'
    changes = [f"--set {shlex.quote(change)}" for change in changed_values(recipe)]
    controls = ["--controls"] if evidence.controls else []
    compile_line = ["trtasr compile", shlex.quote(recipe.checkpoint), *changes, *controls, "-o", bundle]
    integer = [f"trtasr inspect {bundle} --integer", f"trtasr compare {bundle} --integer"] if evidence.integer else []
    return (
        f"BUNDLE={shlex.quote(f'engines/{recipe.name}')}",
        " ".join(compile_line),
        f"trtasr inspect {bundle}",
        f"trtasr bench {bundle}",
        f"(cd {bundle} && {evidence.comparison.command})",
        *integer,
    )


def changed_values(recipe: Recipe) -> list[str]:
    """``section.key=value`` of everything that differs from a recipe's defaults, as `--set` reads it."""
    given, usual = to_dict(recipe), to_dict(Recipe(recipe.name, recipe.checkpoint))
    return [
        f"{section}.{key}={json.dumps(value, ensure_ascii=False)}"
        for section, values in given.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if value != usual[section][key]
    ]


def write_record(folder: Path, record: Record, checkpoint: Checkpoint) -> None:
    """Write scales, cache, layers, bench, WER, report, tokenizer and, last, the sidecar that seals them.

    Args:
        folder: of the bundle while it is made.
        record: what was built and measured.
        checkpoint: its tokenizer and stored front-end buffers have files of their own.
    """
    decisions = {engine.target: plain(engine.decisions) for engine in record.quantized}
    write_json(folder / "scales.json", table_to_json(record.table) | {"decisions": decisions})
    write_text(folder / "calibration.cache", cache_text(record.table))
    write_json(folder / "layers.json", layers_json(record.engines))
    write_json(folder / "bench.json", [bench_json(result) for result in record.results])
    if record.gpu:
        write_json(folder / "gpu.json", gpu_json(record.gpu))
    write_json(folder / "wer.json", {result.target: wer_json(result) for result in record.results if result.wer})
    if stored := getattr(checkpoint.frontend, "stored", None):
        write_stored(folder, stored)
    write_text(folder / "report.html", render(record))
    write_tokenizer(checkpoint.tokenizer, folder)
    seal(folder, record_json(record))


def record_json(record: Record) -> dict[str, Any]:
    """The record as JSON types: ``bundle.json`` without the file hashes, and more than ``--json`` prints.

    Tables, layers and transcripts have files of their own.
    """
    return {
        "name": record.name,
        "built": record.built,
        "family": record.family,
        "architecture": record.architecture,
        "targets": list(record.targets),
        "outcome": record.outcome,
        "problems": list(record.problems),
        "checkpoint": dict(record.checkpoint),
        **record.described,
        "graphs": {"fp32": list(record.fp32), **{e.target: list(e.graphs) for e in record.quantized}},
        "engines": {engine.target: engine_json(engine) for engine in record.engines},
        "fp16_subnormal_scales": {e.target: list(e.subnormal) for e in record.engines if e.linted},
        "fp16_overflowing_accumulators": {e.target: list(e.overflowing) for e in record.engines if e.linted},
        "gpu": gpu_json(record.gpu),
        "recipe": dict(record.recipe),
        "versions": dict(record.versions),
        "device": record.device,
        "parity": record.parity,
        "comparison": plain(record.comparison),
        "controls": plain(record.controls),
        "fidelity": {found.target: plain(found) | {"held": found.held} for found in record.fidelity},
        "results": {result.target: summary_json(result) for result in record.results},
        "integer": record.integer.to_json() if record.integer else None,
        "seconds": round(record.seconds, 1),
        "manifest": list(record.manifests),
    }


def layers_json(engines: Iterable[Engine]) -> dict[str, Any]:
    """The layer table of every engine by its target, that of a plan without masks as ``t4-unmasked``."""
    found: dict[str, Any] = {}
    for engine in engines:
        found[engine.target] = plain(engine.layers)
        found |= {f"{engine.target}-unmasked": plain(plan.layers) for plan in engine.unmasked}
    return found


def part_json(part: Built) -> dict[str, Any]:
    """One file of an engine, with what its builder said, and the plan without masks beside it."""
    found = {"path": part.path, "size_bytes": part.size_bytes, **part.details}
    return found | ({"unmasked": part_json(part.unmasked)} if part.unmasked else {})


def engine_json(engine: Engine) -> dict[str, Any]:
    """One engine: what it is called, and its files with what their builder said."""
    return {
        "label": engine.label,
        "precision": engine.precision,
        "activation_scales": engine.activation_scales or None,
        "dynamic_layers": list(engine.dynamic),
        "forms": plain(engine.forms),
        "parts": list(map(part_json, engine.parts)),
    }


def summary_json(result: BenchResult) -> dict[str, Any]:
    """The figures of a row of the table, at its longest benchmarked input."""
    latency = result.latencies[-1] if result.latencies else None
    return {
        "size_bytes": result.size_bytes,
        **rates_json(result),
        "p50_ms": latency.p50_ms if latency else None,
        "p95_ms": latency.p95_ms if latency else None,
        "rtfx": latency.rtfx if latency else None,
    }


def bench_json(result: BenchResult) -> dict[str, Any]:
    """One row of ``bench.json``."""
    return {
        "engine": result.engine,
        "target": result.target,
        "size_bytes": result.size_bytes,
        "note": result.note,
        **rates_json(result),
        "work_seconds": result.wer.work_seconds if result.wer else None,
        "latencies": [plain(item) | {"rtfx": item.rtfx, "token_ms": item.token_ms} for item in result.latencies],
    }


def wer_json(result: BenchResult) -> dict[str, Any]:
    """One engine of ``wer.json``: its rates with every transcript, and how far it is from FP32."""
    return {**plain(result.wer), "differences": plain(result.differences)}


def rates_json(result: BenchResult) -> dict[str, Any]:
    """WER and CER in percent, which of them is judged, and the normalizer of the transcripts; null where not scored.

    Beside them the differences to FP32: of all evaluation sets together (``dataset`` is empty), then of each.
    """
    found = result.wer
    return {
        "wer": found.wer if found else None,
        "cer": found.cer if found else None,
        "measure": found.measure if found else None,
        "normalizer": found.normalizer if found else None,
        "differences": plain(result.differences),
    }


def gpu_json(states: Iterable[GpuState]) -> list[dict[str, Any]]:
    """States of a GPU, and whether it was throttled; what the card does not report becomes null."""
    return [plain(state) | {"throttled": state.throttled} for state in states]
