"""Integer-only inference: every layer with a weight reads 8-bit codes, whatever a GPU has kernels for."""

from trtasr.targets.target import Target

INTEGER = Target("integer", rules=(), passes=("qdq", "integer"))
