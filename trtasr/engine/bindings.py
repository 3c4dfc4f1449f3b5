"""TensorRT's Python types, for the type checker alone: `make check-tensorrt` generates them from the real bindings.

Without the generated stubs, and when the program runs, every one of them is `Any`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trt_facade import (
        Builder,
        BuilderConfig,
        Context,
        Engine,
        Layer,
        Logger,
        Network,
        OptimizationProfile,
        TimingCache,
        Trt,
    )
else:
    Builder = BuilderConfig = Context = Engine = Layer = Any
    Logger = Network = OptimizationProfile = TimingCache = Trt = Any

__all__ = [
    "Builder",
    "BuilderConfig",
    "Context",
    "Engine",
    "Layer",
    "Logger",
    "Network",
    "OptimizationProfile",
    "TimingCache",
    "Trt",
]
