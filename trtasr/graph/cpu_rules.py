"""Which layers have an integer form on the CPU."""

import onnx
from onnx import NodeProto

from trtasr.graph.edit import consumers
from trtasr.graph.front_end import waveform_rules
from trtasr.graph.qdq import Rule
from trtasr.graph.tensors import attribute
from trtasr.values import Site


def cpu_rules(model: onnx.ModelProto) -> tuple[Rule, ...]:
    """What keeps a site of this graph out of INT8 on the CPU.

    Rule ``waveform`` comes first (`trtasr.graph.front_end`). Rule ``swish``: a depthwise convolution whose result goes
    on in floating point (Conformer's, before Swish), as its codes would be converted back at once. Rule ``gelu``:
    likewise a convolution before GELU.
    """
    swish, gelu = floating_depthwise(model), before_gelu(model)
    return (
        *waveform_rules(model),
        integer_form,
        lambda site: "swish" if site.node in swish else "gelu" if site.node in gelu else None,
    )


def dynamic_rules(model: onnx.ModelProto) -> tuple[Rule, ...]:
    """What keeps a site out of INT8 on the CPU where every position has a scale of its own.

    Products give floating point there, so that nothing in front of a Swish or GELU is rounded. Rule ``depthwise``: a
    convolution with one input channel per output is no matrix product. Rule ``operator``: neither is one in groups.
    """
    return (*waveform_rules(model), integer_form, one_channel, grouped)


def one_channel(site: Site) -> str | None:
    """Convolutions whose outputs read one input channel each: depthwise ones, and the first over one feature map."""
    return "depthwise" if site.op == "Conv" and site.in_channels == site.groups else None


def grouped(site: Site) -> str | None:
    """Convolutions in groups of several channels."""
    return "operator" if site.groups > 1 else None


def integer_form(site: Site) -> str | None:
    """Rule ``operator``: linear layers and convolutions over one or two axes have an integer form here."""
    return None if site.op == "MatMul" or (site.op == "Conv" and len(site.kernel) <= 2) else "operator"


def floating_depthwise(model: onnx.ModelProto) -> set[str]:
    """Names of depthwise convolutions whose result something else than a convolution reads."""
    readers = {name: [node for node in nodes if node.op_type != "Shape"] for name, nodes in consumers(model).items()}
    found = set()
    for node in model.graph.node:
        if node.op_type == "Conv" and attribute(node, "group", 1) > 1:
            name = node.output[0]
            while [reader.op_type for reader in readers.get(name, [])] == ["Mul"]:  # by a mask
                name = readers[name][0].output[0]
            if any(reader.op_type != "Conv" for reader in readers.get(name, [])):
                found.add(node.name)
    return found


def before_gelu(model: onnx.ModelProto) -> set[str]:
    """Names of convolutions wider than one frame that only a GELU reads.

    An integer convolution rounds its result to 8 bits, which the GELU would read back as float at once: on a Whisper
    that costs 5 dB, and such convolutions are a tenth of its work.
    """
    readers = consumers(model)
    return {
        node.name
        for node in model.graph.node
        if node.op_type == "Conv"
        and not framewise(node)
        and [reader.op_type for reader in readers.get(node.output[0], [])] == ["Gelu"]
    }


def framewise(node: NodeProto) -> bool:
    """Whether each output frame reads one input frame."""
    ones = all(size == 1 for size in attribute(node, "kernel_shape", [0]))
    return ones and not any(attribute(node, "pads", [0]))
