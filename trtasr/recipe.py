"""Recipes: frozen dataclasses read from TOML, overridden by ``--set section.key=value``.

An unknown key is an error that names the nearest known key; a value of the wrong kind is an error that names the kind.
"""

import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

from trtasr.errors import RecipeError

TARGETS = ("auto", "t4", "t4-rtx", "cpu")
METHODS = ("synthetic", "noise", "audio")
SMALLEST: Mapping[str, float] = {
    "batches": 1, "batch_size": 1, "steps": 1, "seconds": 0.1, "min_seconds": 0.05, "headroom": 0.1, "min_batch": 1,
    "max_wer_increase": 0.0, "batch": 1, "threads": 0, "workspace_mb": 0, "learning_rate": 1e-9, "seed": 0,
    "min_sqnr": 0.0, "alpha": 0.0, "damping": 1e-6, "weight_bits": 2,
    "unfold_channels": 1, "tokens_per_second": 0.0}  # fmt: skip
LARGEST: Mapping[str, float] = {"alpha": 1.0, "weight_bits": 8, "tokens_per_second": 100.0}
CORRECTIONS = ("none", "bias", "qep", "fade")
ROUNDINGS = ("nearest", "gptq")
RANGES = ("max", "percentile", "mse", "entropy")
QUANTIZATIONS = ("explicit", "implicit")
CALIBRATORS = ("table", "entropy", "minmax")
NORMALIZERS = ("auto", "basic-en-v1", "unicode-v1", "none")
CAPABILITIES = ("7.5", "8.6", "8.9", "12.0")


@dataclass(frozen=True)
class Calibration:
    """Where the calibration features come from.

    Attributes:
        method: ``synthetic`` (no data), or the controls ``noise`` and ``audio``.
        seed: of the synthetic start and of the noise.
        batches: synthetic batches; batch_size: utterances each; seconds: length of each utterance.
        steps: most optimizer steps per batch.
        learning_rate: of Adam on the features.
        bfloat16: run the network in bfloat16 while optimizing.
        manifest: audio for method ``audio`` and for the audio control; empty: the evaluation manifest's audio.
    """

    method: str = "synthetic"
    seed: int = 0
    batches: int = 6
    batch_size: int = 4
    seconds: float = 4.0
    steps: int = 30
    learning_rate: float = 0.05
    bfloat16: bool = True
    manifest: str = ""


@dataclass(frozen=True)
class Quantization:
    """How ranges become scales, and which nodes stay out.

    Attributes:
        ranges: observer of activation ranges: ``max``, ``percentile``, ``mse`` or ``entropy``.
        headroom: factor on the observed ranges; above 1 leaves room for what the calibration data lack.
        center: shift one-sided channels between depthwise and pointwise convolutions to halve their range.
        correction: of weights for the quantization error of earlier layers: ``none``, ``bias`` (mean error only),
            ``qep`` (one strength for all layers) or ``fade`` (a strength per layer).
        alpha: strength of ``qep``, 0 to 1.
        damping: of ``qep`` and ``fade``: lambda over the mean power of a layer's input channels, at least 1e-6.
        rounding: of weights: ``nearest``, or ``gptq`` (rounding errors are compensated by later columns).
        weight_bits: 8; fewer are simulated on INT8 codes, in the layers that are INT8 on the T4.
        weight_only: simulates weights of `weight_bits` beside activations that stay in floating point, as the papers on
            QEP and FADE have it; no engine is built so.
        exclude: ONNX node name patterns that are never quantized, as in ``["/encoder/encoder.0/*"]``.
    """

    ranges: str = "max"
    headroom: float = 1.0
    center: bool = True
    correction: str = "none"
    alpha: float = 0.5
    damping: float = 0.1
    rounding: str = "nearest"
    weight_bits: int = 8
    weight_only: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class EngineShapes:
    """What is built: target, accepted shapes in units of speech, and the builder's settings.

    Attributes:
        target: ``auto``, ``t4``, ``t4-rtx`` or ``cpu``.
        min_seconds: shortest, opt_seconds: most common, max_seconds: longest utterance.
        min_batch, opt_batch, max_batch: utterances per run.
        compute_capability: of the GPU that a `t4-rtx` plan is for: 7.5 (T4), 8.6, 8.9 or 12.0.
        quantize_depthwise: depthwise convolutions in INT8 too; sm_75 has no kernel for them.
        unfold_channels: of `t4-rtx`: convolutions of kernel k > 1 over time with at least so many output channels O run
            as INT8 products of k shifted copies of their input. For each input channel and output frame that saves
            k O / 65e12 s of arithmetic (130 TOPS in INT8, 65 TFLOPS in FP16) and moves k bytes twice (320 GB/s): even
            at O = 406 where all copies go through memory, at 203 where the product finds them in the cache.
            Estimated from the T4's peaks, not measured; INT8 also halves the weights.
        quantization: of `t4`: ``explicit`` (Q/DQ nodes) or ``implicit`` (calibrator, TensorRT 10 only).
        calibrator: implicit: ``table`` serves the scale table as a cache, ``entropy`` and ``minmax`` let TensorRT take
            its own ranges from the calibration features.
        workspace_mb: of `t4`: limit of the builder's scratch memory in MiB; 0: all of the GPU's.
        timing_cache: of `t4`: file; empty: one per GPU and TensorRT version in the user's cache folder.
    """

    target: str = "auto"
    min_seconds: float = 0.2
    opt_seconds: float = 5.0
    max_seconds: float = 20.0
    min_batch: int = 1
    opt_batch: int = 1
    max_batch: int = 8
    compute_capability: str = "7.5"
    quantize_depthwise: bool = False
    unfold_channels: int = 256
    quantization: str = "explicit"
    calibrator: str = "table"
    workspace_mb: int = 0
    timing_cache: str = ""


