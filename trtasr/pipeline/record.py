"""What a compile leaves behind: the JSON files of a bundle, its sidecar and its HTML report."""

import json
import os
import platform
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from trtasr import __version__
from trtasr.audio.frontend import frontend_json
from trtasr.audio.stored import write_stored
from trtasr.bench.wer import bootstrap_delta
from trtasr.bundle import seal, tokenizer_file, write_tokenizer
from trtasr.checkpoint.architecture import architecture
from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.engine.compare_pair import ENCODER
from trtasr.engine.inspect import layers_json
from trtasr.engine.sessions import cpu_name
from trtasr.files.write import write_json, write_text
from trtasr.pipeline.gates import missed_gates
from trtasr.pipeline.lock import cache_text
from trtasr.pipeline.lower import MODEL, PLAIN, Lowered
from trtasr.pipeline.measure import Measured
from trtasr.quant.scales import table_to_json
from trtasr.recipe import Recipe, to_dict
from trtasr.report.html import ReportData, render
from trtasr.report.table import ControlRow
from trtasr.results import BenchResult, Comparison, Control, Engine, GpuState, IntegerGraph, plain
from trtasr.targets import REASONS
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
class Record:
    """Everything one compile built and measured.

    Attributes:
        recipe: resolved.
        checkpoint: source model.
        tables: calibration method -> scale table; the recipe's own and the controls that were run.
        lowered: one per target, in the recipe's order.
        engines: likewise, then the FP16 and FP32 baselines of a T4 host.
        measured: WER, latency, layer times.
        comparison: FP32 against the first target.
        controls: empty unless asked for.
        parity: largest difference of log-probabilities between the checkpoint (float64) and the FP32 graph.
        seconds: wall time of the compile.
        integer: the integer-only graph; None where the network has none.
        built: when, in UTC, ISO 8601.
    """

    recipe: Recipe
    checkpoint: Checkpoint
    tables: Mapping[str, ScaleTable]
    lowered: tuple[Lowered, ...]
    engines: tuple[Engine, ...]
    measured: Measured
    comparison: Comparison
    controls: tuple[Control, ...]
    parity: float
    seconds: float
    integer: IntegerGraph | None = None
    built: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))

    @property
    def results(self) -> tuple[BenchResult, ...]:
        """FP32 first, then the T4 host's baselines, then one per target."""
        return self.measured.results

    @property
    def table(self) -> ScaleTable:
        """The scale table the engines were made with."""
        return self.tables[self.recipe.calibration.method]

    @property
    def problems(self) -> tuple[str, ...]:
        """Missed quality gates in words; empty when all hold."""
        return missed_gates(self.results, self.recipe.evaluation)

    @property
    def outcome(self) -> str:
        """``PASSED`` or ``FAILED``."""
        return "FAILED" if self.problems else "PASSED"


def write_record(folder: Path, record: Record, out: Path) -> None:
    """Write scales, cache, layers, bench, WER, report, tokenizer and, last, the sidecar that seals them.

    Args:
        folder: of the bundle while it is made.
        record: what was built and measured.
        out: where the folder goes in the end.
    """
    decisions = {item.target: [asdict(d) for d in item.decisions] for item in record.lowered}
    write_json(folder / "scales.json", table_to_json(record.table) | {"decisions": decisions})
    write_text(folder / "calibration.cache", cache_text(record.table))
    write_json(folder / "layers.json", {engine.target: layers_json(engine.layers) for engine in record.engines})
    write_json(folder / "bench.json", [bench_json(result) for result in record.results])
    if record.measured.gpu:
        write_json(folder / "gpu.json", gpu_json(record.measured.gpu))
    write_json(folder / "wer.json", {r.target: plain(r.wer) for r in record.results if r.wer})
    if stored := getattr(record.checkpoint.frontend, "stored", None):
        write_stored(folder, stored)
    write_text(folder / "report.html", render(report_data(record)))
    write_tokenizer(record.checkpoint.tokenizer, folder)
    seal(folder, sidecar(record) | {"manifest": seen_from(out, record.recipe.evaluation.manifest)})


def seen_from(out: Path, manifest: str) -> str:
    """A manifest's path relative to the bundle, so that both can move together; empty for none."""
    return os.path.relpath(os.path.realpath(manifest), os.path.realpath(out)) if manifest else ""


def sidecar(record: Record) -> dict[str, Any]:
    """``bundle.json`` without the file hashes: enough to run the engines without anything else."""
    checkpoint = record.checkpoint
    return {
        "name": record.recipe.name,
        "built": record.built,
        "family": checkpoint.family,
        "architecture": architecture(checkpoint),
        "targets": [item.target for item in record.lowered],
        "outcome": record.outcome,
        "problems": list(record.problems),
        "checkpoint": {"file": checkpoint.path.name, "sha256": checkpoint.sha256, "class": checkpoint.target},
        "frontend": frontend_json(checkpoint.frontend),
        "vocabulary": list(checkpoint.vocabulary),
        "tokenizer": asdict(tokenizer_file(checkpoint.tokenizer)),
        "generation": asdict(checkpoint.generation) if checkpoint.generation else None,
        "graphs": {
            "fp32": f"{ENCODER if checkpoint.generation else MODEL}.fp32.onnx",
            **{item.target: item.reference for item in record.lowered},
        },
        "engines": {e.target: {"path": e.path, "size_bytes": e.size_bytes, **e.details} for e in record.engines},
        "fp16_subnormal_scales": {item.target: list(item.subnormal) for item in linted(record)},
        "fp16_overflowing_accumulators": {item.target: list(item.overflowing) for item in linted(record)},
        "gpu": gpu_json(record.measured.gpu),
        "recipe": to_dict(record.recipe),
        "versions": versions(),
        "most_frames": int(min(checkpoint.most_frames, 2**31)) if checkpoint.generation else None,
        "device": cpu_name(),
        "parity": record.parity,
        "comparison": plain(record.comparison),
        "controls": plain(record.controls),
        "results": summary_json(record),
        "integer": record.integer.to_json() if record.integer else None,
        "seconds": round(record.seconds, 1),
    }


