"""Values of integer-only inference: the proof that a graph computes in integers only, and how it compares."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Accumulator:
    """The sums of one integer convolution or matrix product.

    Attributes:
        node: ONNX node name.
        op: ``ConvInteger``, ``MatMulInteger`` or ``MatMul``.
        products: products per sum.
        bound: largest possible |sum|; a constant that the next node adds is included.
        capacity: bits that the type has for magnitudes: 31 of an int32, 63 of an int64.
    """

    node: str
    op: str
    products: int
    bound: int
    capacity: int

    @property
    def bits(self) -> int:
        """Bits of the largest possible magnitude."""
        return self.bound.bit_length()

    @property
    def headroom(self) -> int:
        """Bits that no input can reach."""
        return self.capacity - self.bits


@dataclass(frozen=True)
class Proof:
    """What is known of every tensor between the quantized input and the outputs, local functions inlined.

    Attributes:
        tensors: number of tensors on the path.
        floats: names of those that are not integer, and of such inputs and weights that they are computed from; empty
            when proved.
        boundary: names of the QuantizeLinear nodes that read graph inputs.
        operators: operator -> number of nodes, sorted by name.
        accumulators: in graph order.
        widest: bits of the largest |value| of any other int32 or int64 tensor.
        longest: premise of the bounds: no dynamic dimension is larger.
    """

    tensors: int
    floats: tuple[str, ...]
    boundary: tuple[str, ...]
    operators: Mapping[str, int]
    accumulators: tuple[Accumulator, ...]
    widest: int
    longest: int = 1

    @property
    def integer_only(self) -> bool:
        """True when no tensor on the path is of another type."""
        return not self.floats


@dataclass(frozen=True)
class LayerSteps:
    """What one weighted layer reads: its 8-bit codes in the integer graph against those of the Q/DQ graph.

    Attributes:
        tensor: name in the FP32 graph.
        qdq_sqnr_db: of the Q/DQ graph's codes, times their scale, against the FP32 tensor, over all utterances.
        integer_sqnr_db: likewise of the integer graph's codes.
        codes: compared codes.
        differing: codes that differ when each graph runs by itself, so that differences add up from layer to layer.
        largest: largest such difference in steps of the scale.
        own_differing: codes that differ when the layers before were given the Q/DQ graph's codes: what this stretch
            of the graph adds by itself.
        own_largest: largest such difference.
    """

    tensor: str
    qdq_sqnr_db: float
    integer_sqnr_db: float
    codes: int
    differing: int
    largest: int
    own_differing: int
    own_largest: int


@dataclass(frozen=True)
class IntegerRow:
    """One graph in the comparison.

    Attributes:
        graph: label.
        wer: in percent; NaN without transcripts.
        delta: WER minus that of the FP32 graph, in points.
        interval: 95 % interval of that difference, by bootstrap over utterances; None for FP32 and without transcripts.
        sqnr_db: of log-probabilities against FP32.
        token_agreement: share of frames with FP32's token, 0..1.
    """

    graph: str
    wer: float
    delta: float
    interval: tuple[float, float] | None
    sqnr_db: float
    token_agreement: float


@dataclass(frozen=True)
class Difference:
    """WER of the integer-only graph against that of another one.

    Attributes:
        graph: label of the other.
        points: WER of integer-only minus its WER.
        interval: 95 % interval, by bootstrap over utterances.
    """

    graph: str
    points: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class IntegerComparison:
    """FP32, Q/DQ and integer-only, side by side.

    Attributes:
        rows: FP32, the bundle's Q/DQ graph, the Q/DQ graph with every layer in INT8, integer-only.
        over: integer-only against each of the two Q/DQ graphs; empty without transcripts.
        layers: in graph order.
        elements: logits that the executor and ONNX Runtime both computed.
        unequal: how many of them are not the same integer.
        utterances: compared; words: reference words in them; frames: output frames.
        measure: ``WER``, or ``CER`` for languages without spaces between words: what rows and differences hold.
        normalizer: of the transcripts; empty without them.
    """

    rows: tuple[IntegerRow, ...]
    over: tuple[Difference, ...]
    layers: tuple[LayerSteps, ...]
    elements: int
    unequal: int
    utterances: int
    words: int
    frames: int
    measure: str
    normalizer: str


@dataclass(frozen=True)
class IntegerGraph:
    """An integer-only graph in a bundle.

    Attributes:
        graph: its file; reference: the Q/DQ graph with the same layers in INT8.
        size_bytes: of the graph.
        proof: that it computes in integers and overflows nowhere.
    """

    graph: str
    reference: str
    size_bytes: int
    proof: Proof

    @property
    def sum_bits(self) -> int:
        """Bits of the largest possible sum of products in an int32."""
        return max((item.bits for item in self.proof.accumulators if item.capacity < 32), default=0)

    def to_json(self) -> dict[str, Any]:
        """For the sidecar; the proof can be had again with `trtasr inspect --integer`."""
        return {
            "graph": self.graph,
            "reference": self.reference,
            "size_bytes": self.size_bytes,
            "tensors": self.proof.tensors,
            "float_tensors": len(self.proof.floats),
            "int32_sum_bits": self.sum_bits,
        }
