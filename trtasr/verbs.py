"""What one does with a finished bundle: bench, compare, inspect, transcribe."""

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from trtasr.audio.features import FrontendConfig
from trtasr.audio.frontend import Frontend, frontend_from_json
from trtasr.audio.manifest import ManifestEntry, read_manifest
from trtasr.audio.read import Reading, Refuse
from trtasr.audio.source import audio_files
from trtasr.audio.stored import FILE, read_stored
from trtasr.bench.roofline import roofline
from trtasr.bench.wer import Prepared
from trtasr.bundle import REPAIR, SIDECAR, Bundle, Sidecar, open_bundle
from trtasr.calibrate import writable
from trtasr.engine.build_tensorrt import require_tensorrt
from trtasr.engine.compare import compare
from trtasr.engine.compare_pair import Dictated, compare_pair
from trtasr.engine.external import external_files
from trtasr.engine.faults import model_errors
from trtasr.engine.memory import MemoryLimit
from trtasr.engine.profile import Profile
from trtasr.engine.run import load_model
from trtasr.errors import AudioError, BundleError, MissingError, UsageError
from trtasr.evaluate import Listener, feeds, prepare, running, transcriber
from trtasr.files.look import is_there
from trtasr.files.read import Source
from trtasr.gpu import INT8
from trtasr.graph.qdq import decide
from trtasr.graph.traffic import layer_traffic
from trtasr.lower import profile
from trtasr.lower_pair import encoder_profile
from trtasr.measure import TIMED_HERE, Subject, measure_rows, rows_of
from trtasr.pair_run import Texts, files_of, is_pair, refuse_above, refuse_longer, texts_from
from trtasr.pair_speech import spoken_tokens
from trtasr.recipe import Evaluation, Recipe, build
from trtasr.roofline import Roofline
from trtasr.targets.integer import INTEGER
from trtasr.targets.t4 import T4
from trtasr.values import BenchResult, Comparison, Engine, LayerRow

logger = logging.getLogger(__name__)
LONGEST = 3600  # seconds of audio that an estimate accepts


@dataclass(frozen=True)
class Opened:
    """A bundle with the parts its verbs need.

    Attributes:
        bundle: on disk; recipe: resolved; frontend: feature parameters; texts: how outputs become text.
    """

    bundle: Bundle
    recipe: Recipe
    frontend: Frontend
    texts: Texts

    @property
    def rows(self) -> int:
        """Feature rows."""
        return self.frontend.rows

    @property
    def manifest(self) -> Path | None:
        """The recipe's manifest: where it lay beside the bundle, else as the recipe spells it; None: it is not there.

        That way a bundle can be used from any folder, and be moved together with its manifest.
        """
        beside, named = self.bundle.sidecar.manifest, self.recipe.evaluation.manifest
        places = [self.bundle.path / beside] * bool(beside) + [Path(named)] * bool(named)
        return next(filter(is_there, places), None)

    def graph(self, target: str) -> Path:
        """The ONNX file that stands for a target in ONNX Runtime.

        Raises:
            UsageError: the bundle was not built for that target.
        """
        graphs = dict(self.bundle.sidecar.graphs)
        if held := self.bundle.sidecar.integer:
            graphs[INTEGER.name] = held.graph
        if target not in graphs:
            raise UsageError(f"{self.bundle.path}: has no {target} engine", f"use one of {', '.join(graphs)}")
        return self.files(graphs[target])

    def heard(self, entries: Sequence[ManifestEntry], benchmarks: Sequence[float] = ()) -> Sequence[Prepared]:
        """Features of each entry.

        Raises:
            AudioError: a broken recording, or one longer than the model hears. RecipeError: such a benchmark.
        """
        items = prepare(entries, self.frontend, Reading(refuse=self.limits(self.graph("fp32"))))
        if most := self.bundle.sidecar.most_frames:
            refuse_longer(self.frontend, most, (), benchmarks)
        return items

    def limits(self, engine: Path) -> Refuse:
        """What refuses audio that is too long for the model, or for this machine's memory."""
        checks: list[Refuse] = []
        if most := self.bundle.sidecar.most_frames:
            checks.append(refuse_above(self.frontend, most))
        if engine.suffix != ".plan":  # a plan has its longest shape, and its memory is the GPU's
            checks.append(MemoryLimit(engine, self.rows, self.frontend.frames_per_second))

        def refuse(path: Path, seconds: float) -> None:
            for check in checks:
                check(path, seconds)

        return refuse

    def files(self, name: str) -> Path:
        """The first file of a graph or engine; each of its files is checked, those that ONNX files name among them.

        Raises:
            BundleError: a file that is missing, changed, no ONNX model, or not the bundle's own.
        """
        files = files_of(Path(name))
        checked = [self.bundle.file(file.as_posix()) for file in files]
        for file, path in zip(files, checked, strict=True):
            if path.suffix != ".plan":
                for weights in external_files(load_model(path, weights=False)):
                    self.bundle.file((file.parent / weights).as_posix())
        return checked[0]

    def runnable(self, target: str) -> Path:
        """What is run for a target here: a `t4` plan where its GPU is, else the graph that stands for it.

        Raises:
            UsageError: the bundle was not built for that target.
        """
        graph = self.graph(target)
        if target == INT8 and usable_gpu():
            return self.files(self.bundle.sidecar.engines[target].path)
        if target not in (*TIMED_HERE, INTEGER.name):
            logger.info("the GPU of %s is not here: ONNX Runtime runs its Q/DQ graph", target)
        return graph