def summary_json(record: Record) -> dict[str, Any]:
    """The figures of the table as one flat mapping per engine."""
    rows = {}
    for result in record.results:
        latency = result.latencies[-1] if result.latencies else None
        rows[result.target] = {
            "size_bytes": result.size_bytes,
            **rates_json(result),
            "p50_ms": latency.p50_ms if latency else None,
            "p95_ms": latency.p95_ms if latency else None,
            "rtfx": latency.rtfx if latency else None,
        }
    return rows


def bench_json(result: BenchResult) -> dict[str, Any]:
    """One row of ``bench.json``."""
    return {
        "engine": result.engine,
        "target": result.target,
        "size_bytes": result.size_bytes,
        "note": result.note,
        **rates_json(result),
        "work_seconds": result.wer.work_seconds if result.wer else None,
        "latencies": [
            asdict(latency) | {"rtfx": latency.rtfx, "token_ms": latency.token_ms} for latency in result.latencies
        ],
    }


def rates_json(result: BenchResult) -> dict[str, Any]:
    """WER and CER in percent, which of them is judged, and the normalizer of the transcripts; null where not scored."""
    found = result.wer
    return {
        "wer": found.wer if found else None,
        "cer": found.cer if found else None,
        "measure": found.measure if found else None,
        "normalizer": found.normalizer if found else None,
    }


def gpu_json(states: Iterable[GpuState]) -> list[dict[str, Any]]:
    """States of a GPU, and whether it was throttled; what the card does not report becomes null."""
    return [plain(state) | {"throttled": state.throttled} for state in states]


def versions() -> dict[str, str]:
    """trtasr, Python and the libraries that shaped the result."""
    found = {"trtasr": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def report_data(record: Record) -> ReportData:
    """The report's view of a record."""
    reference = record.results[0].wer
    intervals = {r.engine: bootstrap_delta(reference, r.wer) for r in record.results[1:] if reference and r.wer}
    return ReportData(
        name=record.recipe.name,
        architecture=architecture(record.checkpoint),
        built=record.built,
        targets=tuple(x.target for x in record.lowered),
        device=cpu_name(),
        seed=record.recipe.calibration.seed,
        versions=versions(),
        results=record.results,
        scales=record.table,
        engines=record.engines,
        decisions={x.target: x.decisions for x in record.lowered},
        reasons=REASONS,
        intervals=intervals,
        comparisons=(record.comparison,),
        controls=control_rows(record),
        audio_scales=record.tables.get("audio") if len(record.tables) > 1 else None,
        settings=to_dict(record.recipe),
        commands=commands(record),
        subnormal={item.target: item.subnormal for item in linted(record)},
        overflowing={item.target: item.overflowing for item in linted(record)},
        checkpoint_sha256=record.checkpoint.sha256,
        integer=record.integer.proof if record.integer else None,
    )


def linted(record: Record) -> list[Lowered]:
    """The targets whose graph in FP16 was examined: not `cpu`, nor a plain graph for a calibrator."""
    return [item for item in record.lowered if item.graph != item.reference and not item.graph.endswith(PLAIN)]


def control_rows(record: Record) -> tuple[ControlRow, ...]:
    """Rows of the controls table: label, WER, difference to FP32, SQNR."""
    reference = record.results[0].wer
    rows = []
    for control in record.controls:
        delta = control.wer - reference.rate if reference and control.wer is not None else None
        rows.append(ControlRow(control.label, control.wer, delta, control.sqnr_db))
    return tuple(rows)


def commands(record: Record) -> tuple[str, ...]:
    """Command lines that make and examine this bundle again; the first says where it is, for a reader to change."""
    bundle = '"$BUNDLE"'
    changes = [f"--set {shlex.quote(change)}" for change in changed_values(record.recipe)]
    controls = ["--controls"] if record.controls else []
    compile_line = ["trtasr compile", shlex.quote(record.recipe.checkpoint), *changes, *controls, "-o", bundle]
    integer = [f"trtasr inspect {bundle} --integer", f"trtasr compare {bundle} --integer"] if record.integer else []
    return (
        f"BUNDLE={shlex.quote(f'engines/{record.recipe.name}')}",
        " ".join(compile_line),
        f"trtasr inspect {bundle}",
        f"trtasr bench {bundle}",
        f"(cd {bundle} && {record.comparison.command})",
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
