"""Mixed precision: the layers that harm most go back to floating point until a goal holds, a budget or fidelity."""

import glob
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import onnx
from tqdm import tqdm

from trtasr.bench.agreement import output_sqnr, sqnr_db
from trtasr.bench.fidelity import typical_error
from trtasr.engine.sessions import open_session
from trtasr.files.scratch import scratch
from trtasr.graph.check import write_checked
from trtasr.graph.dynamic import insert_dynamic_qdq
from trtasr.graph.edit import constants, write_model
from trtasr.graph.own_part import own_part, own_patterns
from trtasr.graph.qdq import insert_qdq
from trtasr.graph.switches import SWITCHES, switched
from trtasr.graph.traffic import macs_per_second
from trtasr.network.network import Exported, Files, Outputs, outputs, run, run_part
from trtasr.pipeline.measure import usable_rate, word_error_rate
from trtasr.quant.fewest import fewest
from trtasr.recipe import Recipe
from trtasr.results import Prepared
from trtasr.targets import Target
from trtasr.targets.place import Placed, place
from trtasr.targets.target import NEEDED, Quantize
from trtasr.values import Example, FloatArray, ScaleTable

logger = logging.getLogger(__name__)

FIDELITY = "fidelity"  # rule of a goal
MOST_MACS = 1e12  # of all runs of one part, a minute on two cores; beyond it layers are judged by blocks
BLOCK = re.compile(r".*?\.\d+(?=[./]|$)")  # begins the names of the layers of one block: /encoder/layers.3/...


@dataclass(frozen=True)
class Goal:
    """What a target's quantized graphs shall hold.

    Attributes:
        rule: names it in the decisions: ``budget`` or ``fidelity``.
        used: share of the noise allowed that graphs, as ONNX Runtime runs them, have used: 1 and less holds; infinite
            where only a miss is known.
        most: share of the INT8 multiply-accumulates that may go back to floating point, 0..1, for this and all goals
            before it.
        partial: where that does not suffice, the most that it buys is taken; else nothing goes back.
    """

    rule: str
    used: Callable[[Files], float]
    most: float = 1.0
    partial: bool = False


@dataclass(frozen=True)
class Left:
    """What goes back to floating point.

    Attributes:
        target: whose layers, with the scales of activations that were chosen for it.
        rules: layer -> the goal that asks for it.
        harm: layer -> dB that its typical error lies below 1 nat^2 when it alone is INT8, or its block.
    """

    target: Target
    rules: Mapping[str, str]
    harm: Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """What candidate graphs of one target are made from.

    Attributes:
        exported: FP32 graphs, centered.
        table: scales and corrected weights.
        recipe: its exclusions.
        target: whose graphs are judged, as ONNX Runtime runs them.
        examples: a few utterances that the harm of each layer is measured on.
        known: how a layer is quantized, and its name -> its harm: targets that quantize alike measure it once, from
            one table.
    """

    exported: Exported
    table: ScaleTable
    recipe: Recipe
    target: Target
    examples: Sequence[Example]
    known: dict[tuple[Quantize, str], float] = field(default_factory=dict)

    @cached_property
    def centered(self) -> list[onnx.ModelProto]:
        """The FP32 graphs."""
        return [onnx.load(file) for file in self.exported.files]

    @cached_property
    def tables(self) -> list[ScaleTable]:
        """The part of the table that belongs to each graph."""
        return [own_part(self.table, model) for model in self.centered]

    @cached_property
    def macs(self) -> list[dict[str, int]]:
        """Multiply-accumulates per second of audio of each layer that is INT8, part by part, in graph order."""
        found = []
        for part, model, placed in zip(self.exported.network.parts, self.centered, self.placed(()), strict=True):
            costs = macs_per_second(model, part.rate)
            found.append({item.node: costs.get(item.node, 0) for item in placed.decisions if item.quantized})
        return found

    @cached_property
    def harm(self) -> dict[str, float]:
        """How many dB below 1 nat^2 the typical error is when a layer alone is INT8 (`trtasr.bench.fidelity`).

        First come those with the most noise for what they compute.

        Noise of different layers adds up, so that the first of them take the most noise off for any share of the
        multiply-accumulates (the greedy solution of a knapsack).
        """
        reference = outputs(self.exported.network, self.exported.files, self.examples)
        for index, costs in enumerate(self.macs):
            if any((self.layered, name) not in self.known for name in costs):
                found = harms(self, index, reference)
                self.known.update({(self.layered, name): harm for name, harm in found.items()})
        found = {name: self.known[self.layered, name] for name in self.costs}
        return dict(sorted(found.items(), key=lambda item: item[1] + 10 * math.log10(max(self.costs[item[0]], 1))))

    @property
    def costs(self) -> dict[str, int]:
        """The same of all parts together."""
        return {name: cost for part in self.macs for name, cost in part.items()}

    @property
    def layered(self) -> Quantize:
        """What quantizes a graph of this target layer by layer; stands in for operators of its own with Q/DQ."""
        if self.target.layered:
            assert self.target.quantize
            return self.target.switched or self.target.quantize
        return insert_dynamic_qdq if self.target.activation_scales == "dynamic" else insert_qdq

    def placed(self, left: Sequence[str]) -> list[Placed]:
        """The target's graphs without the layers `left`."""
        patterns = own_patterns([*self.recipe.quantization.exclude, *map(glob.escape, left)], self.centered)
        parts = zip(self.centered, self.tables, patterns, strict=True)
        return [place(model, table, self.target, own) for model, table, own in parts]

    def written(self, left: Sequence[str], folder: Path) -> Files:
        """The same as files."""
        files = self.exported.network.files(folder, "onnx")
        for placed, file in zip(self.placed(left), files, strict=True):
            write_checked(placed.model, file)
        return files

    def used(self, goal: Goal, left: Sequence[str]) -> float:
        """How much of what a goal allows is used without the layers `left`."""
        with scratch() as folder:
            found = goal.used(self.written(left, folder))
        words = "%s, %d layers in floating point: %s: %.2f of what is allowed"
        logger.info(words, self.target.name, len(left), goal.rule, found)
        return found


