"""TensorRT on a Tesla T4 (sm_75), built on the T4 host."""

from trtasr.targets.target import Target, alignment, depthwise, waveform

T4 = Target("t4", rules=(waveform, depthwise, alignment), passes=("qdq", "halve", "half_caches"))
