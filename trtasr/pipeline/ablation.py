"""The ablation table: corrections beside each other, at several weight widths, over several synthetic seeds."""

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trtasr.audio.manifest import read_manifests
from trtasr.audio.prepare import examples, prepare
from trtasr.audio.read import Reading
from trtasr.bench.agreement import scores
from trtasr.bench.wer import require_recognition
from trtasr.errors import UsageError
from trtasr.files.scratch import scratch
from trtasr.network.limits import refuse_above
from trtasr.network.network import Exported, dictated, outputs
from trtasr.pipeline.controls import quantized
from trtasr.pipeline.export import export
from trtasr.pipeline.features import calibration_features
from trtasr.pipeline.job import checkpoint_of, wired
from trtasr.pipeline.measure import usable_rate, word_error_rate
from trtasr.pipeline.scales import make_table
from trtasr.recipe import Quantization, Recipe
from trtasr.report.table import align
from trtasr.results import Prepared, WerResult, plain
from trtasr.values import CalibrationSet, Example, FloatArray

logger = logging.getLogger(__name__)

CORRECTIONS: dict[str, dict[str, Any]] = {
    "none": {"correction": "none"},
    "bias": {"correction": "bias"},
    "qep 0.5": {"correction": "qep", "alpha": 0.5, "damping": 1.0},  # the authors' defaults
    "qep 1.0": {"correction": "qep", "alpha": 1.0, "damping": 1.0},
    "fade": {"correction": "fade"},
}  # qep with alpha 0 is `bias`
CONTROLLED = ("none", "fade", "fade, gptq")  # what noise and audio are calibrated with
SETTINGS = CORRECTIONS | {
    f"{name}, gptq": {**CORRECTIONS[name], "rounding": "gptq"} for name in ("none", "bias", "qep 0.5", "fade")
}
SETTINGS["qep 0.5, damping 0.01"] = {"correction": "qep", "alpha": 0.5, "damping": 0.01}