def leave_out(trial: Trial, goals: Sequence[Goal]) -> Left:
    """The layers of one target that go back to floating point, goal after goal, as few as each needs."""
    rules: dict[str, str] = {}
    for goal in goals:
        rules |= dict.fromkeys(fewest_layers(trial, goal, tuple(rules)), goal.rule)
    return Left(trial.target, rules, {name: trial.harm[name] for name in rules})


def scaled_as_needed(trial: Trial, used: Callable[[Files], float]) -> Trial:
    """The trial with scales computed at run time where the target has them for need, and static ones miss fidelity.

    They cost less than layers in floating point.

    Args:
        trial: of a target, with the scales that it has without need.
        used: share of the noise allowed that its graphs have used.
    """
    wanted = trial.recipe.engine.activation_scales == "auto" and trial.target.dynamic_when == NEEDED
    if not wanted or trial.used(Goal(FIDELITY, used), ()) <= 1:
        return trial
    logger.warning("%s: static scales of activations miss fidelity; they are computed at run time", trial.target.name)
    return replace(trial, target=trial.target.scaled("dynamic"))


def fewest_layers(trial: Trial, goal: Goal, left: Sequence[str]) -> Sequence[str]:
    """The layers to leave out for a goal beside those that are left already.

    Layers of all parts are ranked by the harm that each does alone, for what it computes; the fewest of the first ones
    are left out. Of these, the fewest by their noise: a large layer may come last that makes small ones needless.
    """
    start = trial.used(goal, left)
    if start <= 1:
        return ()
    ranked = affordable(trial, goal, left)
    if goal.partial and (not ranked or trial.used(goal, (*left, *ranked)) > 1):
        found = ranked
    elif count := fewest_of(trial, goal, left, ranked, start):
        found = sorted(ranked[:count], key=trial.harm.__getitem__)
        found = found[: fewest_of(trial, goal, left, found, start)]
    elif goal.most == 1:
        found = ranked  # the graphs are the FP32 ones then
    else:
        words = "%s: %s does not hold even with %d layers in floating point; all stay INT8"
        logger.warning(words, trial.target.name, goal.rule, len(ranked))
        return ()
    logger.warning("%s: left in floating point for %s: %s", trial.target.name, goal.rule, ", ".join(found) or "none")
    return found


def fewest_of(trial: Trial, goal: Goal, left: Sequence[str], ranked: Sequence[str], start: float) -> int | None:
    """How many of the ranked layers must be left out beside those that are left already; None: all do not suffice."""
    if not ranked:
        return None
    noise = {name: 10 ** (-harm / 10) for name, harm in trial.harm.items() if name not in left}
    rest = sum(noise.values()) - sum(noise[name] for name in ranked)
    measured = cache(lambda count: trial.used(goal, (*left, *ranked[:count])))
    return fewest([noise[name] for name in ranked], max(rest, 0.0), measured, start)


