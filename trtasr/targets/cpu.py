"""ONNX Runtime on the CPU: every layer with an integer form is INT8 (`graph.cpu_qdq`), with unsigned activations."""

from trtasr.graph.cpu_qdq import quantize_for_cpu
from trtasr.graph.cpu_rules import cpu_rules
from trtasr.targets.rules import REASONS
from trtasr.targets.target import Target

CPU = Target(
    "cpu",
    label="int8 cpu",
    graph="cpu/{}.int8.onnx".format,
    quantize=quantize_for_cpu,
    graph_rules=cpu_rules,
    layered=False,
    reasons=REASONS
    | {
        "operator": "no integer form",
        "swish": "depthwise, before Swish: its result goes on in floating point",
        "gelu": "before GELU: its result goes on in floating point",
    },
)
