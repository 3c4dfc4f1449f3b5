"""Values of the roofline estimate: what layers compute and move, and the bounds on their time that follow."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Traffic:
    """What one weighted layer computes and moves at one input shape.

    Attributes:
        node: ONNX node name.
        macs: multiply-accumulates.
        inputs: activation elements read; outputs: written; weights: weight elements read.
        depthwise: True for a grouped convolution.
        readers: the weighted nodes that read the output, if nobody else does (through ReLU and masks at most); else
            empty, as before a residual add.
    """

    node: str
    macs: int
    inputs: int
    outputs: int
    weights: int
    depthwise: bool = False
    readers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bound:
    """Lower bound of one layer's time.

    Attributes:
        node: ONNX node name.
        precision: ``fp32``, ``fp16`` or ``int8``: of its operands.
        compute_ms: by arithmetic; memory_ms: by traffic.
        depthwise: True for a grouped convolution.
    """

    node: str
    precision: str
    compute_ms: float
    memory_ms: float
    depthwise: bool = False

    @property
    def milliseconds(self) -> float:
        """The larger of the two bounds."""
        return max(self.compute_ms, self.memory_ms)

    @property
    def memory_bound(self) -> bool:
        """True when traffic takes longer than arithmetic."""
        return self.memory_ms > self.compute_ms


@dataclass(frozen=True)
class Roofline:
    """Estimates of one network at one input shape.

    Attributes:
        batch: utterances; seconds: of audio each.
        fp32, fp16: every layer in that precision.
        int8: layers the T4 runs in INT8, the others in FP16.
        int8_depthwise: as `int8`, had the T4 an INT8 kernel for depthwise convolutions.
        tokens: assumed to be generated for each utterance, one run after the other; 0 where none are.
    """

    batch: int
    seconds: float
    fp32: tuple[Bound, ...]
    fp16: tuple[Bound, ...]
    int8: tuple[Bound, ...]
    int8_depthwise: tuple[Bound, ...]
    tokens: int = 0

    @property
    def totals_ms(self) -> dict[str, float]:
        """Precision -> sum of its layers' bounds in milliseconds."""
        columns = {"fp32": self.fp32, "fp16": self.fp16, "int8": self.int8, "int8_depthwise": self.int8_depthwise}
        return {name: sum(item.milliseconds for item in bounds) for name, bounds in columns.items()}
