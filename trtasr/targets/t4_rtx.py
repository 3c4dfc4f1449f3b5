"""TensorRT for RTX, compute capability 7.5, built anywhere.

It has no INT8 convolutions on sm_75, but INT8 matrix products: pointwise convolutions become MatMul.
"""

from trtasr.targets.target import Target, depthwise, kernel

T4_RTX = Target("t4-rtx", rules=(depthwise, kernel), passes=("qdq", "pointwise", "halve"), capability="sm75")