def usable_gpu() -> str:
    """Name of the GPU that runs `t4` plans here; empty where TensorRT, pycuda, the driver or a GPU is missing."""
    try:
        return require_tensorrt().gpu
    except MissingError:
        return ""


def open_engine(path: Path) -> Opened:
    """Open a bundle folder.

    Raises:
        BundleError: no bundle there, not of this format, or with values that no compile writes.
    """
    bundle = open_bundle(path)
    sidecar, where = bundle.sidecar, path / SIDECAR
    try:
        config = with_stored(frontend_from_json(sidecar.frontend), bundle)
        recipe = build(Recipe, sidecar.recipe, "recipe")
    except UsageError as error:
        raise BundleError(f"{where}: {error.problem}", REPAIR) from error
    check_kind(sidecar, where)
    return Opened(bundle, recipe, config, texts_from(bundle, config.frames_per_second))


def check_kind(sidecar: Sidecar, where: Path) -> None:
    """Refuse a sidecar that mixes CTC models and encoder-decoders.

    Raises:
        BundleError: naming what does not fit.
    """
    pair = sidecar.generation is not None
    for name in sidecar.named:
        if is_pair(Path(name)) != pair:
            model = "an encoder-decoder" if pair else "a CTC model"
            raise BundleError(f"{where}: {name:.80} is no file of {model}", REPAIR)
    if (sidecar.most_frames is not None) != pair:
        raise BundleError(f"{where}: most_frames does not fit generation", REPAIR)


def with_stored(config: Frontend, bundle: Bundle) -> Frontend:
    """The front-end with the mel bank and the window of its checkpoint, where the bundle holds them.

    Raises:
        BundleError: they were changed since, or are no such buffers.
    """
    if FILE not in bundle.sidecar.files or not isinstance(config, FrontendConfig):
        return config
    restored = replace(config, stored=read_stored(bundle.file(FILE)))
    restored.check()
    return restored


def bench_bundle(path: Path, manifest: Path | None, settings: Evaluation | None = None) -> tuple[BenchResult, ...]:
    """Measure a bundle again: latency here, and WER when there is a manifest (given, or the recipe's own).

    Returns:
        FP32 first, then each engine.
    """
    opened = open_engine(path)
    evaluation = settings or opened.recipe.evaluation
    shapes = accepted_shapes(opened)
    subject = Subject(path, opened.frontend, opened.texts, evaluation, shapes, usable_gpu())
    sidecar = opened.bundle.sidecar
    engines = [Engine(target, facts.path, facts.size_bytes) for target, facts in sidecar.engines.items()]
    rows = rows_of(subject, sidecar.graphs, engines)
    for row in rows:
        opened.files(row.path)  # what is measured is what was built
    source = manifest or opened.manifest
    if source is None and opened.recipe.evaluation.manifest:
        logger.warning(
            "%s: WER is not measured: the recipe's manifest %s is not here; name one with --manifest",
            path,
            opened.recipe.evaluation.manifest,
        )
    items = opened.heard(read_manifest(source) if source else [], evaluation.bench_seconds)
    return measure_rows(subject, rows, items).results


def accepted_shapes(opened: Opened) -> Profile:
    """Input shapes of the bundle's plans; of an encoder-decoder those of the encoder."""
    engine, config, most = opened.recipe.engine, opened.frontend, opened.bundle.sidecar.most_frames
    return encoder_profile(engine, config, most) if most else profile(engine, config.frames_per_second, opened.rows)


def compare_bundle(path: Path, target: str, manifest: Path | None, out: Path, limit: int) -> Comparison:
    """Polygraphy comparison of FP32 against one engine's graph on speech; files go to ``out``.

    Raises:
        UsageError: no speech to compare on.
    """
    opened = open_engine(path)
    items = compared_utterances(opened, target, manifest, limit)
    labels = ("fp32", f"int8-{target}")
    reference = opened.graph("fp32")
    candidate = opened.graph(target) if opened.texts.generation else opened.runnable(target)
    with model_errors(f"{path}: {target} against fp32"):
        if opened.texts.generation:
            spoken = spoken_tokens(reference, feeds(items), opened.texts)
            said = Dictated([feed for feed, _ in spoken], [tokens for _, tokens in spoken], "audio")
            return compare_pair(reference, candidate, said, writable(out), labels)
        return compare(reference, candidate, feeds(items), writable(out), labels, "audio")


