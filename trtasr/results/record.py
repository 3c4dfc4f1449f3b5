"""One record: everything that a compile built and measured. Terminal, JSON, ``bundle.json`` and report read only it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trtasr.results.comparison import Comparison, Control
from trtasr.results.engine import Engine
from trtasr.results.fidelity import Judged
from trtasr.results.integer import IntegerGraph
from trtasr.results.speed import BenchResult, GpuState
from trtasr.values import ScaleTable


@dataclass(frozen=True)
class Record:
    """Everything one compile built and measured, as plain values.

    Attributes:
        name: of the bundle; architecture: of the model, for instance ``QuartzNet15x5``; family: of models.
        checkpoint: ``file``, ``sha256`` and ``class`` of the source model.
        recipe: resolved, JSON types.
        described: what a bundle tells of its network to whoever runs it, JSON types: ``frontend``, ``vocabulary``,
            ``tokenizer``, ``generation``, ``most_frames``.
        fp32: graphs, one per part, relative to the bundle.
        engines: one per target, in the recipe's order, then their baselines.
        tables: calibration method -> scale table: the recipe's own and those of the controls.
        results: FP32 first, then the T4 host's baselines, then one per target.
        comparison: FP32 against the first target.
        controls: the other calibrations; empty unless asked for.
        parity: largest difference of log-probabilities between the checkpoint (float64) and the FP32 graph.
        fidelity: of each target's quantized graphs on probe signals.
        integer: the integer-only graph; None where the network has none.
        gpu: clocks and power before the GPU benchmark, at its busiest, and after it; empty without a GPU.
        problems: missed quality gates in words; empty when all hold.
        device: CPU that the measurements were made on; versions: of the libraries that shaped the result.
        commands: command lines that make and examine this bundle again.
        manifests: of the evaluation, relative to the bundle.
        built: when, in UTC, ISO 8601; seconds: wall time of the compile.
    """

    name: str
    architecture: str
    family: str
    checkpoint: Mapping[str, str]
    recipe: Mapping[str, Any]
    described: Mapping[str, Any]
    fp32: tuple[str, ...]
    engines: tuple[Engine, ...]
    tables: Mapping[str, ScaleTable]
    results: tuple[BenchResult, ...]
    comparison: Comparison
    parity: float
    device: str
    built: str
    seconds: float
    controls: tuple[Control, ...] = ()
    fidelity: tuple[Judged, ...] = ()
    integer: IntegerGraph | None = None
    gpu: tuple[GpuState, ...] = ()
    problems: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    manifests: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        """``PASSED`` or ``FAILED``."""
        return "FAILED" if self.problems else "PASSED"

    @property
    def quantized(self) -> tuple[Engine, ...]:
        """The engines of the targets, without their baselines."""
        return tuple(engine for engine in self.engines if engine.precision == "int8")

    @property
    def targets(self) -> tuple[str, ...]:
        """What was built for, in the recipe's order."""
        return tuple(engine.target for engine in self.quantized)

    @property
    def table(self) -> ScaleTable:
        """The scale table the engines were made with."""
        return self.tables[self.recipe["calibration"]["method"]]

    @property
    def audio_table(self) -> ScaleTable | None:
        """The scale table from real audio, beside that of the engines; None when the controls were not run."""
        return self.tables.get("audio") if len(self.tables) > 1 else None
