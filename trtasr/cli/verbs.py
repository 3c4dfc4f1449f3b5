"""The verbs of the command line: arguments in, a summary for people and for machines out."""

import argparse
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trtasr.cli.text import (
    comparison_text,
    compile_data,
    compile_text,
    cpu_speed_line,
    latency_text,
    layers_text,
    peak_gb,
    speed_lines,
)
from trtasr.engine.inspect import trtexec_layers
from trtasr.engine.probe import probe
from trtasr.errors import AudioError, RecipeError, UsageError
from trtasr.files.look import is_folder, is_there
from trtasr.files.write import copy_file, replaceable, write_json
from trtasr.pipeline.ablation import SETTINGS, Plan, ablate, ablation_json
from trtasr.pipeline.acceptance.archive import pack
from trtasr.pipeline.acceptance.run import accept
from trtasr.pipeline.compare import COMPARED_UTTERANCES, compare_bundle, compare_layers
from trtasr.pipeline.compile import STAGES, calibrate_recipe, compile_recipe, rehearse
from trtasr.pipeline.gates import slower_than_fp16
from trtasr.pipeline.integer import compare_integer, prove_bundle
from trtasr.pipeline.job import Options, refuse_layer_times
from trtasr.pipeline.measure import PROFILE
from trtasr.pipeline.opened import default_target, layered_target, open_engine
from trtasr.pipeline.record import bench_json
from trtasr.pipeline.use import Transcript, bench_bundle, engine_layers, estimate_bundle, transcribe_files
from trtasr.recipe import LABELS, Change, Evaluation, Recipe, change, from_dict, override, to_dict
from trtasr.recipe.find import ENGINES, find_recipe
from trtasr.report.ablation_view import ablation_table
from trtasr.report.difference_view import difference_lines
from trtasr.report.error_view import corrections
from trtasr.report.integer_view import integer_text, proof_json, proof_text
from trtasr.report.roofline import roofline_text
from trtasr.report.table import last_line, sqnr_table, summary_table
from trtasr.results import Record, plain
from trtasr.targets import check_target
from trtasr.text.printable import json_text, one_line

logger = logging.getLogger(__name__)
CALIB, ACCEPTANCE = Path("calib"), ENGINES / "t4-acceptance"  # a container mounts ENGINES
SHAPE = re.compile(r"features:(\d{1,9})x(\d{1,9})x(\d{1,9})", re.ASCII)


@dataclass(frozen=True)
class Summary:
    """What a verb prints.

    Attributes:
        text: for people; the last line is machine-readable where something was built. An iterator gives lines that
            are printed as they come, and may end in an error.
        data: for ``--json``.
        exit_code: of the process.
    """

    text: str | Iterator[str]
    data: Any = field(default_factory=dict)
    exit_code: int = 0


def resolve_recipe(arguments: argparse.Namespace) -> Recipe:
    """Recipe of a model argument (bundled name, TOML file, archive or folder), with the flags applied.

    Raises:
        RecipeError: no such model, or a value that does not fit.
    """
    flags = [
        Change("--manifest", "evaluation.manifest", arguments.manifest),
        Change("--correction", "quantization.correction", arguments.correction),
    ]
    recipe = change(find_recipe(arguments.model), given(flags))
    recipe = override(recipe, arguments.assignments)
    recipe = with_engine_flags(recipe, arguments) if arguments.verb == "compile" else recipe
    check_target(recipe.engine.target, "--target" if getattr(arguments, "target", None) else "engine.target")
    return recipe


def speech(arguments: argparse.Namespace) -> list[Path]:
    """The manifests of a verb on a bundle; empty: the recipe's are meant."""
    return [Path(name) for name in arguments.manifest or ()]


def given(flags: Iterable[Change]) -> list[Change]:
    """The changes of a recipe whose flags are given: others are None, or False."""
    return [flag for flag in flags if flag.value is not None and flag.value is not False]


def with_engine_flags(recipe: Recipe, arguments: argparse.Namespace) -> Recipe:
    """Apply the flags on the engine but shapes, which need the model.

    Raises:
        RecipeError: an unknown target, or a value out of bounds.
    """
    flags = [
        Change("--target", "engine.target", arguments.target),
        Change("--compute-capability", "engine.compute_capability", arguments.compute_capability),
        Change("--quantization", "engine.quantization", arguments.quantization),
        Change("--timingCacheFile", "engine.timing_cache", arguments.timing_cache),
        Change("--quantize-depthwise", "engine.quantize_depthwise", arguments.quantize_depthwise),
        Change("--allow-slower", "evaluation.allow_slower", arguments.allow_slower),
        Change("--min-sqnr", "evaluation.min_sqnr", arguments.min_sqnr),
        Change("--max-wer-drop", "evaluation.max_wer_increase", arguments.max_wer_drop),
        Change("--max-wer-drop", "evaluation.mixed", arguments.max_wer_drop is not None),
    ]
    return change(recipe, given(flags))


