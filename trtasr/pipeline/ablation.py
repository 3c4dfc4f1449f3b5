"""The ablation table: corrections beside each other, at several weight widths, over several synthetic seeds.

Such a table takes hours, so a file has all of it that there is so far, and a later run may go on from it.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from trtasr.audio.manifest import read_manifests
from trtasr.audio.prepare import examples, prepare
from trtasr.audio.read import Reading
from trtasr.bench.agreement import scores
from trtasr.bench.paired import word_disagreement
from trtasr.bench.wer import by_dataset, require_recognition
from trtasr.checkpoint.checkpoint import Checkpoint
from trtasr.errors import UsageError
from trtasr.files.keep import sha256_file
from trtasr.files.look import is_file, is_there
from trtasr.files.read import Source
from trtasr.files.scratch import scratch
from trtasr.files.write import replaceable, write_json
from trtasr.network.limits import refuse_above
from trtasr.network.network import Exported, dictated, outputs
from trtasr.pipeline.controls import quantized
from trtasr.pipeline.export import export
from trtasr.pipeline.features import calibration_features
from trtasr.pipeline.job import checkpoint_of, wired
from trtasr.pipeline.measure import usable_result, word_error_rate
from trtasr.pipeline.scales import make_table
from trtasr.recipe import LABELS, Quantization, Recipe, to_dict
from trtasr.report.ablation_view import spread
from trtasr.results import Ablation, Cell, Prepared, Scored, Setting, WerResult, cell_of, plain
from trtasr.values import CalibrationSet, Example, FloatArray

logger = logging.getLogger(__name__)

CORRECTIONS: dict[str, dict[str, Any]] = {
    "none": {"correction": "none"},
    "bias": {"correction": "bias", "rounding": "nearest"},
    "qep 0.5": {"correction": "qep", "alpha": 0.5, "damping": 1.0},  # the authors' defaults
    "qep 1.0": {"correction": "qep", "alpha": 1.0, "damping": 1.0},
    "fade": {"correction": "fade"},
}  # qep with alpha 0 is `bias`
GPTQ: dict[str, dict[str, Any]] = {
    "gptq": {"rounding": "gptq"},
    "gptq 0.01": {"rounding": "gptq", "gptq_damping": 0.01},  # the damping of its authors
}
ROUNDED = ("none", "bias", "qep 0.5", "fade")  # corrections that GPTQ may follow
SETTINGS = CORRECTIONS | {f"{name}, {how}": CORRECTIONS[name] | GPTQ[how] for how in GPTQ for name in ROUNDED}
# What noise and audio are calibrated with.
CONTROLLED = ("none", "fade", *(f"{name}, {how}" for how in GPTQ for name in ("none", "qep 0.5", "fade")))
SETTINGS["qep 0.5, damping 0.01"] = {"correction": "qep", "alpha": 0.5, "damping": 0.01}
FORMAT = 1  # of the file
SECTIONS = ("calibration", "quantization", "evaluation", "generation")  # of the recipe: what figures depend on


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        seeds: of synthetic features.
        bits: weight widths.
        names: settings out of `SETTINGS`.
        groups: input columns that share a weight scale; 0: one scale per output channel.
    """

    seeds: int = 5
    bits: tuple[int, ...] = (8, 6, 4)
    names: tuple[str, ...] = tuple(CORRECTIONS)
    groups: tuple[int, ...] = (0,)

    @property
    def settings(self) -> list[Setting]:
        """The lines of the table: synthetic features, then noise and audio as controls of some corrections."""
        return [
            Setting(features, name, bits, group)
            for features in ("synthetic", "noise", "audio")
            for bits in self.bits
            for group in self.groups
            for name in self.names
            if features == "synthetic" or name in CONTROLLED
        ]


@dataclass(frozen=True)
class Bench:
    """What every cell is measured on: FP32 graphs, speech, and what FP32 makes of it."""

    exported: Exported
    recipe: Recipe
    utterances: Sequence[Prepared]
    examples: Sequence[Example]
    outputs: list[FloatArray]
    reference: WerResult


@dataclass(frozen=True)
class Stored:
    """A file of an ablation; other keys are ignored."""

    settings: dict[str, Any]
    cells: tuple[Cell, ...]


def ablate(recipe: Recipe, plan: Plan, file: Path, resume: bool = False) -> Ablation:
    """Quantize with every setting and seed, and score each on the recipe's speech.

    Args:
        recipe: with speech.
        plan: what is compared.
        file: JSON of the figures, written anew after every line of the table.
        resume: lines that the file has already are taken from it, and stay there if the plan has them no more.

    Raises:
        UsageError: no speech to score on; a file that is there without `resume`, or is of other settings with it.
    """
    if not recipe.evaluation.manifest:
        raise UsageError("the ablation needs speech to score on", "add --manifest FILE")
    refuse_other_work(file, resume)
    checkpoint = checkpoint_of(recipe)
    network, original = wired(checkpoint)
    entries = read_manifests([*map(Path, recipe.evaluation.manifest)])
    utterances = prepare(entries, network.frontend, Reading(refuse=refuse_above(network.described)))
    with scratch() as folder:
        exported = export(network, original, folder)
        reference = word_error_rate(network, exported.files, utterances, recipe.evaluation)
        require_recognition(reference)
        said = dictated(network, exported.files, examples(utterances))
        bench = Bench(exported, recipe, utterances, said, outputs(network, exported.files, said), reference)
        begun = Ablation(reference, set_rates(reference), settings_of(recipe, checkpoint, plan, reference), ())
        return filled(bench, plan, begun, file, kept(file, begun.settings) if resume else {})