@dataclass(frozen=True)
class Cell:
    """One setting over all seeds.

    Attributes:
        features: ``synthetic``, ``noise`` or ``audio``.
        correction: of the weights; weight_bits: 8, or fewer (simulated).
        wer: percent per seed (CER where that is judged), None where the transcripts are useless.
        agreement: percent of frames whose most likely token is that of FP32, per seed: steadier than WER, which a
            handful of words moves.
        sqnr_db: of the log-probabilities on speech, per seed.
    """

    features: str
    correction: str
    weight_bits: int
    wer: tuple[float | None, ...]
    agreement: tuple[float, ...]
    sqnr_db: tuple[float, ...]


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        seeds: of synthetic features.
        bits: weight widths.
        names: settings out of `SETTINGS`.
    """

    seeds: int = 5
    bits: tuple[int, ...] = (8, 6, 4)
    names: tuple[str, ...] = tuple(CORRECTIONS)


@dataclass(frozen=True)
class Bench:
    """What every cell is measured on: FP32 graphs, speech, and what FP32 makes of it."""

    exported: Exported
    recipe: Recipe
    utterances: Sequence[Prepared]
    examples: Sequence[Example]
    outputs: list[FloatArray]


def ablate(recipe: Recipe, plan: Plan) -> tuple[WerResult, tuple[Cell, ...]]:
    """Quantize with every setting and seed, and score each on the recipe's speech.

    Returns:
        the result of FP32, and the cells: corrections by width on synthetic features; then noise and audio controls.

    Raises:
        UsageError: no speech to score on.
    """
    if not recipe.evaluation.manifest:
        raise UsageError("the ablation needs speech to score on", "add --manifest FILE")
    network, original = wired(checkpoint_of(recipe))
    entries = read_manifests([*map(Path, recipe.evaluation.manifest)])
    utterances = prepare(entries, network.frontend, Reading(refuse=refuse_above(network.described)))
    with scratch() as folder:
        exported = export(network, original, folder)
        reference = word_error_rate(network, exported.files, utterances, recipe.evaluation)
        require_recognition(reference)
        said = dictated(network, exported.files, examples(utterances))
        bench = Bench(exported, recipe, utterances, said, outputs(network, exported.files, said))
        seeded = [replace(recipe, calibration=replace(recipe.calibration, seed=seed)) for seed in range(plan.seeds)]
        synthetic = [calibration_features("synthetic", item, exported) for item in seeded]
        noise, audio = ([calibration_features(method, recipe, exported)] for method in ("noise", "audio"))
        cells = [cell(bench, synthetic, name, bits) for bits in plan.bits for name in plan.names]
        for features in (noise, audio):
            cells += [
                cell(bench, features, name, bits) for bits in plan.bits for name in plan.names if name in CONTROLLED
            ]
    return reference, tuple(cells)


def cell(bench: Bench, features: Sequence[CalibrationSet], correction: str, bits: int) -> Cell:
    """One setting over its calibration sets."""
    changes = SETTINGS[correction] | {"weight_bits": bits}
    settings: Quantization = replace(bench.recipe.quantization, **changes)
    wer, same, sqnr = zip(*(score(bench, item, settings) for item in features), strict=True)
    found = Cell(features[0].method, correction, bits, wer, same, sqnr)
    logger.info(
        "%s %s, %s features: WER %s, agreement %s, SQNR %s dB",
        width(found, settings),
        correction,
        found.features,
        spread(found.wer),
        spread(found.agreement),
        spread(found.sqnr_db),
    )
    return found


def score(bench: Bench, features: CalibrationSet, settings: Quantization) -> tuple[float | None, float, float]:
    """WER (or CER) in percent, None when the transcripts are useless; agreement in percent and SQNR in dB on speech."""
    exported, network = bench.exported, bench.exported.network
    table = make_table(exported, features, settings, {})
    with scratch() as folder:
        files = quantized(exported, table, settings.exclude, folder)
        wer = usable_rate(network, files, bench.utterances, bench.recipe.evaluation)
        found = outputs(network, files, bench.examples)
    total = scores(bench.outputs, found)
    return wer, 100 * total.token_agreement, total.sqnr_db


def width(found: Cell, settings: Quantization) -> str:
    """``W4A8``: bits of weights and activations; the latter are float32 when only weights are quantized."""
    return f"W{found.weight_bits}A{32 if settings.weight_only else 8}"


def spread(found: Sequence[float | None]) -> str:
    """``13.38 +- 0.12``; without the deviation for a single value; ``useless`` where any seed has no figure."""
    values = [value for value in found if value is not None]
    if len(values) < len(found):
        return f"useless ({len(found) - len(values)} of {len(found)})"
    mean = statistics.fmean(values)
    return f"{mean:.2f}" if len(values) < 2 else f"{mean:.2f} +- {statistics.stdev(values):.2f}"


def ablation_table(reference: WerResult, cells: Sequence[Cell], recipe: Recipe) -> str:
    """Mean and standard deviation over the seeds, one line per setting."""
    rows = [["weights", "features", "correction", f"{reference.measure} %", "delta", "agreement %", "SQNR dB", "seeds"]]
    for item in cells:
        wers = [wer for wer in item.wer if wer is not None]
        delta = f"{statistics.fmean(wers) - reference.rate:+.2f}" if len(wers) == len(item.wer) else "-"
        rows.append(
            [
                width(item, recipe.quantization),
                recipe.label(item.features),
                item.correction,
                spread(item.wer),
                delta,
                spread(item.agreement),
                spread(item.sqnr_db),
                str(len(item.wer)),
            ]
        )
    first = f"FP32: {reference.measure} {reference.rate:.2f} %, normalizer {reference.normalizer}"
    return f"{first}\n{align(rows, right={3, 4, 5, 6, 7})}"


def ablation_json(reference: WerResult, cells: Sequence[Cell], recipe: Recipe) -> dict[str, Any]:
    """All figures as JSON types."""
    return {
        "wer_fp32": reference.wer,
        "cer_fp32": reference.cer,
        "measure": reference.measure,
        "normalizer": reference.normalizer,
        "audio": list(recipe.audio_manifests),
        "weight_only": recipe.quantization.weight_only,
        "cells": plain(cells),
    }