def asked_shapes(arguments: argparse.Namespace) -> dict[str, tuple[int, int, int]]:
    """``min``, ``opt`` and ``max`` -> batch, feature rows and frames, of trtexec's flags that are given.

    Raises:
        RecipeError: a shape that is not ``features:BxMELxT``.
    """
    found = {}
    for which in ("min", "opt", "max"):
        text = getattr(arguments, f"{which}_shapes")
        if text is not None:
            match = SHAPE.fullmatch(text)
            if not match or not all(map(int, match.groups())):
                raise RecipeError(f"--{which}Shapes={text:.80}", "write it as features:BATCHxMELxFRAMES")
            found[which] = (int(match[1]), int(match[2]), int(match[3]))
    return found


def compile_verb(arguments: argparse.Namespace) -> Summary:
    """``trtasr compile``."""
    recipe, shapes = resolve_recipe(arguments), asked_shapes(arguments)
    out, calib = arguments.out or ENGINES / recipe.name, arguments.calib_dir or CALIB
    check_outputs(recipe, arguments)
    options = Options(out, calib, arguments.controls, arguments.recalibrate, arguments.out is not None, shapes)
    if arguments.dry_run:
        job = rehearse(recipe, options)
        data = {
            "recipe": to_dict(job.recipe),
            "stages": list(STAGES),
            "targets": [t.name for t in job.targets],
            "out": str(out),
            "utterances": len(job.utterances),
        }
        return Summary(json_text(data), data)
    record = compile_recipe(recipe, options)
    write_extras(record, out, arguments)
    return Summary(compile_text(record, out), compile_data(record, out), 3 if record.problems else 0)


def check_outputs(recipe: Recipe, arguments: argparse.Namespace) -> None:
    """Refuse output files that could not be written at the end, before anything is built.

    Raises:
        UsageError: a folder, a device, a FIFO, a file in no folder or in one that cannot be written, or layer times
            without an engine that has them.
        MissingError: layer times without a T4 host.
    """
    timings = Path(recipe.engine.timing_cache) if recipe.engine.timing_cache else None
    for file in (arguments.save_engine, arguments.export_layers, arguments.export_profile, timings):
        if file and is_folder(file):
            raise UsageError(f"{file}: is a folder", "name a file")
        if file and file != timings and not is_folder(file.parent):
            raise UsageError(f"{file}: its folder does not exist", "create it first")
        if file and file != timings and not os.access(file.parent, os.W_OK):
            raise UsageError(f"{file}: its folder cannot be written", "choose another one")
        if file and (file != timings or is_there(file)):  # timings that cannot be kept cost no build
            replaceable(file)
    if arguments.export_profile:
        refuse_layer_times(recipe.engine)


def write_extras(record: Record, out: Path, arguments: argparse.Namespace) -> None:
    """Honour trtexec's ``--saveEngine``, ``--exportLayerInfo`` and ``--exportProfile`` for the first engine.

    Of several plans each gets the name of its part in front of the suffix, and one without masks ``.unmasked``.
    """
    engine = record.engines[0]
    for plan in engine.unmasked if arguments.save_engine else ():
        copy_file(out / plan.path, arguments.save_engine.with_suffix(f".unmasked{arguments.save_engine.suffix}"))
    for path in engine.paths if arguments.save_engine else ():
        part = f".{Path(path).name.partition('.')[0]}" if len(engine.paths) > 1 else ""
        copy_file(out / path, arguments.save_engine.with_suffix(part + arguments.save_engine.suffix))
    if arguments.export_layers:
        write_json(arguments.export_layers, trtexec_layers(engine.layers))
    if arguments.export_profile:
        copy_file((out / engine.paths[0]).with_name(PROFILE), arguments.export_profile)


