"""ONNX Runtime on the CPU: every layer with an integer form is INT8, with unsigned activations.

Their scales are static (`graph.cpu_qdq`), or computed at run time for every position (`graph.cpu_dynamic`).
"""

from trtasr.graph.cpu_dynamic import quantize_positions_for_cpu
from trtasr.graph.cpu_qdq import quantize_for_cpu
from trtasr.graph.cpu_rules import cpu_rules, dynamic_rules
from trtasr.targets.rules import REASONS
from trtasr.targets.target import NEEDED, Target

CPU = Target(
    "cpu",
    label="int8 cpu",
    graph="cpu/{}.int8.onnx".format,
    quantize=quantize_for_cpu,
    graph_rules=cpu_rules,
    dynamic=quantize_positions_for_cpu,
    dynamic_rules=dynamic_rules,
    dynamic_when=NEEDED,
    layered=False,
    reasons=REASONS
    | {
        "operator": "no integer form",
        "depthwise": "one input channel per output: no matrix product",
        "swish": "depthwise, before Swish: its result goes on in floating point",
        "gelu": "before GELU: its result goes on in floating point",
    },
)
