"""A finished bundle, opened: its engines, its network, and the speech to use it on."""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trtasr.audio.features import FrontendConfig
from trtasr.audio.frontend import Frontend, frontend_from_json
from trtasr.audio.log_mel import LogMelConfig
from trtasr.audio.manifest import ManifestEntry
from trtasr.audio.prepare import prepare
from trtasr.audio.read import Reading, Refuse
from trtasr.audio.stored import FILE, read_stored
from trtasr.bundle import REPAIR, Bundle, EngineFile, is_plan, open_bundle, restore_tokenizer
from trtasr.engine.build_tensorrt import require_tensorrt
from trtasr.engine.external import external_files
from trtasr.engine.memory import MemoryLimit
from trtasr.engine.sessions import load_model
from trtasr.errors import BundleError, MissingError, UsageError
from trtasr.files.look import SIDECAR, is_there
from trtasr.network.families import FAMILIES, network_of
from trtasr.network.limits import refuse_above, refuse_benchmarks
from trtasr.network.network import Described, Files, Network
from trtasr.recipe import Recipe, from_dict
from trtasr.results import Built, Engine, Prepared
from trtasr.targets import Target, check_target, place_named
from trtasr.targets.integer import INTEGER

logger = logging.getLogger(__name__)

REFERENCE = "fp32"


@dataclass(frozen=True)
class Opened:
    """A bundle with what its verbs need.

    Attributes:
        bundle: on disk; recipe: resolved; network: whose engines it holds.
    """

    bundle: Bundle
    recipe: Recipe
    network: Network

    @property
    def manifests(self) -> tuple[Path, ...]:
        """The recipe's manifests: where each lay beside the bundle, else as the recipe spells it.

        That way a bundle can be used from any folder, and be moved together with its manifests. Where one of them is
        not there it is none: figures of the others alone would not be the recipe's.
        """
        beside, named = self.bundle.sidecar.manifests, self.recipe.evaluation.manifest
        places = beside if len(beside) == len(named) else ("",) * len(named)
        found = tuple(map(self.found, places, named))
        return tuple(path for path in found if path) if all(found) else ()

    def found(self, beside: str, named: str) -> Path | None:
        """One of the recipe's manifests; None: it is not there."""
        places = [self.bundle.path / beside] * bool(beside) + [Path(named)]
        return next(filter(is_there, places), None)

    def speech(self, given: Sequence[Path]) -> tuple[Path, ...]:
        """The manifests that are given, else the recipe's.

        Raises:
            UsageError: neither, or one of the recipe's is not there.
        """
        if found := tuple(given) or self.manifests:
            return found
        named = ", ".join(self.recipe.evaluation.manifest)
        problem = f"the recipe's manifest {named} is not here" if named else "the recipe names no manifest"
        raise UsageError(f"{self.bundle.path}: {problem}", "add --manifest FILE")

    def graphs(self, target: str) -> Files:
        """The ONNX files that stand for a target in ONNX Runtime, one per part.

        Raises:
            UsageError: the bundle was not built for that target.
        """
        graphs = dict(self.bundle.sidecar.graphs)
        if held := self.bundle.sidecar.integer:
            graphs[INTEGER.name] = (held.graph,)
        if target not in graphs:
            raise UsageError(f"{self.bundle.path}: has no {target} engine", f"use one of {', '.join(graphs)}")
        return self.files(graphs[target])

    def heard(self, entries: Sequence[ManifestEntry], benchmarks: Sequence[float] = ()) -> Sequence[Prepared]:
        """Features of each entry.

        Raises:
            AudioError: a broken recording, or one longer than the model hears. RecipeError: such a benchmark.
        """
        items = prepare(entries, self.network.frontend, Reading(refuse=self.limits(self.graphs("fp32"))))
        refuse_benchmarks(self.network.described, benchmarks)
        return items

    def limits(self, files: Files) -> Refuse:
        """What refuses audio that is too long for the model, or for this machine's memory."""
        checks, config = [refuse_above(self.network.described)], self.network.frontend
        if files[0].suffix != ".plan":  # a plan has its longest shape, and its memory is the GPU's
            checks.append(MemoryLimit(files[0], config.rows, config.frames_per_second))

        def refuse(path: Path, seconds: float) -> None:
            for check in checks:
                check(path, seconds)

        return refuse

    def files(self, names: Sequence[str]) -> Files:
        """The files of a graph or engine; each is checked, those that ONNX files name among them.

        Raises:
            BundleError: a file that is missing, changed, no ONNX model, or not the bundle's own.
        """
        checked = tuple(map(self.bundle.file, names))
        for name, path in zip(names, checked, strict=True):
            if path.suffix != ".plan":
                for weights in external_files(load_model(path, weights=False)):
                    self.bundle.file((Path(name).parent / weights).as_posix())
        return checked

    def runnable(self, target: str) -> Files:
        """What is run for a target here: its plans where they run, else the graphs that stand for them.

        Raises:
            UsageError: the bundle was not built for that target.
        """
        graphs, place = self.graphs(target), place_named(target)
        if place.plan is None or target == REFERENCE:
            return graphs
        if place.runs_here(gpu_for([place])):
            return self.files(self.bundle.sidecar.engines[target].files)
        logger.info("the GPU of %s is not here: ONNX Runtime runs its Q/DQ graph", target)
        return graphs

    def engine(self, target: str, gpu: str) -> Engine:
        """An engine as far as measuring it needs to know.

        Args:
            target: of the engine.
            gpu: name of this machine's GPU; empty for none.
        """
        place, held = place_named(target), self.bundle.sidecar.engines[target]
        return Engine(
            target,
            held.label,
            tuple(map(built, held.parts)),
            self.bundle.sidecar.graphs.get(target, ()),
            held.precision,
            stand_in="" if place.runs_here(gpu) else place.stand_in,
            absent=place.absent,
        )