def filled(bench: Bench, plan: Plan, begun: Ablation, file: Path, done: Mapping[Setting, Cell]) -> Ablation:
    """The table with all lines of the plan; the file has them after each, and those beyond the plan."""
    calibrated = cache(lambda method: feature_sets(method, bench, plan.seeds))
    found, wanted = dict(done), plan.settings
    for number, setting in enumerate(wanted, 1):
        if setting in found:
            continue
        found[setting] = cell(bench, calibrated(setting.features), setting)
        logger.info("line %d of %d: %s", number, len(wanted), cell_text(found[setting]))
        order = [item for item in wanted if item in found] + [item for item in found if item not in wanted]
        write_json(file, ablation_json(replace(begun, cells=tuple(found[item] for item in order)), bench.recipe))
    return replace(begun, cells=tuple(found[setting] for setting in wanted))


def feature_sets(method: str, bench: Bench, seeds: int) -> list[CalibrationSet]:
    """Calibration sets of a method: one per seed of synthetic features, one of a control."""
    recipe = bench.recipe
    numbers = range(seeds) if method == "synthetic" else [recipe.calibration.seed]
    seeded = [replace(recipe, calibration=replace(recipe.calibration, seed=seed)) for seed in numbers]
    return [calibration_features(method, item, bench.exported) for item in seeded]


def cell(bench: Bench, features: Sequence[CalibrationSet], setting: Setting) -> Cell:
    """One setting over its calibration sets; one that needs no data is scored on the first for all of them."""
    changes = SETTINGS[setting.correction] | {"weight_bits": setting.weight_bits, "weight_group": setting.weight_group}
    settings: Quantization = replace(bench.recipe.quantization, **changes)
    again = 1 if settings.data_free else len(features)
    scored = [score(bench, item, settings) for item in features[:again]]
    return cell_of(setting, settings.weight_only, scored * (len(features) // again))


def score(bench: Bench, features: CalibrationSet, settings: Quantization) -> Scored:
    """One calibration set with one setting, on speech."""
    exported, network, reference = bench.exported, bench.exported.network, bench.reference
    table = make_table(exported, features, settings, {})
    with scratch() as folder:
        files = quantized(exported, table, settings.exclude, folder)
        heard = usable_result(network, files, bench.utterances, bench.recipe.evaluation)
        found = outputs(network, files, bench.examples)
    total = scores(bench.outputs, found)
    return Scored(
        wer=heard.rate if heard else None,
        disagreement=word_disagreement(reference, heard) if heard else None,
        agreement=100 * total.token_agreement,
        sqnr_db=total.sqnr_db,
        sets=set_rates(heard) if heard else dict.fromkeys(set_rates(reference)),
    )


def set_rates(result: WerResult) -> dict[str, float]:
    """Evaluation set -> WER (or CER) in percent; none where there is one set only."""
    parts = by_dataset(result)
    return {name: part.rate for name, part in parts.items()} if len(parts) > 1 else {}


def cell_text(found: Cell) -> str:
    """A line of the table in one line of the log."""
    return (
        f"{found.weights}, {found.correction!r}, {LABELS[found.features]}: WER {spread(found.wer)}, disagreement "
        f"{spread(found.disagreement)}, agreement {spread(found.agreement)}, SQNR {spread(found.sqnr_db)} dB"
    )


def ablation_json(found: Ablation, recipe: Recipe) -> dict[str, Any]:
    """All figures as JSON types, and the settings that they depend on."""
    return {
        "wer_fp32": found.reference.wer,
        "cer_fp32": found.reference.cer,
        "sets_fp32": plain(found.sets),
        "measure": found.reference.measure,
        "normalizer": found.reference.normalizer,
        "audio": list(recipe.audio_manifests),
        "weight_only": recipe.quantization.weight_only,
        "settings": plain(found.settings),
        "cells": plain(found.cells),
    }


def settings_of(recipe: Recipe, checkpoint: Checkpoint, plan: Plan, reference: WerResult) -> dict[str, Any]:
    """What the figures of a cell depend on beside its `Setting`, in JSON types."""
    speech = dict.fromkeys((*recipe.evaluation.manifest, *recipe.audio_manifests))
    return {
        "format": FORMAT,
        "checkpoint_sha256": checkpoint.sha256,
        "manifest_sha256": [sha256_file(Path(name)) for name in speech if is_file(Path(name))],
        "seeds": plan.seeds,
        "fp32": [reference.errors, reference.words, reference.character_errors, reference.characters],
        **{name: section for name, section in to_dict(recipe).items() if name in SECTIONS},
    }


def refuse_other_work(file: Path, resume: bool) -> None:
    """Refuse, before hours of work, a file that cannot be written, or that holds figures already.

    Raises:
        UsageError: naming it.
    """
    replaceable(file)
    if is_there(file) and not resume:
        raise UsageError(f"{file}: is there already", "add --resume to go on with it, or name another file with -o")


def kept(file: Path, settings: Mapping[str, Any]) -> dict[Setting, Cell]:
    """The cells of a file; none where there is no file yet.

    Raises:
        UsageError: no file of an ablation, or one of other settings, which are named.
    """
    if not is_there(file):
        return {}
    found = Source(file, UsageError, "name another file with -o").json(Stored)
    other = [name for name, value in settings.items() if found.settings.get(name) != value]
    if other:
        raise UsageError(
            f"{file}: is of other settings ({', '.join(other)})", "give those that it was begun with, or another file"
        )
    return {item.setting: item for item in found.cells}
