"""A finished bundle, opened: its engines, its front-end, its text, and the speech to use it on."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trtasr.audio.features import FrontendConfig
from trtasr.audio.frontend import Frontend, frontend_from_json
from trtasr.audio.manifest import ManifestEntry, read_manifest
from trtasr.audio.prepare import prepare
from trtasr.audio.read import Reading, Refuse
from trtasr.audio.stored import FILE, read_stored
from trtasr.bundle import REPAIR, Bundle, Sidecar, open_bundle
from trtasr.engine.build_tensorrt import require_tensorrt
from trtasr.engine.external import external_files
from trtasr.engine.memory import MemoryLimit
from trtasr.engine.sessions import load_model
from trtasr.errors import BundleError, MissingError, UsageError
from trtasr.files.look import is_there
from trtasr.network.families import network_of
from trtasr.network.network import Described, Network
from trtasr.network.pair_run import Texts, files_of, is_pair, refuse_above, refuse_longer, texts_from
from trtasr.pipeline.gpu import INT8
from trtasr.pipeline.measure import TIMED_HERE
from trtasr.recipe import Recipe, build
from trtasr.results import SIDECAR, Prepared
from trtasr.targets.integer import INTEGER

logger = logging.getLogger(__name__)


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
    def network(self) -> Network:
        """Wired graphs."""
        sidecar = self.bundle.sidecar
        most = float(sidecar.most_frames or math.inf)
        return network_of(Described(sidecar.family, self.frontend, self.texts.tokens, sidecar.generation, most))

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