def built(file: EngineFile) -> Built:
    """A part of an engine as far as a bundle tells it where the part is run."""
    return Built(file.path, file.size_bytes, unmasked=built(file.unmasked) if file.unmasked else None)


def gpu_for(places: Iterable[Target]) -> str:
    """Name of the GPU that one of these places would run on; empty for none. What runs on no GPU of ours wakes none."""
    return usable_gpu() if any(place.runs_here("a GPU") and not place.runs_here("") for place in places) else ""


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
        recipe = from_dict(Recipe, sidecar.recipe, "recipe")
        check_target(recipe.engine.target, "engine.target")
    except UsageError as error:
        raise BundleError(f"{where}: {error.problem}", REPAIR) from error
    most = sidecar.most_frames or math.inf
    described = Described(sidecar.family, config, restore_tokenizer(bundle), sidecar.generation, most)
    if fault := misfit(described):
        raise BundleError(f"{where}: {fault}", REPAIR)
    network = network_of(described)
    check_files(network, bundle)
    return Opened(bundle, recipe, network)


def misfit(described: Described) -> str:
    """What no compile writes about a network; empty for nothing."""
    family, rules = described.family, described.generation
    if family not in FAMILIES:
        return f"family {family!r:.80} is none of {', '.join(FAMILIES)}"
    if FAMILIES[family].generates != (rules is not None):
        return f"generation does not fit {family}"
    if isinstance(described.frontend, LogMelConfig) and math.isinf(described.most_frames):
        return f"most_frames does not fit {family}, whose positions end"
    fault = rules.fault(len(described.tokenizer.vocabulary)) if rules else ""
    return f"generation: {fault}" if fault else ""


def check_files(network: Network, bundle: Bundle) -> None:
    """Refuse a sidecar whose graphs are not those of the network's parts, or that runs a plan where none is built.

    Raises:
        BundleError: naming the files.
    """
    where, parts = bundle.path / SIDECAR, [part.name for part in network.parts]
    for names in bundle.sidecar.graphs.values():
        held = [Path(name).name.partition(".")[0] for name in names]
        if len(held) != len(parts) or (len(parts) > 1 and held != parts):  # one graph cannot be in another's place
            raise BundleError(f"{where}: {', '.join(names):.160} are no graphs of {', '.join(parts)}", REPAIR)
    for target, engine in bundle.sidecar.engines.items():
        if place_named(target).plan is None and is_plan(engine.paths[0]):
            raise BundleError(f"{where}: engine {target:.80} is a plan, but runs as a graph", REPAIR)


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


def default_target(path: Path) -> str:
    """The engine that runs here as itself when the bundle has it (``t4``, ``cpu``), else the first one's graph."""
    places = places_in(path)
    gpu = gpu_for(places)
    return next((place.name for place in places if place.runs_here(gpu)), places[0].name)


def layered_target(path: Path) -> str:
    """The first engine whose graph keeps the FP32 graph's tensors, if there is one."""
    places = places_in(path)
    return next((place.name for place in places if place.layered), places[0].name)


def places_in(path: Path) -> list[Target]:
    """What a bundle was built for."""
    return [place_named(target) for target in open_bundle(path).sidecar.graphs if target != REFERENCE]
