"""What a target is: named rules that keep nodes out of INT8, and the passes that lower the graph."""

from collections.abc import Callable
from dataclasses import dataclass

from trtasr.values import Site

Rule = Callable[[Site], str | None]


@dataclass(frozen=True)
class Target:
    """A place to run an engine.

    Attributes:
        name: as in recipes and bundles.
        rules: asked in order about each site; the first that answers with its name keeps the site out of INT8.
        passes: names of the graph passes, in order, that turn the FP32 graph into the target's graph.
        capability: of the GPU the plan is for, as TensorRT for RTX spells it; empty: the machine that builds it.
    """

    name: str
    rules: tuple[Rule, ...]
    passes: tuple[str, ...]
    capability: str = ""


REASONS = {
    "depthwise": "no INT8 kernel on sm_75",
    "alignment": "channels not a multiple of 16",
    "kernel": "TensorRT for RTX has no INT8 convolution on sm_75; over two axes, or too few channels to unfold",
    "exclude": "the recipe says so",
    "unasked": "depthwise; --quantize-depthwise asks for them",
    "operator": "no integer form",
    "swish": "depthwise, before Swish: its result goes on in floating point",
    "waveform": "reads the waveform itself",
    "gelu": "before GELU: its result goes on in floating point",
    "activations": "product of two activations: no weight",
    "budget": "left in floating point to keep the budget (--min-sqnr, --max-wer-drop)",
    "fallback": "the builder has no INT8 kernel for it",
}


def depthwise(site: Site) -> str | None:
    """Grouped convolutions: no INT8 kernel on sm_75 (TensorRT issues 4060, 4529)."""
    return "depthwise" if site.groups > 1 else None


def waveform(site: Site) -> str | None:
    """Convolutions over one channel of sound: 8 bits do not hold quiet speech beside loud speech."""
    return "waveform" if site.in_channels == 1 and len(site.kernel) == 1 else None


def unasked(site: Site) -> str | None:
    """Grouped convolutions on GPUs that have INT8 kernels for them, which are seldom faster: quantized when asked."""
    return "unasked" if site.groups > 1 else None


def alignment(site: Site) -> str | None:
    """INT8 tensor-core kernels of Turing need output channels in multiples of 16, and at least 16 input channels."""
    return "alignment" if site.out_channels % 16 or site.in_channels < 16 else None


def kernel(unfolded: int) -> Rule:
    """Convolutions that TensorRT for RTX, which has no INT8 convolution on sm_75, is not given as matrix products.

    A kernel over two axes is not unfolded; one over time is where it has at least `unfolded` output channels.
    """

    def rule(site: Site) -> str | None:
        wide = any(size > 1 for size in site.kernel)
        if len(site.kernel) > 1:
            return "kernel" if wide or any(stride > 1 for stride in site.stride) else None
        return "kernel" if wide and site.out_channels < unfolded else None

    return rule
