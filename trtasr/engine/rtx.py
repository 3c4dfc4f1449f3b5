"""What only TensorRT for RTX has: engines for GPUs that are not here."""

from collections.abc import Sequence

from trtasr.engine.bindings import BuilderConfig, Trt


def use_capabilities(trt: Trt, config: BuilderConfig, names: Sequence[str]) -> None:
    """Builds for the named compute capabilities, for instance ``SM75``, instead of the default (SM80)."""
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    config.max_aux_streams = 0  # the order of layers in the log is then the order of execution
