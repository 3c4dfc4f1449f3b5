"""What was built and measured: plain values that the table, JSON, the bundle and the report read."""

from trtasr.results.comparison import Comparison, TensorComparison
from trtasr.results.engine import Engine, LayerRow
from trtasr.results.integer import Accumulator, Difference, IntegerComparison, IntegerRow, LayerSteps, Proof
from trtasr.results.record import SIDECAR
from trtasr.results.roofline import Bound, Roofline, Traffic
from trtasr.results.speech import Prepared, Utterance, WerResult
from trtasr.results.speed import BenchResult, Latency

__all__ = [
    "SIDECAR",
    "Accumulator",
    "BenchResult",
    "Bound",
    "Comparison",
    "Difference",
    "Engine",
    "IntegerComparison",
    "IntegerRow",
    "Latency",
    "LayerRow",
    "LayerSteps",
    "Prepared",
    "Proof",
    "Roofline",
    "TensorComparison",
    "Traffic",
    "Utterance",
    "WerResult",
]
