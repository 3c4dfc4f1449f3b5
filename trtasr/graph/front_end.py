"""The convolutions between a network's input and its first linear layer, and which of them stay in floating point."""

import onnx

from trtasr.graph.qdq import Rule
from trtasr.graph.tensors import sites
from trtasr.values import Site

TIME = 1  # axes of a kernel over time


def waveform_rules(model: onnx.ModelProto) -> tuple[Rule, ...]:
    """Rule ``waveform``: what `waveform_front_end` finds stays in floating point."""
    found = waveform_front_end(model)
    return (lambda site: "waveform" if site.node in found else None,)


def position_rules(model: onnx.ModelProto) -> tuple[Rule, ...]:
    """Rules ``waveform`` and ``stem``, for networks whose other layers have a scale per position."""
    found = stem(model)
    return (*waveform_rules(model), lambda site: "stem" if site.node in found else None)


def waveform_front_end(model: onnx.ModelProto) -> set[str]:
    """Names of the convolutions that stand between a waveform and the first linear layer behind it.

    They begin with one over a single channel of sound, which alone is a filter bank: what those behind it read is as
    loud or as quiet as the recording, over four decades in one tensor, before any layer norm has evened it out. Eight
    bits with one scale do not hold quiet speech beside loud speech. A network that is given features has none.
    """
    found, _ = before_linear(model)
    sound = found and found[0].in_channels == 1 and len(found[0].kernel) == TIME
    return {site.node for site in found} if sound else set()


def stem(model: onnx.ModelProto) -> set[str]:
    """Names of the convolutions over several moments in front of the first linear layer; none without one.

    They have one scale per tensor where all behind them have one per position, and read features before any layer norm:
    speech exceeds there what calibration has shown. The second one of Whisper tiny.en has 15 % of the noise on speech
    for 4 % of the work.
    """
    found, linear = before_linear(model)
    return {site.node for site in found if len(site.kernel) == TIME and max(site.kernel) > 1} if linear else set()


def before_linear(model: onnx.ModelProto) -> tuple[list[Site], bool]:
    """Convolutions between a network's inputs and its first linear layer, in order, and whether it has one."""
    described, found = {site.node: site for site in sites(model)}, list[Site]()
    reached = {item.name for item in model.graph.input}
    for node in model.graph.node:
        if not reached.intersection(node.input):
            continue
        site = described.get(node.name)
        if site is not None and site.op != "Conv":
            return found, True
        if site is not None:
            found.append(site)
        reached.update(node.output)
    return found, False
