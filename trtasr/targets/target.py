"""What a target is: a place to run engines, and everything that is particular about it."""

from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from trtasr.engine.build_tensorrt import Host
from trtasr.engine.profile import Shapes
from trtasr.errors import RecipeError
from trtasr.graph.passes import Pass
from trtasr.graph.qdq import Rule
from trtasr.recipe import EngineShapes
from trtasr.results import Built
from trtasr.targets.rules import REASONS
from trtasr.values import CalibrationSet, ScaleTable

QDQ = "{}.qdq.onnx".format
ALWAYS, NEEDED, ASKED = "always", "needed", "asked"  # when scales are computed at run time


@dataclass(frozen=True)
class Order:
    """What one part of every engine is built from.

    Attributes:
        name: of the part.
        graph: in FP32, centered, in the bundle's folder; for a builder the file that it reads.
        nodes: names of all nodes of the FP32 graph, in graph order.
        macs: node -> multiply-accumulates per second of audio, for the layer table.
        table: scales; exclude: patterns of the recipe that match a node.
        shapes: that a plan accepts.
        engine: the recipe's section.
        host: GPU and TensorRT of this machine; None where no target of the recipe needs them.
        features: for a calibrator that takes its own ranges; None elsewhere.
        plan: file that a builder writes.
        floating: quantizable nodes that stay out of INT8, for a builder that would choose by itself.
        evidence: folder for what a build of TensorRT says, and the graph that it read; None: nothing is kept.
    """

    name: str
    graph: Path
    nodes: tuple[str, ...]
    macs: Mapping[str, int]
    table: ScaleTable
    exclude: tuple[str, ...]
    shapes: Shapes
    engine: EngineShapes
    host: Host | None
    features: CalibrationSet | None
    plan: Path = Path()
    floating: tuple[str, ...] = ()
    evidence: Path | None = None

    @property
    def gpu(self) -> str:
        """Name of this machine's GPU; empty where no target needs one."""
        return self.host.gpu if self.host else ""


Name = Callable[[str], str]
Quantize = Callable[[onnx.ModelProto, ScaleTable, Collection[str]], onnx.ModelProto]
GraphRules = Callable[[onnx.ModelProto], tuple[Rule, ...]]
Lint = Callable[[onnx.ModelProto, onnx.ModelProto, ScaleTable, Set[str]], tuple[list[str], list[str]]]
Build = Callable[[Order], Built]


def here(_gpu: str) -> bool:
    """Runs on any machine: ONNX Runtime needs no GPU."""
    return True


def elsewhere(_gpu: str) -> bool:
    """Runs on no machine that we build on."""
    return False


def nothing() -> None:
    """Needs no builder."""


@dataclass(frozen=True)
class Target:
    """A place to run engines. A new one is a file of its own, and a row of `trtasr.targets.choose.TARGETS`.

    Attributes:
        name: as in recipes and bundles.
        label: of its row in tables.
        graph: name of a part -> file of its quantized graph, relative to the bundle; ONNX Runtime can run it.
        quantize: FP32 graph with corrected weights, table and names of the INT8 nodes -> quantized graph; None: a
            baseline, in which nothing is INT8.
        dynamic: the same with scales of activations computed at run time; None: it has static ones only.
        dynamic_when: when `dynamic` takes the place of `quantize` where a recipe leaves it open: `ALWAYS`, where static
            scales miss the recipe's fidelity (`NEEDED`), or never (`ASKED`).
        rules: asked in order about each site; the first that answers with its name keeps the site out of INT8.
        graph_rules: graph -> rules that depend on more of it than the site, asked before those.
        switched: quantizes layer by layer where `quantize` does more: for the harm of each layer; None: as `quantize`.
        form: name of how it quantizes, where a builder's counts decide between several; empty elsewhere.
        rival: the same target in another form, which is built too; the lesser of both is the engine. None: no other.
        dynamic_rules: take the place of `graph_rules` beside `dynamic`; None: they are the same.
        reasons: rule -> why, in words.
        passes: from the quantized graph to the one that the builder reads.
        unmasked: passes in their place for a second plan, without masks, in which one utterance alone runs; none:
            there is no such plan.
        precision: ``int8``; of a baseline ``fp16`` or ``fp32``.
        rest: what layers that are not INT8 run in: ``FP16`` or ``FP32``.
        lint: graph for the builder, graph without quantization, table, INT8 nodes -> names of layers whose scales are
            subnormal in FP16, and of those whose accumulator could exceed its range; None: nothing runs in FP16.
        require: refuses, with a MissingError, a machine without the builder: fit for a first step.
        build: builds a plan; None: ONNX Runtime runs the quantized graph, which is the engine.
        plan: name of a part -> file of its plan, relative to the bundle; None as `build`.
        explicit: False: the builder has a calibrator, reads the graph without quantization and decides by itself.
        runs_here: name of this machine's GPU, empty for none -> whether the engine runs here as itself.
        stand_in: what is measured in its place elsewhere.
        absent: what is missing then.
        baselines: what INT8 is compared with, built beside it.
        layered: whether the quantized graph keeps the FP32 graph's tensors, so that layers can be compared.
    """

    name: str
    label: str
    graph: Name
    quantize: Quantize | None
    dynamic: Quantize | None = None
    dynamic_when: str = ASKED
    switched: Quantize | None = None
    form: str = ""
    rival: "Target | None" = None
    rules: tuple[Rule, ...] = ()
    graph_rules: GraphRules = lambda _model: ()
    dynamic_rules: GraphRules | None = None
    reasons: Mapping[str, str] = field(default_factory=lambda: REASONS)
    passes: tuple[Pass, ...] = ()
    unmasked: tuple[Pass, ...] = ()
    precision: str = "int8"
    rest: str = "FP32"
    lint: Lint | None = None
    require: Callable[[], None] = nothing
    build: Build | None = None
    plan: Name | None = None
    explicit: bool = True
    runs_here: Callable[[str], bool] = here
    stand_in: str = "Q/DQ graph, ONNX Runtime"
    absent: str = "not timed"
    baselines: "tuple[Target, ...]" = ()
    layered: bool = True

    @property
    def activation_scales(self) -> str:
        """``dynamic`` or ``static``; empty for a baseline."""
        if self.quantize is None:
            return ""
        return "dynamic" if self.quantize is self.dynamic else "static"

    def scaled(self, activation_scales: str) -> "Target":
        """The target with the scales of activations that a recipe asks for.

        Args:
            activation_scales: as in recipes.

        Raises:
            RecipeError: ``dynamic``, where the target has none.
        """
        if activation_scales == "dynamic" and self.dynamic is None:
            raise RecipeError(
                f"engine.activation_scales = 'dynamic': target {self.name} has static ones only",
                "leave it out, or use --target t4-rtx or cpu",
            )
        wanted = activation_scales == "dynamic" or (activation_scales == "auto" and self.dynamic_when == ALWAYS)
        if not wanted:
            return self
        return replace(self, quantize=self.dynamic, graph_rules=self.dynamic_rules or self.graph_rules)
