"""What was built: engines and their layers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trtasr.values import Decision


@dataclass(frozen=True)
class LayerRow:
    """One layer of a built engine, after fusion.

    Attributes:
        name: engine layer name.
        kind: engine layer type (``gemm``, ``correlation``, ``kgen`` ...; an ONNX operator on `cpu`).
        operands: data types that decide the arithmetic: data inputs, then the constant weight.
        outputs: output data types.
        onnx_nodes: ONNX nodes the layer was made from.
        macs: multiply-accumulates per second of audio at batch 1; 0 for layers without weights.
        int8: True when data and weight operands are both 8-bit integers.
        tactic: kernel that the builder chose; empty where it does not tell.
        time_share: of the engine's time, 0..1; 0 where layers were not timed.
    """

    name: str
    kind: str
    operands: tuple[str, ...]
    outputs: tuple[str, ...]
    onnx_nodes: tuple[str, ...]
    macs: int = 0
    int8: bool = False
    tactic: str = ""
    time_share: float = 0.0


@dataclass(frozen=True)
class Built:
    """One part of an engine on disk.

    Attributes:
        path: plan or ONNX file, relative to the bundle.
        size_bytes: of that file.
        layers: the layer table; empty where the builder tells none.
        details: the builder's facts (capability, memory, build seconds); JSON types only.
        unmasked: plan of the same part without masks, for one utterance without padding; None: there is none.
    """

    path: str
    size_bytes: int
    layers: tuple[LayerRow, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    unmasked: "Built | None" = None


@dataclass(frozen=True)
class Counts:
    """What a builder has made of a graph.

    Attributes:
        int8: layers with a weight that compute in INT8; written: those of them that write INT8 too.
        kernels: all layers of the engine.
        reformats: layers that change type or layout alone; shuffles: those that only move data.
        pairs: layers that quantize or dequantize and do nothing else.
    """

    int8: int
    written: int
    kernels: int
    reformats: int
    shuffles: int
    pairs: int


@dataclass(frozen=True)
class Form:
    """One way to quantize a graph that was built.

    Attributes:
        name: ``plain`` (Q/DQ in front of what INT8 layers read) or ``chains`` (behind their ReLUs too).
        counts: of its builder.
        chosen: whether it is the engine.
    """

    name: str
    counts: Counts
    chosen: bool


@dataclass(frozen=True)
class Engine:
    """What was built for one target, and everything about it that a table or the report says.

    Attributes:
        target: name of it.
        label: of its row in tables.
        parts: in the order in which they run.
        graphs: what ONNX Runtime can run in its place, one per part, relative to the bundle; none for a baseline.
        precision: ``int8``; of a baseline ``fp16`` or ``fp32``.
        rest: what layers that are not INT8 run in: ``FP16`` or ``FP32``.
        activation_scales: of its INT8 layers: ``static`` or ``dynamic``; empty for a baseline.
        decisions: one per quantizable node, with the rule that decided; none of a baseline.
        reasons: rule -> why, in words.
        stand_in: what is measured in its place on this machine; empty: it is measured itself.
        absent: what is missing then.
        linted: whether its arithmetic in FP16 was examined.
        subnormal: layers with a channel whose activation scale x weight scale is below FP16's normal range.
        overflowing: layers whose integer accumulator could exceed FP16's range.
        forms: that were built, the engine's own first; none where a target has but one.
        dynamic: INT8 layers with `activation_scales` computed at run time, where the others have static ones.
    """

    target: str
    label: str
    parts: tuple[Built, ...]
    graphs: tuple[str, ...] = ()
    precision: str = "int8"
    rest: str = "FP16"
    activation_scales: str = "static"
    decisions: tuple[Decision, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    stand_in: str = ""
    absent: str = "not timed"
    linted: bool = False
    subnormal: tuple[str, ...] = ()
    overflowing: tuple[str, ...] = ()
    dynamic: tuple[str, ...] = ()
    forms: tuple[Form, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """The files of its parts, relative to the bundle."""
        return tuple(part.path for part in self.parts)

    @property
    def unmasked(self) -> tuple[Built, ...]:
        """Its plans without masks."""
        return tuple(part.unmasked for part in self.parts if part.unmasked)

    @property
    def measured(self) -> tuple[str, ...]:
        """The files that are run on this machine: its own, plans without masks last, or what stands in for them."""
        return self.graphs if self.stand_in else (*self.paths, *(plan.path for plan in self.unmasked))

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(part.size_bytes for part in (*self.parts, *self.unmasked))

    @property
    def layers(self) -> tuple[LayerRow, ...]:
        """Of all its parts."""
        return tuple(layer for part in self.parts for layer in part.layers)
