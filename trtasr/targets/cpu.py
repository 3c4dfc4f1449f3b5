"""ONNX Runtime on the CPU: everything is INT8 but the logits, with unsigned activations."""

from trtasr.targets.target import Target

CPU = Target("cpu", rules=(), passes=("cpu_qdq",))
