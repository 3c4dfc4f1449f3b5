"""ONNX Runtime on the CPU: every layer with an integer form is INT8 (`graph.cpu_qdq`), with unsigned activations."""

from trtasr.targets.target import Target

CPU = Target("cpu", rules=(), passes=("cpu_qdq",))
