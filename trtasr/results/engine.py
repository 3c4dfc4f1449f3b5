"""What was built: engines and their layers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
class Engine:
    """A built engine on disk.

    Attributes:
        target: ``t4-rtx``, ``cpu`` or ``fp32`` (the reference).
        path: plan or ONNX file, relative to the bundle.
        size_bytes: of that file.
        layers: the layer table; empty where a target has none.
        details: builder facts (capability, memory, build seconds); JSON types only.
    """

    target: str
    path: str
    size_bytes: int
    layers: tuple[LayerRow, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def paths(self) -> tuple[str, ...]:
        """Of all its files."""
        return (
            self.path,
            *(part["path"] for part in self.details.values() if isinstance(part, dict) and "path" in part),
        )