def calibrate_verb(arguments: argparse.Namespace) -> Summary:
    """``trtasr calibrate``."""
    recipe = resolve_recipe(arguments)
    found = calibrate_recipe(recipe, Options(Path(), arguments.calib_dir or CALIB, replace=bool(arguments.calib_dir)))
    files = {"table": str(found.path), "cache": str(found.cache)}
    peak = peak_gb()
    data = {
        **files,
        "activations": len(found.table.activations),
        "weights": len(found.table.weights),
        "dead_channels": sum(len(w.floored) for w in found.table.weights.values()),
        "method": recipe.calibration.method,
        "correction": recipe.quantization.correction,
        "alphas": dict(found.table.alphas),
        "seconds": dict(found.seconds),
        "peak_gb": peak,
    }
    lines = [
        f"{found.path}: {data['activations']} activation scales, {data['weights']} weights, "
        f"{data['dead_channels']} dead channels",
        f"{found.cache}: the same scales as a TensorRT calibration cache",
        *(line for line in [corrections(found.table)] if line),
        ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in found.seconds.items())
        + f"; peak memory {peak:.1f} GB",
        last_line("PASSED", sum(found.seconds.values()), files),
    ]
    return Summary("\n".join(lines), data)


def bench_verb(arguments: argparse.Namespace) -> Summary:
    """``trtasr bench``."""
    settings = open_engine(arguments.bundle).recipe.evaluation
    changed = {} if arguments.threads is None else {"threads": arguments.threads}
    changed |= {"bench_seconds": arguments.seconds, "gpu_seconds": arguments.seconds} if arguments.seconds else {}
    changed |= {"gpu_batches": arguments.batch} if arguments.batch else {}
    changed |= {"allow_slower": True} if arguments.allow_slower else {}
    settings = from_dict(Evaluation, asdict(settings) | changed, "bench")
    results = bench_bundle(arguments.bundle, speech(arguments), settings)
    lines = [summary_table(results), *difference_lines(results)]
    for result in results:
        lines += [latency_text(result.engine, latency) for latency in result.timings]
    lines += cpu_speed_line(results) + speed_lines(results)
    slow = slower_than_fp16(results, settings.allow_slower)
    lines += [f"gate missed: {problem}" for problem in slow]
    return Summary("\n".join(lines), [bench_json(result) for result in results], 3 if slow else 0)


def compare_verb(arguments: argparse.Namespace) -> Summary:
    """``trtasr compare``."""
    if arguments.integer:
        return compare_integer_verb(arguments)
    usual = layered_target if arguments.layers else default_target
    target = arguments.target or usual(arguments.bundle)
    utterances = COMPARED_UTTERANCES if arguments.utterances is None else arguments.utterances
    if arguments.layers:
        found = compare_layers(arguments.bundle, target, speech(arguments), utterances)
        return Summary(sqnr_table(found, target), {"reference": "fp32", "candidate": target, "sqnr_db": plain(found)})
    result = compare_bundle(arguments.bundle, target, speech(arguments), arguments.out, utterances)
    return Summary(comparison_text(result, arguments.out), plain(result))


def compare_integer_verb(arguments: argparse.Namespace) -> Summary:
    """``trtasr compare --integer``; ends with 3 when the executor and ONNX Runtime do not agree."""
    if arguments.target or arguments.layers:
        raise UsageError("--integer compares all forms of a network, layer by layer", "leave --target and --layers out")
    found = compare_integer(arguments.bundle, speech(arguments), arguments.utterances)
    return Summary(integer_text(found, arguments.all), plain(found), 3 if found.unequal else 0)


def inspect_verb(arguments: argparse.Namespace) -> Summary:
    """``trtasr inspect``."""
    if arguments.roofline:
        if arguments.target or arguments.integer:
            raise UsageError("--roofline estimates a Tesla T4 whatever was built", "leave --target and --integer out")
        estimate = estimate_bundle(arguments.bundle, arguments.batch, arguments.seconds)
        return Summary(roofline_text(estimate), {"estimate": plain(estimate), "estimate_total_ms": estimate.totals_ms})
    if arguments.integer:
        if arguments.target:
            raise UsageError("--integer proves the one integer-only graph of a bundle", "leave --target out")
        proof = prove_bundle(arguments.bundle)
        return Summary(proof_text(proof, arguments.all), proof_json(proof))
    engines = engine_layers(arguments.bundle)
    if arguments.target and arguments.target not in engines:
        raise UsageError(f"{arguments.bundle}: has no {arguments.target} engine", f"use one of {', '.join(engines)}")
    chosen = {arguments.target: engines[arguments.target]} if arguments.target else engines
    return Summary(layers_text(chosen, arguments.all), plain(chosen))


