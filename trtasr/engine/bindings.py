"""TensorRT's Python types, for the type checker alone: `make check-tensorrt` generates them from the real bindings.

Without the generated stubs, and when the program runs, every one of them is `Any`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trt_facade import Builder, BuilderConfig, Logger, OptimizationProfile, Trt
else:
    Builder = BuilderConfig = Logger = OptimizationProfile = Trt = Any

__all__ = ["Builder", "BuilderConfig", "Logger", "OptimizationProfile", "Trt"]
