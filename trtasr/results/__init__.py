"""What was built and measured: plain values that the table, JSON, the bundle and the report read."""

from trtasr.results.ablation import Ablation, Cell, Scored, Setting, cell_of
from trtasr.results.comparison import Comparison, Control, TensorComparison
from trtasr.results.engine import Built, Counts, Engine, Form, LayerRow
from trtasr.results.fidelity import Fidelity, Judged
from trtasr.results.forms import CHAINS, PLAIN, counts_of, is_less
from trtasr.results.integer import (
    Accumulator,
    Difference,
    IntegerComparison,
    IntegerGraph,
    IntegerRow,
    LayerSteps,
    Proof,
)
from trtasr.results.kernels import kernel_counts, kernel_kind
from trtasr.results.plain import plain
from trtasr.results.record import Record
from trtasr.results.roofline import Bound, Roofline, Traffic
from trtasr.results.speech import PairedDifference, Prepared, Score, Utterance, WerResult
from trtasr.results.speed import BenchResult, GpuState, Latency, Measured, speedup

__all__ = [
    "CHAINS",
    "PLAIN",
    "Ablation",
    "Accumulator",
    "BenchResult",
    "Bound",
    "Built",
    "Cell",
    "Comparison",
    "Control",
    "Counts",
    "Difference",
    "Engine",
    "Fidelity",
    "Form",
    "GpuState",
    "IntegerComparison",
    "IntegerGraph",
    "IntegerRow",
    "Judged",
    "Latency",
    "LayerRow",
    "LayerSteps",
    "Measured",
    "PairedDifference",
    "Prepared",
    "Proof",
    "Record",
    "Roofline",
    "Score",
    "Scored",
    "Setting",
    "TensorComparison",
    "Traffic",
    "Utterance",
    "WerResult",
    "cell_of",
    "counts_of",
    "is_less",
    "kernel_counts",
    "kernel_kind",
    "plain",
    "speedup",
]
