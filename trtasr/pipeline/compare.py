"""FP32 against an engine: every part through Polygraphy, and layer by layer to where the error comes from."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx

from trtasr.audio.manifest import read_manifests
from trtasr.audio.prepare import examples
from trtasr.bench.agreement import Noise, compare_tensor, scores
from trtasr.engine.build_tensorrt import TensorrtOptions, build_tensorrt, require_tensorrt
from trtasr.engine.faults import model_errors
from trtasr.engine.polygraphy import Kept, polygraphy_command, run_both
from trtasr.engine.profile import Profile
from trtasr.engine.sessions import Observe, load_model, open_session, ort_observer
from trtasr.engine.trt_run import plan_observer
from trtasr.errors import QualityError, UsageError
from trtasr.files.scratch import scratch
from trtasr.files.workspace import writable
from trtasr.graph.passes import passed
from trtasr.graph.tensors import layer_outputs
from trtasr.network.network import Exported, Files, Network, Outputs, Part, accepted, dictated, feeds, run, run_part
from trtasr.pipeline.opened import Opened, open_engine, usable_gpu
from trtasr.recipe import EngineShapes, Recipe
from trtasr.results import Comparison, Engine, Prepared, TensorComparison
from trtasr.targets import T4, Target
from trtasr.targets.choose import one_dimensional
from trtasr.targets.integer import INTEGER
from trtasr.values import Array, Example, alone

logger = logging.getLogger(__name__)

COMPARED_UTTERANCES = 8
MOST_FEATURES, MOST_OUTPUTS = 2_500_000, 24_000_000  # bytes that are written as JSON: 98 s at 64 mel bins a frame
REPAIR = "calibrate again; if it stays, report the checkpoint and recipe"

Engines = Mapping[str, Files]  # label -> files: the FP32 graphs, then an engine or the graphs that stand for it


def compare(
    network: Network, engines: Engines, utterances: Sequence[Example], folder: Path, kind: str = "audio"
) -> Comparison:
    """Run both engines part by part on the same inputs, judge them, and save what Polygraphy loads again.

    Every part is judged by itself, on what the FP32 parts before it give, at valid positions. Tokens are those of the
    last part behind its engine's own parts. Utterances beyond about 2.5 MB of features (98 s at 64 mel bins and 100
    frames per second), or 24 MB of what the first parts give to the last, are left out.

    Args:
        network: of both.
        engines: what is compared.
        utterances: alone, with the tokens that a decoder reads.
        folder: the bundle; gets ``comparison_inputs.json`` and ``comparison.json`` of the first part, and
            ``comparison_<part>_inputs.json`` and ``comparison_<part>.json`` of others.
        kind: what the features are: ``audio`` (from recordings) or ``synthetic`` (generated, noise included).

    Returns:
        the comparison; `Comparison.command` is to be run inside the bundle and exits with 1 when the SNR of an
        utterance is below 20 dB.

    Raises:
        UsageError: nothing to compare, or files of somebody else's where these are to be kept.
        QualityError: NaN or infinity in an output, or another output length.
        MissingError: Polygraphy is not installed; a plan without its GPU.
    """
    (first, second), (reference, candidate) = tuple(engines), tuple(engines.values())
    kept = affordable(network, reference, utterances)
    exact: list[dict[str, Array]] = [{} for _ in kept]  # what FP32 has given so far, and the engine by itself
    own: list[dict[str, Array]] = [{} for _ in kept]
    tensors, commands = [], []
    for index, part in enumerate(network.parts):
        files = Kept(folder, part.name if index else "")
        pair = reference[index], candidate[index]
        inputs = [part.inputs(*item) for item in zip(kept, exact, strict=True)]
        found, other = run_both(pair, inputs, (first, second), files)
        behind = [seen | now for seen, now in zip(exact, other, strict=True)]
        exact = [seen | now for seen, now in zip(exact, found, strict=True)]
        tensors.append(judged(part, {first: exact, second: behind}))
        commands.append(polygraphy_command(*pair, files))
        if index:
            session = open_session(candidate[index])
            other = [run_part(session, part.inputs(*item)) for item in zip(kept, own, strict=True)]
        own = [seen | now for seen, now in zip(own, other, strict=True)]
    total = scores(map(network.last.valid, exact), map(network.last.valid, own))
    logger.info("compared %d utterances, %d %s", len(kept), total.positions, network.unit)
    return Comparison(
        reference=first,
        candidate=second,
        tensors=tuple(tensors),
        token_agreement=total.token_agreement,
        frames=total.positions,
        features=kind,
        command=" && ".join(commands),
        results_file=Kept(folder).results,
        unit=network.unit,
    )


def compare_first(graphs: Exported, engine: Engine, heard: Sequence[Prepared], recipe: Recipe) -> Comparison:
    """Comparison of FP32 with the first engine of a compile: on speech, else on features that need none.

    An engine of one part that runs here is run itself; for others the graphs that stand in for them are.

    Args:
        graphs: FP32, in the bundle.
        engine: built.
        heard: evaluation set.
        recipe: says what synthetic features are made like.
    """
    network, folder = graphs.network, graphs.files[0].parent
    candidate = tuple(folder / name for name in engine.graphs)
    if len(network.parts) == 1:
        candidate = (folder / engine.measured[-1],)  # where there is a plan without masks, utterances alone run in it
    items, kind = examples(heard[:COMPARED_UTTERANCES]), "audio"
    if not items:
        items, kind = list(alone(*graphs.original.unheard(recipe.calibration, recipe.engine))), "synthetic"
    said = dictated(network, graphs.files, items)
    return compare(network, {"fp32": graphs.files, f"int8-{engine.target}": candidate}, said, folder, kind)


def affordable(network: Network, reference: Files, utterances: Sequence[Example]) -> list[Example]:
    """As many utterances as fit the files that are written, one at least.

    Raises:
        UsageError: there is none.
    """
    if not utterances:
        raise UsageError("nothing to compare: every utterance is empty", "pass features with at least one valid frame")
    kept: list[Example] = []
    features = before = 0
    for utterance, seen in zip(utterances, run(network, reference, utterances, len(network.parts) - 1), strict=True):
        features += utterance.features.nbytes
        before += sum(value.nbytes for value in seen.values())
        if kept and (features > MOST_FEATURES or before > MOST_OUTPUTS):
            logger.info("comparison limited to %d of %d utterances", len(kept), len(utterances))
            break
        kept.append(utterance)
    return kept


def judged(part: Part, outputs: Mapping[str, Sequence[Outputs]]) -> TensorComparison:
    """The judged output of a part over all utterances, by label.

    Raises:
        QualityError: NaN or infinity, or another output length.
    """
    first, second = outputs
    valid = {label: [part.valid(found).astype(np.float64) for found in side] for label, side in outputs.items()}
    for index, (exact, other) in enumerate(zip(*valid.values(), strict=True)):
        if exact.shape != other.shape:
            raise QualityError(f"utterance {index}: {second} gives another output length than {first}", REPAIR)
    rows = {label: np.concatenate(side) for label, side in valid.items()}
    for label, values in rows.items():
        if not np.isfinite(values).all():
            raise QualityError(f"{part.judged} of {label} holds NaN or infinity", REPAIR)
    return compare_tensor(part.judged, *rows.values())


def compare_bundle(path: Path, target: str, manifests: Sequence[Path], out: Path, limit: int) -> Comparison:
    """Polygraphy comparison of FP32 with one engine of a bundle, on speech; files go to ``out``.

    An engine of one part runs as itself where it can, others as their graphs in ONNX Runtime.

    Raises:
        UsageError: no speech to compare on.
    """
    opened = open_engine(path)
    items = examples(compared_utterances(opened, target, manifests, limit))
    network, reference = opened.network, opened.graphs("fp32")
    candidate = opened.runnable(target)[-1:] if len(network.parts) == 1 else opened.graphs(target)
    with model_errors(f"{path}: {target} against fp32"):
        engines = {"fp32": reference, f"int8-{target}": candidate}
        return compare(network, engines, dictated(network, reference, items), writable(out))


def compare_layers(path: Path, target: str, manifests: Sequence[Path], limit: int) -> dict[str, float]:
    """SQNR in dB of every convolution's and matrix product's output, in graph order, FP32 as the reference.

    Behind a linear layer the sum with its bias counts as an output too: engines that add it inside have only that.
    Every part stands behind its engine's own parts.

    The FP32 graphs run in ONNX Runtime. A `t4` engine of one part runs on its GPU, as a plan built for this with those
    tensors as outputs (which keeps TensorRT from fusing across them: the numbers are of its kernels, not of its
    fusions); any other engine, and a `t4` one without its GPU, runs as its graphs in ONNX Runtime.

    Args:
        path: bundle.
        target: engine of it.
        manifests: speech to compare on; empty: the recipe's.
        limit: utterances at most.

    Raises:
        UsageError: no speech to compare on, no such engine, or one that shares no tensor with FP32.
    """
    opened = open_engine(path)
    items = examples(compared_utterances(opened, target, manifests, limit))
    engines = opened.graphs("fp32"), opened.graphs(target)
    with model_errors(f"{path}: {target} against fp32"):
        return errors_by_layer(opened.network, opened.recipe.engine, engines, items, target)


def errors_by_layer(
    network: Network, engine: EngineShapes, graphs: tuple[Files, Files], items: Sequence[Example], target: str
) -> dict[str, float]:
    """The same, of graphs that need not be a bundle's.

    Args:
        network: of both.
        engine: the recipe's section.
        graphs: in FP32, and of the engine.
        items: utterances.
        target: of the engine.

    Raises:
        UsageError: the graphs share no tensor.
    """
    with ExitStack() as stack:
        names = shared_outputs(graphs, target)
        said = dictated(network, graphs[0], items)
        marked = target == T4.name and len(network.parts) == 1 and bool(usable_gpu())
        shapes = accepted(engine, network.described)
        place = one_dimensional(T4) if engine.one_dimensional else T4
        found: dict[str, float] = {}
        for index, tensors in enumerate(names):
            reference, candidate = (files[index] for files in graphs)
            if marked:
                other = marked_plan(place, shapes, candidate, tensors, stack)
            else:
                other = ort_observer(candidate, tensors)
            inputs = zip(*(feeds(network, files, said, index) for files in graphs), strict=True)
            found |= layer_sqnr((ort_observer(reference, tensors), other), tensors, inputs)
    return found


def shared_outputs(engines: tuple[Files, Files], target: str) -> list[list[str]]:
    """Outputs of layers that both engines compute under one name, part by part.

    Raises:
        UsageError: there is none.
    """
    made = [layer_outputs(load_model(graph)) for graph in engines[0]]
    names = [shared_tensors(pair, wanted) for *pair, wanted in zip(*engines, made, strict=True)]
    shared, total = (sum(map(len, lists)) for lists in (names, made))
    if not shared:
        raise UsageError(
            f"{engines[1][0]}: the {target} graph shares no inner tensor with the FP32 graph",
            "compare the layers of another engine with --target",
        )
    if shared < total:
        words = (
            "%d of %d layer outputs exist in the %s graph as well; the others are codes, fused or not centered there"
        )
        logger.info(words, shared, total, target)
    return names


def shared_tensors(models: Sequence[Path], names: Sequence[str]) -> list[str]:
    """Those of `names` that all ONNX files compute under one name."""
    held = [{name for node in load_model(path).graph.node for name in node.output} for path in models]
    return [name for name in dict.fromkeys(names) if all(name in tensors for tensors in held)]


def layer_sqnr(
    observers: tuple[Observe, Observe],
    names: Sequence[str],
    inputs: Iterable[tuple[Mapping[str, Array], Mapping[str, Array]]],
) -> dict[str, float]:
    """SQNR in dB of inner tensors.

    Args:
        observers: of the reference, and of the other: inputs -> values by tensor name, for instance `ort_observer`.
        names: tensors that both give.
        inputs: of both, of single utterances at their valid length.
    """
    sums = {name: Noise() for name in names}
    for pair in inputs:
        exact, other = (observe(item) for observe, item in zip(observers, pair, strict=True))
        for name, total in sums.items():
            total.add(exact[name], other[name])
    return {name: total.sqnr_db for name, total in sums.items()}


def marked_plan(place: Target, shapes: Profile, qdq: Path, names: Sequence[str], stack: ExitStack) -> Observe:
    """The engine's graph built once more with inner tensors as outputs, ready to run until `stack` closes."""
    folder = stack.enter_context(scratch())
    model, graph = load_model(qdq), folder / "marked.onnx"
    inferred = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    model.graph.output.extend(inferred[name] for name in names)
    onnx.save(passed(model, place.passes, f"{T4.name}.marked"), graph)
    logger.info("building the engine again with %d tensors as outputs", len(names))
    build_tensorrt(graph, folder / "t4" / "marked.plan", shapes, {}, TensorrtOptions(), require_tensorrt())
    return stack.enter_context(plan_observer(folder / "t4" / "marked.plan"))


def compared_utterances(opened: Opened, target: str, manifests: Sequence[Path], limit: int) -> Sequence[Prepared]:
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
    items = opened.heard(read_manifests(opened.speech(manifests), require_text=False)[:limit])
    if not any(item.frames for item in items):
        raise UsageError("nothing to compare on: every utterance is shorter than one frame", "give another manifest")
    return items