def affordable(trial: Trial, goal: Goal, left: Sequence[str]) -> Sequence[str]:
    """The first of the layers by harm that may be left out for a goal beside those that are left already."""
    costs = trial.costs
    ranked = [name for name in trial.harm if name not in left]
    spent = sum(costs[name] for name in left) + np.cumsum([costs[name] for name in ranked])
    return ranked[: int(np.count_nonzero(spent <= goal.most * sum(costs.values())))]


def harms(trial: Trial, index: int, reference: Sequence[FloatArray]) -> dict[str, float]:
    """How many dB below 1 nat^2 the typical error is when a layer of one part alone is INT8, or its block in long runs.

    Args:
        trial: whose graphs.
        index: of the part; those before and behind it are FP32.
        reference: FP32's output of each example.
    """
    layers = list(trial.macs[index])
    found: dict[str, float] = {}
    with scratch() as folder:
        file = folder / "switched.onnx"
        write_model(switched_part(trial, index), file)
        alone = runner(trial, index, file)
        known = {name for how, name in trial.known if how is trial.layered}
        unknown = [group for group in groups(trial, index) if not known.issuperset(group)]
        for group in tqdm(unknown, desc=f"harm {trial.target.name}", unit="run", disable=None):
            switches = np.array([name in group for name in layers], np.float32)
            found |= dict.fromkeys(group, sqnr_db(1.0, typical_error(reference, alone(switches))))
    return found


def switched_part(trial: Trial, index: int) -> onnx.ModelProto:
    """One part with a switch for every INT8 layer; an engine with operators of its own is stood for by Q/DQ."""
    layers = [name for part in trial.macs for name in part]
    placed, floating = trial.placed(())[index], trial.placed(layers)[index].fp32
    quantized = placed.model
    if trial.layered is not trial.target.quantize:
        quantized = trial.layered(placed.fp32, trial.tables[index], placed.int8)
    return switched(placed.fp32, quantized, list(trial.macs[index]), constants(floating))


def runner(trial: Trial, index: int, file: Path) -> Callable[[FloatArray], Iterator[FloatArray]]:
    """The network with one part from a file: switches -> its output of every example."""
    network, files = trial.exported.network, trial.exported.files
    before: list[Outputs] = [{} for _ in trial.examples]
    if index:
        before = list(run(network, files, trial.examples, index))
    session, behind = open_session(file), [open_session(name) for name in files[index + 1 :]]

    def found(switches: FloatArray) -> Iterator[FloatArray]:
        for example, given in zip(trial.examples, before, strict=True):
            seen = {**given}
            seen |= run_part(session, {**network.parts[index].inputs(example, seen), SWITCHES: switches})
            for part, one in zip(network.parts[index + 1 :], behind, strict=True):
                seen |= run_part(one, part.inputs(example, seen))
            yield network.last.valid(seen)

    return found


def groups(trial: Trial, index: int) -> list[list[str]]:
    """The layers of one part that are judged together: each alone, or by blocks where that would take too long."""
    costs, rate = trial.macs[index], trial.exported.network.frontend.frames_per_second
    seconds = sum(int(item.lengths.sum()) for item in trial.examples) / rate
    if len(costs) * sum(costs.values()) * seconds <= MOST_MACS:
        return [[name] for name in costs]
    found: dict[str, list[str]] = {}
    for name in costs:
        block = BLOCK.match(name)
        found.setdefault(block.group() if block else name, []).append(name)
    return list(found.values())


def budget(recipe: Recipe, exported: Exported, examples: Sequence[Example], utterances: Sequence[Prepared]) -> Goal:
    """The recipe's budget as a goal: SQNR of the output on calibration features, and WER on speech.

    Args:
        recipe: says how much may be lost.
        exported: FP32 graphs.
        examples: calibration features, utterance by utterance.
        utterances: evaluation set.
    """
    evaluation, network = recipe.evaluation, exported.network
    reference, limit = outputs(network, exported.files, examples), evaluation.max_wer_increase
    if evaluation.mixed:
        limit += word_error_rate(network, exported.files, utterances, evaluation).rate

    def used(files: Files) -> float:
        sqnr = output_sqnr(reference, outputs(network, files, examples))
        wer = usable_rate(network, files, utterances, evaluation) if evaluation.mixed else None
        logger.info("%.1f dB, WER %s", sqnr, "-" if wer is None else f"{wer:.2f} %")
        if evaluation.mixed and (wer is None or wer > limit + 1e-9):
            return math.inf
        return float(10 ** ((evaluation.min_sqnr - sqnr) / 10)) if evaluation.min_sqnr else 0.0

    return Goal("budget", used)
