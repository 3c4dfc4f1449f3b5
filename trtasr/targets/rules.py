"""Rules that several targets share: what keeps a site out of INT8, and why, in words."""

from trtasr.values import Site

REASONS = {
    "exclude": "the recipe says so",
    "activations": "product of two activations: no weight",
    "budget": "left in floating point to keep the budget (--min-sqnr, --max-wer-drop)",
    "fidelity": "INT8 costs too much there (quantization.fidelity)",
    "fallback": "the builder has no INT8 kernel for it",
    "waveform": "between the waveform and the first linear layer",
    "stem": "in front of the first linear layer: over several positions, so its scale would stay static",
    "alignment": "channels not a multiple of 16",
}
TURING_REASONS = REASONS | {"depthwise": "no INT8 kernel on sm_75"}


def depthwise(site: Site) -> str | None:
    """Grouped convolutions: no INT8 kernel on sm_75 (TensorRT issues 4060, 4529)."""
    return "depthwise" if site.groups > 1 else None


def alignment(site: Site) -> str | None:
    """INT8 tensor-core kernels of Turing need output channels in multiples of 16, and at least 16 input channels."""
    return "alignment" if site.out_channels % 16 or site.in_channels < 16 else None