def compared_utterances(opened: Opened, target: str, manifest: Path | None, limit: int) -> Sequence[Prepared]:
    """Speech to compare FP32 and an engine on.

    Raises:
        UsageError: none, fewer than one utterance, or FP32 is to be compared with itself.
    """
    if limit < 1:
        raise UsageError(f"--utterances {limit}", "compare at least one utterance")
    if target == "fp32":
        raise UsageError("--target fp32: it is what engines are compared with", "name an INT8 engine")
    if target == INTEGER.name:
        raise UsageError("--target integer: its logits are integers", "use --integer instead")
    items = opened.heard(read_manifest(manifest_of(opened, manifest), require_text=False)[:limit])
    if not any(item.frames for item in items):
        raise UsageError("nothing to compare on: every utterance is shorter than one frame", "give another manifest")
    return items


def manifest_of(opened: Opened, manifest: Path | None) -> Path:
    """The given manifest, else the recipe's.

    Raises:
        UsageError: neither, or the recipe's is not there.
    """
    if found := manifest or opened.manifest:
        return found
    named = opened.recipe.evaluation.manifest
    problem = f"the recipe's manifest {named} is not here" if named else "the recipe names no manifest"
    raise UsageError(f"{opened.bundle.path}: {problem}", "add --manifest FILE")


def engine_layers(path: Path) -> dict[str, tuple[LayerRow, ...]]:
    """Layer table of every engine of a bundle.

    Raises:
        BundleError: no bundle there, or a table that no compile writes.
    """
    file = open_bundle(path).file("layers.json")
    return Source(file, BundleError, REPAIR).json(dict[str, tuple[LayerRow, ...]])


def estimate_bundle(path: Path, batch: int, seconds: float) -> Roofline:
    """Roofline estimate of a bundle's network on a T4, INT8 where TensorRT's rules for the T4 allow it.

    Raises:
        UsageError: no positive batch or length. BundleError: no bundle there.
    """
    if batch < 1 or not 0 < seconds <= LONGEST:
        raise UsageError(
            f"--batch {batch} --seconds {seconds:g}", f"give a positive batch and a length of at most {LONGEST} s"
        )
    opened = open_engine(path)
    if opened.texts.generation:
        raise UsageError(
            f"{path}: an encoder-decoder, whose decoder runs once per token",
            "the estimate knows CTC models only; measure it with `trtasr bench`",
        )
    graph = opened.graph("fp32")
    model = load_model(graph)
    frames = max(1, round(seconds * opened.frontend.frames_per_second))
    with model_errors(graph):
        decisions = decide(model, T4.rules, opened.recipe.quantization.exclude)
        int8 = {decision.node for decision in decisions if decision.quantized}
        return roofline(layer_traffic(model, batch, frames), int8, batch, seconds)


def default_target(path: Path) -> str:
    """The engine that runs here as itself when the bundle has it (``t4``, ``cpu``), else the first one's graph."""
    graphs = open_bundle(path).sidecar.graphs
    if INT8 in graphs and usable_gpu():
        return INT8
    return "cpu" if "cpu" in graphs else layered_target(path)


def layered_target(path: Path) -> str:
    """The first engine whose graph keeps the FP32 graph's tensors: any but ``cpu``, if there is one."""
    engines = [target for target in open_bundle(path).sidecar.graphs if target != "fp32"]
    return next((target for target in engines if target != "cpu"), engines[0])


@dataclass(frozen=True)
class Transcript:
    """What became of one audio file.

    Attributes:
        audio_filepath: as named, or found in a folder.
        pred_text: the transcript.
        fault: why there is none; None: there is one.
    """

    audio_filepath: str
    pred_text: str = ""
    fault: AudioError | None = None


def transcribe_files(
    path: Path, target: str, given: Sequence[Path], channel: int | None = None
) -> Iterator[Transcript]:
    """The transcript of each audio file, one after another; a file that cannot be used stops none of the others.

    Args:
        path: of the bundle.
        target: what is run.
        given: files, folders of files, ``-`` for standard input.
        channel: the one that is heard, from 0; None: the mean of all.

    Raises:
        AudioError: a folder without audio.
    """
    opened, files = open_engine(path), audio_files(given)
    engine = opened.runnable(target)
    listen = Listener(opened.frontend, Reading(channel, opened.limits(engine)))
    with running(engine, opened.texts) as run:
        transcribed = transcriber(run, opened.texts)
        lines = len(files) == 1 or sys.stdout.isatty()  # that are printed show the progress
        for file in tqdm(files, desc="transcribe", unit="file", leave=False, disable=True if lines else None):
            try:
                text = transcribed(listen(ManifestEntry(file, 0.0, "")))
            except AudioError as fault:
                yield Transcript(str(file), fault=fault)
            else:
                yield Transcript(str(file), text)