@dataclass(frozen=True)
class Evaluation:
    """What is measured and what must hold.

    Attributes:
        manifest: NeMo JSON lines or a LibriSpeech-style folder; empty: no WER.
        max_wer_increase: absolute percentage points INT8 may lose; more is a missed gate (exit 3).
        normalizer: of references and transcripts before WER and CER: ``basic-en-v1``, ``unicode-v1``, ``none``, or
            ``auto``: ``basic-en-v1`` where all letters of the references are a-z, else ``unicode-v1``.
        batch: utterances per run when measuring WER.
        bench_seconds: seconds of audio per run benchmarked on the CPU, batch 1.
        threads: CPU threads of the latency benchmark; 0: all usable CPUs.
        gpu_seconds: seconds of audio per utterance benchmarked on a GPU; gpu_batches: utterances per run.
        min_sqnr: the worst layers stay in floating point until the log-probabilities on calibration features reach this
            SQNR in dB; 0: no such budget.
        mixed: the same until WER rises by at most `max_wer_increase`.
        allow_slower: True accepts an INT8 plan that is no faster than FP16 on the GPU; else that is a missed gate.
    """

    manifest: str = ""
    max_wer_increase: float = 0.3
    normalizer: str = "auto"
    batch: int = 1
    bench_seconds: tuple[float, ...] = (2.0, 7.0, 15.0)
    threads: int = 1
    gpu_seconds: tuple[float, ...] = (2.0, 7.0, 16.7)
    gpu_batches: tuple[int, ...] = (1, 8)
    min_sqnr: float = 0.0
    mixed: bool = False
    allow_slower: bool = False


@dataclass(frozen=True)
class Generating:
    """How an encoder-decoder writes.

    Attributes:
        tokens_per_second: at most so many tokens per second of audio; 0: as many as the checkpoint says.
    """

    tokens_per_second: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """One deployable engine.

    Attributes:
        name: bundle name; checkpoint: path of the archive, relative to the recipe file.
        calibration, quantization, engine, evaluation, generation: the sections above.
    """

    name: str
    checkpoint: str
    calibration: Calibration = field(default_factory=Calibration)
    quantization: Quantization = field(default_factory=Quantization)
    engine: EngineShapes = field(default_factory=EngineShapes)
    evaluation: Evaluation = field(default_factory=Evaluation)
    generation: Generating = field(default_factory=Generating)