def transcribe_verb(arguments: argparse.Namespace) -> Summary:
    """``trtasr transcribe``: a transcript is printed as soon as it is there; with ``--json`` all at the end."""
    target = arguments.target or default_target(arguments.bundle)
    found = transcribe_files(arguments.bundle, target, arguments.audio, arguments.channel)
    if len(arguments.audio) == 1 and not is_folder(arguments.audio[0]):
        (only,) = found
        if only.fault:
            raise only.fault
        return Summary(only.pred_text, [transcript_json(only)])
    if not arguments.json:
        return Summary(transcript_lines(found))
    rows = list(found)
    for row in rows:
        tell_fault(row)
    bad = any(row.fault for row in rows)
    return Summary("", [transcript_json(row) for row in rows], AudioError.exit_code if bad else 0)


def transcript_lines(found: Iterable[Transcript]) -> Iterator[str]:
    """File and transcript, a line each; files that could not be used are named on stderr.

    Raises:
        AudioError: at the end, if there were such files.
    """
    bad = 0
    for row in found:
        if row.fault:
            tell_fault(row)
            bad += 1
        else:
            yield f"{one_line(row.audio_filepath)}\t{one_line(row.pred_text)}"
    if bad:
        raise AudioError(f"{bad} of the audio files could not be transcribed", "see above; the others were")


def transcript_json(row: Transcript) -> dict[str, str | None]:
    """One file as JSON types; ``error`` where there is no transcript."""
    if row.fault:
        return {"audio_filepath": row.audio_filepath, "pred_text": None, "error": row.fault.problem}
    return {"audio_filepath": row.audio_filepath, "pred_text": row.pred_text}


def tell_fault(row: Transcript) -> None:
    """Name a file that could not be used, and the repair."""
    if row.fault:
        logger.error("%s", row.fault)


def doctor_verb(arguments: argparse.Namespace) -> Summary:
    """``trtasr doctor``: what this machine can build and run, and how to get what is missing."""
    del arguments
    found = probe()
    lines = []
    for item in found:
        lines.append(f"{'yes' if item.available else 'no ':3s}  {item.name}: {item.detail}")
        lines.append(f"       {item.enables}" + (f"; to get it: {item.repair}" if item.repair else ""))
    return Summary("\n".join(lines), plain(found))


def ablation_verb(arguments: argparse.Namespace) -> Summary:
    """``trtasr ablation``: corrections beside each other, and their controls."""
    if arguments.seeds < 1 or any(not 2 <= bits <= 8 for bits in arguments.bits or ()):
        raise UsageError(f"--seeds {arguments.seeds} --bits {arguments.bits}", "use at least one seed and 2 to 8 bits")
    unknown = set(arguments.only or ()) - SETTINGS.keys()
    if unknown:
        raise UsageError(f"--only {sorted(unknown)[0]!r}", f"use one of {', '.join(map(repr, SETTINGS))}")
    recipe = resolve_recipe(arguments)
    groups = tuple(arguments.groups or [recipe.quantization.weight_group])
    for group in groups:
        change(recipe, [Change("--groups", "quantization.weight_group", group)])  # refuses what no recipe may have
    plan = Plan(arguments.seeds, tuple(arguments.bits or Plan.bits), tuple(arguments.only or Plan.names), groups)
    found = ablate(recipe, plan, arguments.out or Path(f"{recipe.name}.ablation.json"), arguments.resume)
    labels = {method: recipe.label(method) for method in LABELS}
    return Summary(ablation_table(found, labels), ablation_json(found, recipe))


def acceptance_verb(arguments: argparse.Namespace) -> Summary:
    """``trtasr acceptance``: what only a T4 host can prove."""
    out, started = arguments.out or ACCEPTANCE, time.monotonic()
    if arguments.pack:
        packed = pack(out, arguments.everything)
        return Summary(str(packed), {"archive": str(packed)})
    recipe = resolve_recipe(arguments)
    file, table, passed = accept(recipe, out, arguments.calib_dir or CALIB, replace=arguments.out is not None)
    outcome = "PASSED" if passed else "FAILED"
    text = f"{table}\n{last_line(outcome, time.monotonic() - started, {'result': str(file)})}"
    return Summary(text, json.loads(file.read_text(encoding="utf-8")), 0 if passed else 3)


VERBS: Mapping[str, Callable[[argparse.Namespace], Summary]] = {
    "compile": compile_verb,
    "calibrate": calibrate_verb,
    "bench": bench_verb,
    "compare": compare_verb,
    "inspect": inspect_verb,
    "acceptance": acceptance_verb,
    "ablation": ablation_verb,
    "transcribe": transcribe_verb,
    "doctor": doctor_verb,
}
