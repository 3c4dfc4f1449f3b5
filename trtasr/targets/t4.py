"""TensorRT on a Tesla T4 (sm_75), built on the T4 host."""

from trtasr.targets.target import Target, alignment, depthwise

T4 = Target("t4", rules=(depthwise, alignment), passes=("qdq", "halve"))
