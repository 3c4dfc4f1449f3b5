"""Everything that only a T4 host can prove, in one run: ``trtasr acceptance`` builds, measures and writes one file."""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trtasr import __version__
from trtasr.engine.build_tensorrt import Host, require_tensorrt
from trtasr.engine.builder_probe import require_builder
from trtasr.errors import TrtasrError, UsageError
from trtasr.files.look import is_there
from trtasr.files.read import Source
from trtasr.files.workspace import writable
from trtasr.files.write import write_json
from trtasr.pipeline.compare import compare_layers
from trtasr.pipeline.compile import compile_recipe
from trtasr.pipeline.gates import mean_ratio, speedups
from trtasr.pipeline.job import Options
from trtasr.pipeline.record import bench_json, record_json, versions
from trtasr.recipe import EngineShapes, Recipe
from trtasr.report.table import align, measure_of
from trtasr.results import Record, plain
from trtasr.targets import T4

logger = logging.getLogger(__name__)

RESULT = "t4-acceptance.json"
COMPARED = 4  # utterances of the comparison by layer
VARIANTS: Mapping[str, dict[str, Any]] = {
    "explicit": {},
    "explicit, depthwise too": {"quantize_depthwise": True},
    "explicit, chains": {"chains": "on"},
    "implicit, our scales": {"quantization": "implicit", "calibrator": "table"},
    "implicit, TensorRT's ranges": {"quantization": "implicit", "calibrator": "entropy"},
}


@dataclass(frozen=True)
class Outcome:
    """One variant: its compile, or the error that ended it.

    Attributes:
        name: of the variant.
        record: None where it failed.
        error: problem and repair; empty where it did not.
        layer_sqnr: tensor -> dB; empty where nothing was compared.
        seconds: wall time.
    """

    name: str
    record: Record | None
    error: str
    layer_sqnr: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Found:
    """What findings on disk say first.

    Attributes:
        model: name of the recipe.
    """

    model: str


def accept(recipe: Recipe, out: Path, calib: Path) -> tuple[Path, str, bool]:
    """Build and measure every variant, and write what they showed.

    Returns:
        the JSON file, a table, and whether the explicit engine passed its gates (WER, and faster than FP16). The other
        variants are there to learn from; their failures are findings.

    Raises:
        MissingError: this is no T4 host, or its TensorRT gives no builder.
    """
    host = require_tensorrt()
    require_builder()
    writable(out)
    outcomes: list[Outcome] = []
    for name, changes in VARIANTS.items():
        engine: EngineShapes = replace(recipe.engine, target=T4.name, **changes)
        outcomes.append(attempt(name, replace(recipe, engine=engine), out, calib))
        write_json(out / RESULT, result_json(host, recipe, outcomes))  # a later crash of the GPU loses nothing
    first = outcomes[0].record
    return out / RESULT, outcome_table(outcomes), first is not None and not first.problems


def keep_other_findings(recipe: Recipe, out: Path) -> None:
    """Refuse to replace what another model showed.

    Raises:
        UsageError: the folder holds it, or a file of that name that holds something else.
    """
    file = out / RESULT
    other = f"choose another folder (-o FOLDER); -o {out} replaces it"
    if is_there(file) and Source(file, UsageError, other).json(Found).model != recipe.name:
        raise UsageError(f"{file}: holds the findings of another model", other)


def attempt(name: str, recipe: Recipe, out: Path, calib: Path) -> Outcome:
    """Compile one variant into its own bundle and compare it layer by layer; an error becomes a finding."""
    started = time.monotonic()
    folder = out / name.replace(",", "").replace("'", "").replace(" ", "-")
    logger.info("acceptance: %s", name)
    record, error, sqnr = None, "", {}
    try:
        record = compile_recipe(recipe, Options(folder, calib))
        if recipe.evaluation.manifest and recipe.engine.quantization == "explicit":
            sqnr = compare_layers(folder, T4.name, (), COMPARED)
    except TrtasrError as problem:
        error = str(problem)
        logger.warning("%s: %s", name, error)
    except Exception as problem:  # of CUDA or a library: hours on a borrowed T4 must leave what they found
        error = f"{type(problem).__name__}: {problem}"
        logger.exception("%s", name)
    return Outcome(name, record, error, sqnr, time.monotonic() - started)


def result_json(host: Host, recipe: Recipe, outcomes: list[Outcome]) -> dict[str, Any]:
    """All findings as JSON types."""
    return {
        "trtasr": __version__,
        "host": asdict(host),
        "versions": versions(),
        "model": recipe.name,
        "variants": [outcome_json(outcome) for outcome in outcomes],
    }


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """One variant's findings: results, speed, clocks, layers with their kernels, SQNR by layer."""
    found: dict[str, Any] = {"name": outcome.name, "seconds": round(outcome.seconds, 1), "error": outcome.error}
    record = outcome.record
    if record is None:
        return found
    noted = record_json(record)
    return found | {
        **{key: noted[key] for key in ("outcome", "problems", "gpu", "comparison", "engines")},
        "bench": [bench_json(result) for result in record.results],
        "fallback": [d.node for d in record.engines[0].decisions if d.rule == "fallback"],
        "layers": {engine.target: plain(engine.layers) for engine in record.engines},
        "layer_sqnr_db": plain(outcome.layer_sqnr),
    }


def outcome_table(outcomes: list[Outcome]) -> str:
    """One line per variant: WER (or CER), INT8 layers, speed over FP16 and FP32, or what went wrong."""
    measure = next((measure_of(outcome.record.results) for outcome in outcomes if outcome.record), "WER")
    rows = [["variant", f"{measure} %", "delta", "INT8 layers", "x FP16", "x FP32", "lowest layer dB", ""]]
    for outcome in outcomes:
        if outcome.record is None:
            rows.append([outcome.name, "-", "-", "-", "-", "-", "-", f"failed: {outcome.error.splitlines()[0]}"])
            continue
        weighted = [layer for layer in outcome.record.engines[0].layers if layer.macs]
        rows.append(
            [
                outcome.name,
                *wer_cells(outcome.record),
                f"{sum(layer.int8 for layer in weighted)} of {len(weighted)}",
                ratio_cell(outcome.record, "fp16"),
                ratio_cell(outcome.record, "fp32"),
                f"{min(outcome.layer_sqnr.values()):.1f}" if outcome.layer_sqnr else "-",
                "; ".join((*outcome.record.problems, *outcome.error.splitlines()[:1])),
            ]
        )
    return align(rows, right={1, 2, 3, 4, 5, 6})


def wer_cells(record: Record) -> list[str]:
    """WER (CER where that is judged) of the INT8 plan and its difference to the FP32 graph."""
    wers = {result.target: result.wer.rate for result in record.results if result.wer}
    if T4.name not in wers:
        return ["-", "-"]
    return [f"{wers[T4.name]:.2f}", f"{wers[T4.name] - wers['fp32']:+.2f}"]


def ratio_cell(record: Record, over: str) -> str:
    """Geometric mean over all shapes of how many times INT8 is faster."""
    ratios = speedups(record.results, over)
    return f"{mean_ratio(ratios):.2f}" if ratios else "-"
