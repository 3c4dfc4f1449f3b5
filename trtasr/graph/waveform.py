"""The convolutions of a front-end that reads a waveform: what a network computes before it has features."""

import onnx

from trtasr.graph.edit import consumers
from trtasr.graph.qdq import Rule
from trtasr.graph.tensors import sites


def waveform_rules(model: onnx.ModelProto) -> tuple[Rule, ...]:
    """Rule ``waveform``: what `waveform_front_end` finds stays in floating point."""
    found = waveform_front_end(model)
    return (lambda site: "waveform" if site.node in found else None,)


def waveform_front_end(model: onnx.ModelProto) -> set[str]:
    """Names of the convolutions that stand between a waveform and the first linear layer behind it.

    They begin with one over a single channel of sound, which alone is a filter bank: what those behind it read is as
    loud or as quiet as the recording, over four decades in one tensor, before any layer norm has evened it out. Eight
    bits with one scale do not hold quiet speech beside loud speech. A network that is given features has none.
    """
    described, readers = {site.node: site for site in sites(model)}, consumers(model)
    found: set[str] = set()
    behind: set[str] = set()  # tensors that a waveform has reached
    for node in model.graph.node:
        site = described.get(node.name)
        first = site is not None and site.op == "Conv" and site.in_channels == 1 and len(site.kernel) == 1
        if not (first or behind.intersection(node.input)):
            continue
        if site is not None and site.op != "Conv":
            break
        if site is not None:
            found.add(node.name)
        behind.update(name for name in node.output if name in readers)
    return found
