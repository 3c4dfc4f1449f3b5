"""TensorRT for RTX on GPUs newer than Turing: they have INT8 convolutions, so the Q/DQ graph stays as it is."""

from trtasr.targets.target import Target, alignment, unasked, waveform


def rtx(capability: str) -> Target:
    """Target of a compute capability of 8.0 or more, named for it.

    Args:
        capability: ``sm86``, ``sm89`` or ``sm120``.
    """
    return Target(
        f"rtx-{capability}",
        rules=(waveform, unasked, alignment),
        passes=("qdq", "halve", "half_caches"),
        capability=capability,
    )