def load_recipe(path: Path) -> Recipe:
    """Read a TOML recipe; relative paths in it are resolved against its folder.

    Raises:
        RecipeError: missing file, broken TOML, unknown key, value of the wrong kind.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such recipe", "pass a .nemo archive or a recipe, see engines/*.toml") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise RecipeError(f"{path}: not a TOML recipe ({error})", "compare it with engines/quartznet.toml") from error
    recipe = cast(Recipe, build(Recipe, {"name": path.stem, **data}, str(path)))
    return resolve_paths(recipe, path.parent)


def resolve_paths(recipe: Recipe, folder: Path) -> Recipe:
    """Make the recipe's relative paths relative to the current folder instead of the recipe's."""

    def resolve(value: str) -> str:
        return str(folder / value) if value else ""

    return replace(
        recipe,
        checkpoint=resolve(recipe.checkpoint),
        calibration=replace(recipe.calibration, manifest=resolve(recipe.calibration.manifest)),
        engine=replace(recipe.engine, timing_cache=resolve(recipe.engine.timing_cache)),
        evaluation=replace(recipe.evaluation, manifest=resolve(recipe.evaluation.manifest)),
    )


def override(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """Apply ``section.key=value`` assignments; values are TOML, bare words are taken as strings.

    Raises:
        RecipeError: no ``=``, unknown key, or a value of the wrong kind.
    """
    data = asdict(recipe)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise RecipeError(f"--set {assignment!r}: no '='", "write it as --set section.key=value")
        _assign(data, key.strip().split("."), parse_value(text.strip()), assignment)
    return cast(Recipe, build(Recipe, data, "--set"))


def parse_value(text: str) -> Any:
    """One TOML value; a bare word is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe as plain JSON types."""
    return cast(dict[str, Any], _plain(asdict(recipe)))


def build(kind: type, data: Mapping[str, Any], where: str) -> Any:
    """A dataclass from a mapping, with every key and value checked.

    Raises:
        RecipeError: naming ``where`` and the key.
    """
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind)]
    for key in data:
        if key not in names:
            near = difflib.get_close_matches(key, names, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(names)}"
            raise RecipeError(f"{where}: unknown key {key!r}", hint)
    missing = [n for n in ("name", "checkpoint") if n in names and n not in data]
    if missing:
        raise RecipeError(f"{where}: missing key {missing[0]!r}", "add it; see engines/quartznet.toml")
    built = kind(**{k: _value(hints[k], v, f"{where}: {k}") for k, v in data.items()})
    _check(built, where)
    return built


def _value(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where}: expected a section, got {value!r}", "write it as a TOML table")
        return build(cast(type, hint), value, where)
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise RecipeError(f"{where}: expected a list, got {value!r}", f"write it as [{value!r}]")
        return tuple(_value(item, v, where) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{where}: {value}", "give a finite number")
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        repair = f"put it in quotes: '\"{value}\"'" if hint is str else f"give a {hint.__name__}"
        raise RecipeError(f"{where}: expected {hint.__name__}, got {value!r}", repair)
    return value


def _assign(data: dict[str, Any], path: list[str], value: Any, assignment: str) -> None:
    for part in path[:-1]:
        if not isinstance(data.get(part), dict):
            near = difflib.get_close_matches(part, list(data), 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"sections: {', '.join(data)}"
            raise RecipeError(f"--set {assignment!r}: unknown section {part!r}", hint)
        data = data[part]
    data[path[-1]] = value


def _check(section: Any, where: str) -> None:
    choices = ((Calibration, "method", METHODS), (Quantization, "ranges", RANGES), (EngineShapes, "target", TARGETS),
               (Quantization, "correction", CORRECTIONS), (Quantization, "rounding", ROUNDINGS),
               (EngineShapes, "quantization", QUANTIZATIONS), (EngineShapes, "calibrator", CALIBRATORS),
               (EngineShapes, "compute_capability", CAPABILITIES), (Evaluation, "normalizer", NORMALIZERS))  # fmt: skip
    for kind, key, allowed in choices:
        if isinstance(section, kind) and getattr(section, key) not in allowed:
            raise RecipeError(f"{where}: {key} = {getattr(section, key)!r}", f"use one of {', '.join(allowed)}")
    for f in fields(section):
        value = getattr(section, f.name)
        if f.name in SMALLEST and value < SMALLEST[f.name]:
            raise RecipeError(f"{where}: {f.name} = {value}", f"use at least {SMALLEST[f.name]}")
        if f.name in LARGEST and value > LARGEST[f.name]:
            raise RecipeError(f"{where}: {f.name} = {value}", f"use at most {LARGEST[f.name]}")
    if isinstance(section, Evaluation):
        _check_benchmark(section, where)
    if isinstance(section, EngineShapes):
        _check_order(section, where)


def _check_benchmark(evaluation: Evaluation, where: str) -> None:
    for key, lengths in (("bench_seconds", evaluation.bench_seconds), ("gpu_seconds", evaluation.gpu_seconds)):
        if not lengths or any(not 0 < seconds <= 3600 for seconds in lengths):
            raise RecipeError(f"{where}: {key} = {list(lengths)}", "use lengths of 0..3600 seconds, at least one")
    if not evaluation.gpu_batches or any(batch < 1 for batch in evaluation.gpu_batches):
        raise RecipeError(f"{where}: gpu_batches = {list(evaluation.gpu_batches)}", "use batches of at least 1")


def _check_order(shapes: EngineShapes, where: str) -> None:
    for unit in ("batch", "seconds"):
        low, usual, high = (getattr(shapes, f"{which}_{unit}") for which in ("min", "opt", "max"))
        if not low <= usual <= high:
            raise RecipeError(f"{where}: {unit} {low}, {usual}, {high} is not min <= opt <= max", "put them in order")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value
